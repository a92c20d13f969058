"""What PostgreSQL keeps of rows that are deleted: in its files, and in what its planner knows.

VACUUM frees the space of a dead row and overwrites it only by chance: the bytes of the last row
of a page stay until another row is put there. So tables of Lethe's own are written anew.
ANALYZE keeps values of rows for the planner, a person's key among them, and shows them in
`pg_stats` until it is run again.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import psycopg
import sqlalchemy as sa

from lethe.core.errors import Busy, SourceUnavailable

_PATIENCE_S = 60


def write_anew(url: str, tables: Sequence[str]) -> None:
    """Writes whole tables into new files, without deleted rows; nothing where it is SQLite.

    Other processes wait meanwhile: for tables that are Lethe's alone.

    Raises:
        Busy: somebody reads an older state, which needs the deleted rows; or holds a table.
        SourceUnavailable: the database does not answer, or refuses.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return
    engine = sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        poolclass=sa.NullPool,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
    )
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SET lock_timeout = '{_PATIENCE_S}s'")
            for table in tables:
                connection.exec_driver_sql(f"VACUUM {table}")
                dead = sa.func.pg_stat_get_dead_tuples(sa.func.to_regclass(table))
                if connection.execute(sa.select(dead)).scalar():
                    raise Busy(
                        f"Deleted rows of {table} still lie in the database's files: somebody "
                        "reads an older state of it. The next run goes on."
                    )
                connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {table}")
            connection.exec_driver_sql("VACUUM pg_statistic")  # a warning where it may not
    except sa.exc.DBAPIError as error:
        state = getattr(error.orig, "sqlstate", "") or ""
        if state == "55P03":
            raise Busy(f"Somebody held {' or '.join(tables)} for {_PATIENCE_S} s.") from None
        raise SourceUnavailable(
            f"Deleted rows of {', '.join(tables)} still lie in the database's files: it does not "
            f"answer, or the role may not vacuum ({state or type(error.orig).__name__})."
        ) from None
    finally:
        engine.dispose()


def forget_statistics_if_empty(connection: sa.Connection, table: str) -> None:
    """Takes from the planner what it knows of a table that has no rows any more.

    ANALYZE leaves the statistics of an empty table as they were. Giving a column the type that it
    has ends them, and rewrites nothing. Where that may not be (a view stands on the column, the
    role does not own the table), they stay, and the fresh look finds them.

    Args:
        connection: in autocommit.
    """
    raw: Any = connection.connection.driver_connection
    name = connection.dialect.identifier_preparer.quote_identifier(table)
    known = raw.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod) "
        "FROM pg_attribute a JOIN pg_stats s ON s.attname = a.attname "
        "AND s.tablename = %s AND s.schemaname = current_schema() "
        "WHERE a.attrelid = to_regclass(%s)",
        (table, name),
    ).fetchall()
    if not known or raw.execute(f"SELECT EXISTS (SELECT FROM {name})").fetchone()[0]:
        return
    for column, kind in known:
        quoted = connection.dialect.identifier_preparer.quote_identifier(column)
        with suppress(psycopg.errors.Error), raw.transaction():
            raw.execute(f"SET LOCAL lock_timeout = '{_PATIENCE_S}s'")
            raw.execute(f"ALTER TABLE {name} ALTER COLUMN {quoted} TYPE {kind}")


_KNOWN = sa.text(
    "SELECT tablename, attname FROM pg_stats WHERE schemaname = current_schema() AND "
    "(most_common_vals::text::text[] && :values OR histogram_bounds::text::text[] && :values)"
).bindparams(sa.bindparam("values", type_=sa.ARRAY(sa.Text())))


def in_statistics(
    connection: sa.Connection, columns: Iterable[tuple[str, str]], values: Iterable[str]
) -> list[tuple[str, str]]:
    """Of these (table, column), those of which the planner knows one of the values.

    As far as the role may read them: what it may not, `pg_stats` does not show.
    """
    found = connection.execute(_KNOWN, {"values": list(values)})
    among = set(columns)
    return [place for table, column in found if (place := (table, column)) in among]
