"""The vault's tables, and the two databases that hold them; the vault has the keys.

What is written here is keyed or encrypted already. SQLite: one file of mode 0600;
freed pages are overwritten (`secure_delete`), and the journal is removed at every commit
(`journal_mode=DELETE`; a write-ahead log would keep old pages until some later checkpoint).
PostgreSQL: writers take turns by an advisory lock; readers see one snapshot.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from lethe.core.errors import VaultMismatch
from lethe.core.sql import Database

_CHUNK = 20_000  # values a statement; SQLite's default limit is 32,766
_FEW = 1_000

SubjectRow = tuple[int, bytes, bytes]  # token, lookup, identity

METADATA = sa.MetaData()
VAULT = sa.Table(
    "vault",
    METADATA,
    sa.Column("vault_id", sa.LargeBinary, primary_key=True),
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("capacity", sa.BigInteger, nullable=False),
    sa.Column("key_id", sa.String(16), nullable=False),
)
KEYS = sa.Table(
    "vault_keys",
    METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
)
SUBJECTS = sa.Table(
    "vault_subjects",
    METADATA,
    sa.Column("token", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("lookup", sa.LargeBinary, nullable=False),
    sa.Column("identity", sa.LargeBinary, nullable=False),
)
LOOKUP = sa.Index("vault_subjects_lookup", SUBJECTS.c.lookup, unique=True)
SUPPRESSIONS = sa.Table(
    "vault_suppressions",
    METADATA,
    sa.Column("entry", sa.LargeBinary, primary_key=True),
    sa.Column("since", sa.String(40), nullable=False),
)
LIFTS = sa.Table(  # since schema 2: the latest fresh answer of who was suppressed
    "vault_lifts",
    METADATA,
    sa.Column("entry", sa.LargeBinary, primary_key=True),
    sa.Column("answered", sa.String(40), nullable=False),
)
RETIRED = sa.Table(  # keyed tokens of forgotten people: nobody else may be given them
    "vault_retired",
    METADATA,
    sa.Column("entry", sa.LargeBinary, primary_key=True),
)
REVEALS = sa.Table(
    "vault_reveals",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("token", sa.Integer),  # null once the person is forgotten
    # Since schema 3, by `lethe.stores.vault.reveals`.
    sa.Column("content", sa.LargeBinary),
    sa.Column("chain", sa.LargeBinary),
    sa.Column("erased", sa.LargeBinary),
)
REVEALS_HEAD = sa.Table(
    "vault_reveals_head",
    METADATA,
    sa.Column("entries", sa.Integer, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
)


DATABASE = Database(
    name="vault",
    setting="stores.vault",
    absent="There is no vault yet. Run lethe pseudonymize, or check stores.vault.",
    damaged="The vault is damaged. Restore its backup; the key stays the same.",
    invalid=VaultMismatch,
    unfinished="nothing half-written was kept",
    turn=f"SELECT pg_advisory_xact_lock({0x1E7EE})",
    isolation="READ COMMITTED",  # after its turn has come, it sees what the one before committed
    pragmas=("journal_mode=DELETE", "cache_size=-65536"),
    private=True,
    pooled=True,
)


@contextmanager
def transaction(engine: sa.Engine, *, write: bool) -> Iterator[sa.Connection]:
    """One transaction: a writer is alone, a reader sees one state.

    Raises:
        VaultMismatch: the database is damaged, or not a database.
        Busy: another process held it for a minute.
        DiskFull, SourceUnavailable: as they say.
    """
    try:
        with DATABASE.transaction(engine, write=write) as connection:
            yield connection
    except sa.exc.DBAPIError as error:
        raise DATABASE.error(error) from None


def matching(
    connection: sa.Connection, column: sa.Column[Any], values: Sequence[Any], *more: sa.Column[Any]
) -> list[Any]:
    """Rows (column, *more) whose `column` is among `values`, by whichever way reads less."""
    if not values:
        return []
    names = ", ".join(each.name for each in (column, *more))
    wanted = f"SELECT {names} FROM {column.table.name}"
    # Counting reads an index whole: not for a question about a few.
    if len(values) > _FEW and count(connection, column.table) <= 4 * len(values):
        among = set(values)
        return [row for row in connection.exec_driver_sql(wanted) if row[0] in among]
    found: list[Any] = []
    ordered = sorted(values)  # neighbours lie on one page
    for start in range(0, len(ordered), _CHUNK):
        part = ordered[start : start + _CHUNK]
        if connection.dialect.name == "sqlite":
            marks = ",".join("?" * len(part))
            found.extend(
                connection.exec_driver_sql(
                    f"{wanted} WHERE {column.name} IN ({marks})", tuple(part)
                )
            )
        else:
            found.extend(
                connection.exec_driver_sql(f"{wanted} WHERE {column.name} = ANY(%s)", (part,))
            )
    return found


def count(connection: sa.Connection, table: sa.FromClause) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


@contextmanager
def _index_afterwards(connection: sa.Connection, rows: int) -> Iterator[None]:
    """Sorts SQLite's lookup index once if that is less work than `rows` jumps in it."""
    worth = connection.dialect.name == "sqlite" and 5 * rows > count(connection, SUBJECTS)
    if worth:
        LOOKUP.drop(connection)
    yield
    if worth:
        LOOKUP.create(connection)


def insert_subjects(connection: sa.Connection, rows: list[SubjectRow]) -> None:
    """Adds (token, lookup, identity) rows."""
    if not rows:
        return
    rows = sorted(rows)  # appends to the table's tree instead of jumping in it
    if connection.dialect.name == "sqlite":
        with _index_afterwards(connection, len(rows)):
            connection.exec_driver_sql("INSERT INTO vault_subjects VALUES (?, ?, ?)", rows)
        return
    for start in range(0, len(rows), _CHUNK):
        connection.exec_driver_sql(
            "INSERT INTO vault_subjects (token, lookup, identity) "
            "SELECT * FROM unnest(%s::int[], %s::bytea[], %s::bytea[])",
            _columns(rows[start : start + _CHUNK]),
        )


def replace_subjects(
    connection: sa.Connection, renew: Callable[[list[SubjectRow]], list[SubjectRow]]
) -> None:
    """Gives every row the lookup and identity that `renew` makes of it."""
    with _index_afterwards(connection, count(connection, SUBJECTS)):
        for old in _subject_chunks(connection):
            rows = renew(old)
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql(
                    "UPDATE vault_subjects SET lookup = ?2, identity = ?3 WHERE token = ?1", rows
                )
            else:
                connection.exec_driver_sql(
                    "UPDATE vault_subjects AS old "
                    "SET lookup = new.lookup, identity = new.identity "
                    "FROM unnest(%s::int[], %s::bytea[], %s::bytea[]) "
                    "AS new (token, lookup, identity) WHERE old.token = new.token",
                    _columns(rows),
                )


def _columns(rows: list[SubjectRow]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))


def _subject_chunks(connection: sa.Connection) -> Iterator[list[SubjectRow]]:
    """All rows in parts, by token."""
    last = -1
    while True:
        rows = [
            (row.token, bytes(row.lookup), bytes(row.identity))
            for row in connection.execute(
                sa.select(SUBJECTS)
                .where(SUBJECTS.c.token > last)
                .order_by(SUBJECTS.c.token)
                .limit(_CHUNK)
            )
        ]
        if not rows:
            return
        yield rows
        last = rows[-1][0]
