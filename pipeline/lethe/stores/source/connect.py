"""The one way to connect to a source: for whoever reads it, looks for a person, or erases.

What `source.url` says (`options`, with a `search_path` in it, as well) holds for all of them, so
what is read is what is erased from, and what is looked at before a receipt is signed.
"""

import re
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
from lethe.core.schemas import POSTGRESQL
from lethe.core.silence import give_up_when_silent
from lethe.core.sql import failure_of, refusal_of
from lethe.core.times import day_text
from lethe.core.values import canonical_text
from lethe.core.waiting import waiting
from lethe.stores.source.catalogue import note_heirs

WAIT_SECONDS = 10  # for a connection, and for others' locks
# Of an address's parameters, those that hold no secret; any other may.
_HARMLESS = frozenset(
    {"application_name", "charset", "client_encoding", "connect_timeout", "driver", "sslmode"}
)
_WAITED = "the source (source.url)"


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
            "one schema, role and database for all of Lethe (source.schema)"
            "; nothing was changed."
        )


def check_one_place(params: Params) -> SourcePlace | None:
    """Where reading and erasing lead, which must be one place.

    Raises:
        SourceUnavailable: they lead to two, or the source does not answer.
    """
    if dialect_of(params) != POSTGRESQL:
        return None
    here, there = (_place(params, writing=writing) for writing in (False, True))
    refuse_other_place(here, there, what="is erased from")
    return here


def reading_place(params: Params) -> SourcePlace | None:
    """Where the pipeline reads people from."""
    return _place(params, writing=False) if dialect_of(params) == POSTGRESQL else None


def _place(params: Params, *, writing: bool) -> SourcePlace | None:
    engine = source_engine(params, writing=writing)
    try:
        with engine.connect() as connection:
            return place_of(connection)
    except exc.DBAPIError as error:
        raise unavailable(error, place_of_url(engine.url)) from None
    finally:
        engine.dispose()


def place_of_url(url: sa.URL) -> str:
    """Where a database is, without credentials: ` at host:port`; nothing for a file.

    A password with an @ in it makes part of it the host's: what is no host's name is not shown.
    """
    if url.host is None or not re.fullmatch(r"[\w.:-]+", url.host):
        return ""
    return f" at {url.host}" + (f":{url.port}" if url.port else "")


def unavailable(error: exc.SQLAlchemyError, place: str = "") -> SourceUnavailable:
    """The user's error for a source that cannot be read from at all.

    Args:
        place: where it is; see `place_of_url`.
    """
    if isinstance(error, exc.DBAPIError):
        if failure_of(error) == "damaged":
            return SourceUnavailable(
                "The source file is not a database, or damaged. Correct source.url or the file."
            )
        if why := refusal_of(error):
            return SourceUnavailable(f"The source's server{place} {why} (source.url).")
    cause = type(getattr(error, "orig", None) or error).__name__
    return SourceUnavailable(
        f"The source{place} does not answer ({cause}). Check source.url, that the database is "
        "up, and that its role and password are right."
    )


def dialect_of(params: Params) -> str:
    """What SQLAlchemy calls the source's database, of those that differ here."""
    address = params.address(params.source.url)
    return POSTGRESQL if address.startswith("postgres") else "sqlite"


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
    declared = params.source
    return engine_at(
        params.address(declared.url),
        zone=declared.time_zone,
        writing=writing,
        schema=declared.schema,
    )


def engine_at(
    address: str, *, zone: str = "UTC", writing: bool = False, schema: str | None = None
) -> sa.Engine:
    """An engine for a database that nobody declared yet; as `source_engine`."""
    try:
        url = sa.make_url(address)
        kind = url.get_backend_name()
        if schema is not None and kind not in ("postgresql", "postgres"):
            raise SourceUnavailable("source.schema is of PostgreSQL, and source.url leads to none.")
        if kind == "sqlite":
            return _sqlite(Path(url.database or ":memory:"), writing=writing)
        if kind in ("postgresql", "postgres"):
            return _postgresql(url, writing=writing, zone=zone, schema=schema)
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


def has_secret(address: str) -> bool:
    """Whether an address says more than where its database is and as whom: a password, a token."""
    try:
        url = sa.make_url(address)
    except exc.ArgumentError:
        return False  # a folder's
    return bool(url.password) or not set(url.query) <= _HARMLESS


def _postgresql(url: sa.URL, *, writing: bool, zone: str, schema: str | None) -> sa.Engine:
    """`options` of ours stand beside those that the URL gives, and never in their place."""
    arguments: dict[str, Any] = {}
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = WAIT_SECONDS
    if schema is not None:
        said = url.query.get("options", "")
        given = said if isinstance(said, str) else " ".join(said)
        if "search_path" in given:
            raise SourceUnavailable(
                "source.schema and the options of source.url both name a schema. Keep one."
            )
        arguments["options"] = f'{given} -csearch_path="{schema}"'.strip()
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        hide_parameters=True,
        # writing: after a lock, what its holder wrote must be seen
        isolation_level="READ COMMITTED" if writing else "REPEATABLE READ",
        connect_args=arguments,
    )
    if not writing:
        engine = engine.execution_options(postgresql_readonly=True)
    give_up_when_silent(engine, _WAITED)
    note_heirs(engine)
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
        connection.create_function("lethe_day", 3, day_text, deterministic=True)
        connection.create_function("lethe_key", 1, _key_text, deterministic=True)
        if writing:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")
        return connection

    engine = sa.create_engine(
        "sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True
    )
    _on_begin(engine, "BEGIN IMMEDIATE" if writing else "BEGIN")
    return engine


def _key_text(value: Any) -> str | None:
    return None if value is None else canonical_text(value)


def _on_begin(engine: sa.Engine, *statements: str) -> None:
    def begin(connection: sa.Connection) -> None:
        with waiting(_WAITED, at_most_s=WAIT_SECONDS):
            for statement in statements:
                connection.exec_driver_sql(statement)

    sa.event.listen(engine, "begin", begin)
