"""The one way to connect to a source: for whoever reads it, looks for a person, or erases.

What `source.url` says (`options`, with a `search_path` in it, as well) holds for all of them, so
what is read is what is erased from, and what is looked at before a receipt is signed.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.pool import NullPool

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused, SourceUnavailable
from lethe.core.times import in_utc

WAIT_SECONDS = 10  # for a connection, and for others' locks


@dataclass(frozen=True)
class SourcePlace:
    """Where a connection's unqualified table names lead, and as whom; no credential."""

    database: str
    schemas: tuple[str, ...]
    user: str

    def __str__(self) -> str:
        schemas = ", ".join(self.schemas) or "none"
        return f"database {self.database}, schema {schemas}, user {self.user}"

    def to_data(self) -> dict[str, Any]:
        return {"database": self.database, "schemas": list(self.schemas), "user": self.user}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        return cls(data["database"], tuple(data["schemas"]), data["user"])


def place_of(connection: sa.Connection) -> SourcePlace | None:
    """Where a connection stands; None but for PostgreSQL: a file is what its path names."""
    if connection.dialect.name != "postgresql":
        return None
    found = connection.exec_driver_sql(
        "SELECT current_database()::text, current_schemas(false)::text[], current_user::text"
    ).one()
    return SourcePlace(found[0], tuple(found[1]), found[2])


def refuse_other_place(here: SourcePlace | None, there: SourcePlace | None, *, what: str) -> None:
    """Compares two connections that must stand at one place.

    Raises:
        SourceUnavailable: they do not; both places are named.
    """
    if here is not None and there is not None and here != there:
        raise SourceUnavailable(
            f"The source leads to two places: it is read from {here}, and {what} {there}. Name "
            "one schema, role and database for all of Lethe (options=-csearch_path%3DSCHEMA in "
            "source.url); nothing was changed."
        )


def check_one_place(params: Params) -> SourcePlace | None:
    """Where reading and erasing lead, which must be one place.

    Raises:
        SourceUnavailable: they lead to two, or the source does not answer.
    """
    if not _is_postgresql(params):
        return None
    here, there = (_place(params, writing=writing) for writing in (False, True))
    refuse_other_place(here, there, what="is erased from")
    return here


def reading_place(params: Params) -> SourcePlace | None:
    """Where the pipeline reads people from."""
    return _place(params, writing=False) if _is_postgresql(params) else None


def _place(params: Params, *, writing: bool) -> SourcePlace | None:
    engine = source_engine(params, writing=writing)
    try:
        with engine.connect() as connection:
            return place_of(connection)
    except exc.DBAPIError as error:
        raise SourceUnavailable(
            f"The source does not answer ({type(error.orig).__name__}). Check source.url and that "
            "the database is up."
        ) from None
    finally:
        engine.dispose()


def _is_postgresql(params: Params) -> bool:
    return params.address(params.source.url).startswith("postgres")


def source_engine(params: Params, *, writing: bool, path: Path | None = None) -> sa.Engine:
    """An engine for `source.url`.

    Guarantees: without `writing` the database itself refuses to change anything (PostgreSQL:
        REPEATABLE READ READ ONLY; SQLite: `mode=ro`), and all statements of a transaction see
        one state. A timestamp without a zone is of `source.time_zone`; others' locks are waited
        for 10 s.

    Args:
        path: a SQLite file in place of `source.url`: a folder's private copy.

    Raises:
        SourceUnavailable: no such file, URL or driver; never shows credentials.
        ErasureRefused: `writing` to a database that erasing does not know.
    """
    if path is not None:
        return _sqlite(path, writing=writing)
    try:
        url = sa.make_url(params.address(params.source.url))
        kind = url.get_backend_name()
        if kind == "sqlite":
            return _sqlite(Path(url.database or ":memory:"), writing=writing)
        if kind in ("postgresql", "postgres"):
            return _postgresql(url, writing=writing, zone=params.source.time_zone)
        if writing:
            raise ErasureRefused(
                f"Erasing from {kind} is not known. Use SQLite, PostgreSQL or a folder of CSV or "
                "Parquet files."
            )
        known = kind in ("mysql", "mariadb")
        engine = sa.create_engine(
            url,
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={"connect_timeout": WAIT_SECONDS} if known else {},
        )
        return engine.execution_options(isolation_level="REPEATABLE READ") if known else engine
    except (exc.ArgumentError, ValueError):
        raise SourceUnavailable(
            "source.url is no SQLAlchemy URL, csv:FOLDER or parquet:FOLDER. Correct it."
        ) from None
    except (exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise SourceUnavailable(
            f"No driver is installed for source.url ({type(error).__name__}). Install it, or use "
            "sqlite:/// or postgresql://."
        ) from None


def _postgresql(url: sa.URL, *, writing: bool, zone: str) -> sa.Engine:
    """No `options` of ours: they would take the place of those that the URL gives."""
    timeout = {} if "connect_timeout" in url.query else {"connect_timeout": WAIT_SECONDS}
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        hide_parameters=True,
        # writing: after a lock, what its holder wrote must be seen
        isolation_level="READ COMMITTED" if writing else "REPEATABLE READ",
        connect_args=timeout,
    )
    if not writing:
        engine = engine.execution_options(postgresql_readonly=True)
    _on_begin(
        engine,
        f"SET LOCAL TIME ZONE '{zone}'",
        f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'",
    )
    return engine


def _sqlite(path: Path, *, writing: bool) -> sa.Engine:
    """Foreign keys are on, and what is deleted is overwritten."""
    if not path.is_file():
        raise SourceUnavailable(
            f"The source file {path} does not exist. Build it with `lethe sample`, or correct "
            "source.url."
        )
    uri = f"file:{quote(str(path.absolute()))}?mode={'rw' if writing else 'ro'}"

    def connect() -> sqlite3.Connection:
        # isolation_level None: the driver opens no transaction behind ours
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=WAIT_SECONDS)
        connection.create_function("lethe_instant", 3, in_utc, deterministic=True)
        if writing:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")
        return connection

    engine = sa.create_engine(
        "sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True
    )
    _on_begin(engine, "BEGIN IMMEDIATE" if writing else "BEGIN")
    return engine


def _on_begin(engine: sa.Engine, *statements: str) -> None:
    def begin(connection: sa.Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    sa.event.listen(engine, "begin", begin)
