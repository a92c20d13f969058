"""The tables of people's requests, in the ledger's database.

A request's row changes as it goes on, and what leads to the person is dropped when it closes.
Receipts are only ever added: triggers refuse UPDATE and DELETE, as in the ledger.
"""

import sqlalchemy as sa

from lethe.core.errors import LedgerInvalid
from lethe.core.sql import schema_of
from lethe.core.waiting import PATIENCE_S, waiting
from lethe.ledger.database import CREATION_LOCK, append_only, transact

SCHEMA = 1

METADATA = sa.MetaData()
VERSIONS = sa.Table(
    "rights_schema",
    METADATA,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)
REQUESTS = sa.Table(
    "rights_requests",
    METADATA,
    sa.Column("request_id", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("purpose", sa.Text),  # of what is withdrawn or objected to; null: all
    sa.Column("received_at", sa.String(40), nullable=False),
    sa.Column("due_at", sa.String(40), nullable=False),
    sa.Column("extension", sa.Text),  # why the deadline was extended
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("joined_to", sa.String(32)),
    sa.Column("problem", sa.Text),  # why it is still open
    sa.Column("closed_at", sa.String(40)),
    # Keyed or encrypted by the vault; the first two are null once the request is closed.
    sa.Column("reference", sa.LargeBinary, index=True),
    sa.Column("sealed", sa.LargeBinary, key="encrypted"),
    sa.Column("entry", sa.LargeBinary),  # the suppression's: a lost vault gets it back from here
)
MARKS = sa.Table(
    "rights_marks",
    METADATA,
    sa.Column("request_id", sa.String(32), primary_key=True),
    sa.Column("step", sa.String(32), primary_key=True),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("content", sa.Text, nullable=False),  # JSON of counts and opaque names
)
RECEIPTS = sa.Table(
    "rights_receipts",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("request_id", sa.String(32), nullable=False, unique=True),
    sa.Column("text", sa.Text, nullable=False),  # signed, as `lethe.rights.receipts` has it
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
)


def bring_up(engine: sa.Engine) -> None:
    """Makes the tables where there are none.

    Raises:
        LedgerInvalid: they are of a newer schema.
    """
    asked = waiting("the requests (stores.ledger)", at_most_s=PATIENCE_S)
    with asked, engine.connect() as connection:
        if _version(connection) == SCHEMA:
            return
    transact(engine, _create, write=True)


def _version(connection: sa.Connection) -> int:
    return schema_of(
        connection, VERSIONS, known=SCHEMA, what="The requests have", invalid=LedgerInvalid
    )


def _create(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATION_LOCK)))
    if _version(connection) == SCHEMA:  # another process was first
        return
    METADATA.create_all(connection)
    append_only(connection, RECEIPTS)
    connection.execute(VERSIONS.insert().values(version=SCHEMA))
