"""What PostgreSQL keeps of rows that are deleted in its files.

VACUUM frees the space of a dead row and overwrites it only by chance: the bytes of the last row
of a page stay until another row is put there. So tables of Lethe's own are written anew.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from lethe.core.errors import Busy, SourceUnavailable
from lethe.core.silence import give_up_when_silent
from lethe.core.waiting import CONNECT_S, PATIENCE_S, waiting


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
        connect_args={"connect_timeout": CONNECT_S},
    )
    give_up_when_silent(engine, f"the database of {' and '.join(tables)}")
    try:
        asked = waiting(f"{' and '.join(tables)} to be written anew", at_most_s=PATIENCE_S)
        with asked, engine.connect() as connection:
            connection.exec_driver_sql(f"SET lock_timeout = '{PATIENCE_S}s'")
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
            raise Busy(f"Somebody held {' or '.join(tables)} for {PATIENCE_S} s.") from None
        raise SourceUnavailable(
            f"Deleted rows of {', '.join(tables)} still lie in the database's files: it does not "
            f"answer, or the role may not vacuum ({state or type(error.orig).__name__})."
        ) from None
    finally:
        engine.dispose()
