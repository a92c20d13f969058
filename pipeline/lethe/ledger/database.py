"""The ledger's tables, and the two databases that hold them; `lethe.ledger.ledger` uses them.

Rows are added and never changed: triggers refuse UPDATE and DELETE in either database.
Writers take turns, so that what a writer reads is what every writer before it committed:
SQLite by BEGIN IMMEDIATE; PostgreSQL by a serializable transaction that locks the
entries' table before it takes its snapshot.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from lethe.core.errors import LedgerInvalid, NotFound
from lethe.core.notices import notice
from lethe.core.sql import Database, failure_of, schema_of
from lethe.core.waiting import PATIENCE_S, waiting

SCHEMA = 3
_WAITED = "the ledger (stores.ledger)"
_RETRIES = 10  # of a serializable transaction that PostgreSQL gave up
CREATION_LOCK = 0x1ED6E5
_NO_LEDGER = "There is no ledger yet: nobody has been charged. Check stores.ledger."

T = TypeVar("T")

DATABASE = Database(
    name="ledger",
    setting="stores.ledger",
    absent=_NO_LEDGER,
    damaged="The ledger is damaged, or no ledger. Restore its backup.",
    invalid=LedgerInvalid,
    unfinished="nothing was charged",
    turn="LOCK TABLE ledger_entries IN EXCLUSIVE MODE",
    isolation="SERIALIZABLE",
)

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
    # Since schema 3; null in rows that are older, which no migration may change.
    sa.Column("mechanism", sa.String(64), info={"since": 3}),
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
    engine = DATABASE.open(url, create=create)
    if create:
        _bring_up(engine)
        return engine
    try:
        found = _version(engine)
    except sa.exc.DBAPIError as error:
        raise DATABASE.error(error) from None
    if not found:
        raise NotFound(_NO_LEDGER)
    return engine


def transact(engine: sa.Engine, work: Callable[[sa.Connection], T], *, write: bool) -> T:
    """Runs `work` in one transaction and returns what it returns, once that is committed.

    Guarantees: a writer sees everything that was committed before, and nothing is committed
        between its reads and its own commit; a reader sees one state.

    Raises:
        Busy: other processes held the ledger for too long.
        LedgerInvalid, DiskFull, SourceUnavailable: as they say.
    """
    attempt = 0
    while True:
        try:
            return _once(engine, work, write=write)
        except sa.exc.DBAPIError as error:
            attempt += 1
            if failure_of(error) != "conflict" or attempt == _RETRIES:
                raise DATABASE.error(error) from None
            time.sleep(0.05 * attempt)


def _once(engine: sa.Engine, work: Callable[[sa.Connection], T], *, write: bool) -> T:
    with DATABASE.transaction(engine, write=write) as connection:
        return work(connection)


def _bring_up(engine: sa.Engine) -> None:
    try:
        found = _version(engine)
        if found == SCHEMA:
            return
        with waiting(_WAITED, at_most_s=PATIENCE_S), engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection = connection.execution_options(lethe_write=True)
            with connection.begin():
                if engine.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'")
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATION_LOCK)))
                found = _migrate(connection)
    except sa.exc.DBAPIError as error:
        raise DATABASE.error(error) from None
    if 0 < found < SCHEMA:
        notice(
            f"The ledger was migrated from schema {found} to {SCHEMA}. Nobody's spend changed; an "
            "earlier version of Lethe no longer opens it."
        )


def stored_columns(connection: sa.Connection, table: sa.Table) -> list[sa.Column[Any]]:
    """A table's columns as they are in this ledger, which may be older and only looked at."""
    schema = _version(connection)
    return [column for column in table.c if column.info.get("since", 1) <= schema]


def _version(bind: sa.Engine | sa.Connection) -> int:
    """The ledger's schema, 0 for none.

    Raises:
        LedgerInvalid: it is newer than this code.
    """
    if isinstance(bind, sa.Engine):
        with waiting(_WAITED, at_most_s=PATIENCE_S), bind.connect() as connection:
            return _version(connection)
    return schema_of(bind, VERSIONS, known=SCHEMA, what="The ledger has", invalid=LedgerInvalid)


def _migrate(connection: sa.Connection) -> int:
    """From whatever schema is there to the present one, in the caller's transaction.

    Returns:
        The schema that was there, 0 for none.
    """
    found = _version(connection)  # anew: another process may have been first
    if found < 1:
        for table in (VERSIONS, ENTRIES, SPENDS):
            _create(connection, table)
    if found < 2:
        _create(connection, CARRIED)
    if 0 < found < 3:
        connection.exec_driver_sql("ALTER TABLE ledger_spends ADD COLUMN mechanism VARCHAR(64)")
    if found < SCHEMA:
        connection.execute(VERSIONS.insert().values(version=SCHEMA))
    return found


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
