"""The ledger's tables, and the two databases that hold them; `lethe.ledger.ledger` uses them.

Rows are added and never changed: triggers refuse UPDATE and DELETE in either database.
Writers take turns, so that what a writer reads is what every writer before it committed:
SQLite by BEGIN IMMEDIATE; PostgreSQL by a serializable transaction that locks the
entries' table before it takes its snapshot.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from lethe.core.errors import Busy, DiskFull, LedgerInvalid, NotFound, SourceUnavailable

SCHEMA = 2
_PATIENCE_S = 60  # how long a writer waits for the others
_RETRIES = 10  # of a serializable transaction that PostgreSQL gave up
CREATION_LOCK = 0x1ED6E5
_NO_LEDGER = "There is no ledger yet: nobody has been charged. Check stores.ledger."

T = TypeVar("T")

METADATA = sa.MetaData()
VERSIONS = sa.Table(
    "ledger_schema",
    METADATA,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)
ENTRIES = sa.Table(  # everything that happened, one after another, chained by hash
    "ledger_entries",
    METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),  # a state of a run, or "carried"
    sa.Column("about", sa.String(32), nullable=False),  # run_id or carried_id
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_start", sa.String(40), nullable=False),
    sa.Column("content", sa.String(64), nullable=False),  # SHA-256 of the row it announces
    sa.Column("chain", sa.String(64), nullable=False, unique=True),
)
SPENDS = sa.Table(
    "ledger_spends",
    METADATA,
    sa.Column("run_id", sa.String(32), primary_key=True),
    sa.Column("request", sa.Text, nullable=False, index=True),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("plan_digest", sa.String(64), nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("adjacency", sa.Text, nullable=False),
    sa.Column("sampling", sa.Text, nullable=False),
    sa.Column("records_per_person", sa.Integer, nullable=False),
    sa.Column("delta", sa.Float(53), nullable=False),
    sa.Column("subjects", sa.Integer, nullable=False),
    sa.Column("left_out", sa.Integer, nullable=False),
    sa.Column("eligible", sa.LargeBinary, nullable=False),  # Roaring bitmap of who is charged
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("manifest_md5", sa.String(32), nullable=False),
    sa.Column("params_digest", sa.String(64), nullable=False),
    sa.Column("code_digest", sa.String(64), nullable=False),
)
CARRIED = sa.Table(  # since schema 2: what erased people had spent, for when they return
    "ledger_carried",
    METADATA,
    sa.Column("carried_id", sa.String(32), primary_key=True),
    sa.Column("entry", sa.LargeBinary, nullable=False, index=True),
    sa.Column("token", sa.Integer),  # null until the person returns
    sa.Column("runs", sa.Text, nullable=False),
)


def open_engine(url: str, *, create: bool = True) -> sa.Engine:
    """An engine over a ledger of the present schema: created, or migrated, if need be.

    Args:
        create: without it nothing is created, migrated or otherwise changed.

    Raises:
        LedgerInvalid: the ledger is of a newer schema, or is no ledger.
        NotFound: there is none, and `create` is false.
        SourceUnavailable: the URL is not one, or the database does not answer.
    """
    try:
        parsed = sa.make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database not in (None, "", ":memory:"):
            path = Path(str(parsed.database))
            if create:
                _own_file(path)
            elif not path.exists():  # to connect would make it
                raise NotFound(_NO_LEDGER)
        arguments = {"timeout": _PATIENCE_S, "isolation_level": None} if sqlite else {}
        memory = sqlite and parsed.database in (None, "", ":memory:")
        engine = sa.create_engine(
            parsed,
            hide_parameters=True,  # an error message must not quote a row
            connect_args=arguments,
            # A connection a transaction: none is left open, or shared with a forked process.
            poolclass=sa.StaticPool if memory else sa.NullPool,
        )
    except (sa.exc.ArgumentError, ImportError):
        raise SourceUnavailable(
            "stores.ledger is not a SQLAlchemy URL of an installed driver, such as "
            "sqlite:///.lethe/ledger.db or postgresql+psycopg://…"
        ) from None
    if engine.dialect.name not in ("sqlite", "postgresql"):
        raise SourceUnavailable(
            f"stores.ledger is on {engine.dialect.name}; the ledger needs SQLite or PostgreSQL."
        )
    if sqlite:
        sa.event.listen(engine, "connect", _prepare)
        sa.event.listen(engine, "begin", _begin)
    if create:
        _bring_up(engine)
        return engine
    try:
        found = _version(engine)
    except sa.exc.DBAPIError as error:
        raise _told(error) from None
    if not found:
        raise NotFound(_NO_LEDGER)
    return engine


def _own_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
    except OSError as error:
        raise SourceUnavailable(
            f"The ledger's file cannot be opened: {os.strerror(error.errno or 0)}. "
            "Check stores.ledger."
        ) from None


def _prepare(connection: Any, _record: Any) -> None:
    for pragma in (
        "synchronous=FULL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "secure_delete=ON",  # what a closed request drops is overwritten
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("ledger_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def transact(engine: sa.Engine, work: Callable[[sa.Connection], T], *, write: bool) -> T:
    """Runs `work` in one transaction and returns what it returns, once that is committed.

    Guarantees: a writer sees everything that was committed before, and nothing is committed
        between its reads and its own commit; a reader sees one state.

    Raises:
        Busy: other processes held the ledger for a minute.
        LedgerInvalid, DiskFull, SourceUnavailable: as they say.
    """
    for left in reversed(range(_RETRIES)):
        try:
            return _once(engine, work, write=write)
        except sa.exc.DBAPIError as error:
            state = getattr(error.orig, "sqlstate", "") or ""
            if state in ("40001", "40P01") and left:  # serialization failure, deadlock
                time.sleep(0.05 * (_RETRIES - left))
                continue
            raise _told(error) from None
    raise Busy("Other processes kept changing the ledger. Try again.")


def _once(engine: sa.Engine, work: Callable[[sa.Connection], T], *, write: bool) -> T:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection = connection.execution_options(ledger_write=write)
        else:
            level = "SERIALIZABLE" if write else "REPEATABLE READ"
            connection = connection.execution_options(isolation_level=level)
        with connection.begin():
            if write and engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_PATIENCE_S}s'")
                # Before any query: a serializable snapshot is taken by the first one, and must
                # hold what the writer before committed.
                connection.exec_driver_sql("LOCK TABLE ledger_entries IN EXCLUSIVE MODE")
            return work(connection)


def _told(error: sa.exc.DBAPIError) -> Exception:
    """The user's error for a database's; anything not understood stays what it is."""
    name = getattr(error.orig, "sqlite_errorname", "") or ""
    state = getattr(error.orig, "sqlstate", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or state in ("55P03", "40001", "40P01"):
        return Busy(f"Other processes held the ledger for {_PATIENCE_S} s. Try again after them.")
    if name.startswith("SQLITE_FULL") or state == "53100":
        return DiskFull("No space is left for the ledger. Free some; nothing was charged.")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")) or state in ("42P01", "42703"):
        return LedgerInvalid("The ledger is damaged, or no ledger. Bring back its backup.")
    if name.startswith("SQLITE_ERROR") and "no such" in str(error.orig):
        return LedgerInvalid("The ledger lacks a table or column. Bring back its backup.")
    if isinstance(error, sa.exc.OperationalError):
        return SourceUnavailable(
            f"The ledger's database does not answer ({name or state or type(error.orig).__name__})."
            " Check stores.ledger and that it runs."
        )
    return error


def _bring_up(engine: sa.Engine) -> None:
    try:
        found = _version(engine)
        if found == SCHEMA:
            return
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection = connection.execution_options(ledger_write=True)
            with connection.begin():
                if engine.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATION_LOCK)))
                _migrate(connection)
    except sa.exc.DBAPIError as error:
        raise _told(error) from None


def _version(bind: sa.Engine | sa.Connection) -> int:
    """The ledger's schema, 0 for none.

    Raises:
        LedgerInvalid: it is newer than this code.
    """
    if isinstance(bind, sa.Engine):
        with bind.connect() as connection:
            return _version(connection)
    if not sa.inspect(bind).has_table(VERSIONS.name):
        return 0
    found = bind.execute(sa.select(sa.func.max(VERSIONS.c.version))).scalar_one() or 0
    if found > SCHEMA:
        raise LedgerInvalid(
            f"The ledger has schema {found}; this version of Lethe knows up to {SCHEMA}. "
            "Upgrade Lethe; nothing was changed."
        )
    return int(found)


def _migrate(connection: sa.Connection) -> None:
    """From whatever schema is there to the present one, in the caller's transaction."""
    found = _version(connection)  # anew: another process may have been first
    if found < 1:
        for table in (VERSIONS, ENTRIES, SPENDS):
            _create(connection, table)
    if found < 2:
        _create(connection, CARRIED)
    if found < SCHEMA:
        connection.execute(VERSIONS.insert().values(version=SCHEMA))


def _create(connection: sa.Connection, table: sa.Table) -> None:
    table.create(connection)
    append_only(connection, table)


def append_only(connection: sa.Connection, table: sa.Table) -> None:
    """Triggers that refuse to change or remove a row of a new table."""
    if connection.dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER {table.name}_no_{verb.lower()} BEFORE {verb} ON {table.name} "
                "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )
        (key,) = table.primary_key.columns
        # INSERT OR REPLACE deletes without asking the trigger above.
        connection.exec_driver_sql(
            f"CREATE TRIGGER {table.name}_no_replace BEFORE INSERT ON {table.name} "
            f"WHEN EXISTS (SELECT 1 FROM {table.name} WHERE {key.name} = NEW.{key.name}) "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        )
        return
    connection.exec_driver_sql(
        "CREATE OR REPLACE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
    )
    connection.exec_driver_sql(
        f"CREATE TRIGGER {table.name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE "
        f"ON {table.name} FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()"
    )
