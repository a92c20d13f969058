"""Writes the tables of a demonstration source, whole or not at all.

Knows databases and nothing of clinics: what is in the tables is said by `lethe.sample`.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from lethe.core.errors import DiskFull, ParamsInvalid, SourceUnavailable
from lethe.core.files import disk_errors

SqlType = Literal["text", "integer", "date", "timestamp"]

# What `lethe sample` made it may replace; any other database it leaves alone. The mark lies
# beside the tables, since the source may hold no table that params.yaml does not declare.
APPLICATION_ID = 0x4C657468  # "Leth", in the header of a SQLite file
COMMENT = "Made by lethe sample: every identity in it is invented (Faker)."

_TYPES: Mapping[SqlType, type[sa.types.TypeEngine[Any]]] = {
    "text": sa.Text,
    "integer": sa.Integer,
    "date": sa.Date,
    "timestamp": sa.DateTime,
}


@dataclass(frozen=True, kw_only=True)
class NewTable:
    """A table to make: `references` maps own columns to `table.column`; each is indexed.

    `loose` names references that may be null: of rows that outlive what they point at.
    """

    name: str
    key: str
    columns: Mapping[str, SqlType]
    references: Mapping[str, str] = field(default_factory=dict)
    indexes: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()


class ClinicWriter:
    """Adds rows to tables that nobody sees before the block around it ends well."""

    def __init__(self, connection: sa.Connection, tables: Sequence[NewTable]) -> None:
        self._connection = connection
        self._tables = {table.name: table for table in tables}

    def add(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Inserts rows whose values are in the order of the table's columns.

        Dates and times are ISO text (`2020-01-31`, `2020-01-31 12:00:00.000000`, UTC), the
        form in which both databases take them without a conversion for each value.
        """
        columns = list(self._tables[table].columns)
        quote = self._connection.dialect.identifier_preparer.quote_identifier
        into = f"{quote(table)} ({', '.join(map(quote, columns))})"
        # The driver's own bulk path: building a statement for each row would take most of the time.
        raw: Any = self._connection.connection.driver_connection
        if self._connection.dialect.name == "sqlite":
            places = ", ".join("?" * len(columns))
            raw.executemany(f"INSERT INTO {into} VALUES ({places})", rows)
            return
        with raw.cursor() as cursor, cursor.copy(f"COPY {into} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)


@contextmanager
def new_clinic(url: str, tables: Sequence[NewTable]) -> Iterator[ClinicWriter]:
    """Yields a writer; its tables replace those of an earlier sample if the block ends well.

    Guarantees: if the block fails, or the process is killed in it, what was there before is
    there unchanged. A database that no earlier call made is never touched.

    Raises:
        ParamsInvalid: the URL is not SQLite's file or PostgreSQL, or names a database that is
            not a sample.
        SourceUnavailable: the server does not answer, or refuses.
        DiskFull: no space is left.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise ParamsInvalid(
            "source.url is no database URL; lethe sample writes sqlite:///FILE or postgresql://…."
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        writing = _new_file(Path(str(parsed.database)), tables)
    elif backend == "postgresql":
        writing = _new_tables(parsed.set(drivername="postgresql+psycopg"), tables)
    else:
        raise ParamsInvalid(
            f"lethe sample writes sqlite:///FILE or postgresql://…, not {backend}. "
            "Change source.url."
        )
    with writing as writer:
        yield writer


@contextmanager
def _new_file(target: Path, tables: Sequence[NewTable]) -> Iterator[ClinicWriter]:
    """Builds the SQLite file beside its place, then renames it."""
    _refuse_foreign_file(target)
    staging = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with disk_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(target)
            # Made first, so that it is its owner's alone from the first byte on.
            os.close(os.open(staging, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except (PermissionError, FileExistsError, NotADirectoryError):
        raise SourceUnavailable(
            f"{target.parent} is not a folder that can be written to. Change source.url or its "
            "permissions."
        ) from None
    try:
        engine = sa.create_engine(f"sqlite:///{staging}", poolclass=sa.NullPool)
        with disk_errors(), engine.connect() as connection:
            try:
                # No journal: until the rename, nobody needs this file to be sound.
                connection.exec_driver_sql("PRAGMA journal_mode = OFF")
                connection.exec_driver_sql("PRAGMA synchronous = OFF")
                connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
                yield from _fill(connection, tables)
                connection.commit()
            except (sqlite3.OperationalError, OperationalError) as error:
                cause = error.orig if isinstance(error, OperationalError) else error
                if getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    raise DiskFull(
                        "No space is left on the device of the sample clinic. Free some; nothing "
                        "half-written was kept."
                    ) from None
                raise
        with disk_errors():
            _sync(staging)
            # A journal of the file that was here would be played back into the new one.
            for suffix in ("-journal", "-wal", "-shm"):
                target.with_name(target.name + suffix).unlink(missing_ok=True)
            staging.replace(target)
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def _new_tables(url: sa.URL, tables: Sequence[NewTable]) -> Iterator[ClinicWriter]:
    """Builds the tables in one transaction of a PostgreSQL server."""
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    try:
        connection = engine.connect()
    except OperationalError:
        raise SourceUnavailable(
            f"The database server at {url.host or 'the local socket'} does not let lethe sample "
            "in. Check source.url and that the server runs."
        ) from None
    try:
        with connection, connection.begin():
            _drop_earlier(connection, tables)
            yield from _fill(connection, tables)
    except (DBAPIError, psycopg.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, psycopg.errors.DiskFull):
            raise DiskFull("The database server has no space left; nothing was kept.") from None
        # The server's own message may quote a row.
        raise SourceUnavailable(
            f"The database server refused the sample ({type(cause).__name__}); nothing was kept. "
            "Check the user's rights, and that no other object needs the sample's tables."
        ) from None


def _fill(connection: sa.Connection, tables: Sequence[NewTable]) -> Iterator[ClinicWriter]:
    """Tables, then rows, then what would slow the rows down."""
    metadata = sa.MetaData()
    for table in tables:
        _define(table, metadata)
    in_order = [metadata.tables[table.name] for table in tables]
    if connection.dialect.name == "sqlite":  # which knows foreign keys only from the start
        for made in in_order:
            connection.execute(sa.schema.CreateTable(made))
    else:
        for made in in_order:
            connection.execute(sa.schema.CreateTable(made, include_foreign_key_constraints=[]))
            connection.execute(sa.schema.SetTableComment(made))
    yield ClinicWriter(connection, tables)
    for made in in_order:
        if connection.dialect.name != "sqlite":
            for constraint in sorted(
                made.foreign_key_constraints, key=lambda c: str(c.column_keys)
            ):
                connection.execute(sa.schema.AddConstraint(constraint))
        for index in sorted(made.indexes, key=lambda index: str(index.name)):
            connection.execute(sa.schema.CreateIndex(index))


def _define(table: NewTable, metadata: sa.MetaData) -> None:
    parts: list[sa.Column[Any] | sa.Index] = []
    for name, kind in table.columns.items():
        target = table.references.get(name)
        parts.append(
            sa.Column(
                name,
                _TYPES[kind],
                *([sa.ForeignKey(target)] if target else []),
                primary_key=name == table.key,
                autoincrement=False,
                nullable=name != table.key and (target is None or name in table.loose),
            )
        )
    parts += [
        sa.Index(f"ix_{table.name}_{name}", name) for name in (*table.references, *table.indexes)
    ]
    sa.Table(table.name, metadata, *parts, comment=COMMENT)


def _refuse_foreign_file(target: Path) -> None:
    if target.is_dir():
        raise ParamsInvalid(f"source.url names {target}, which is a folder. Name a file in it.")
    if not target.exists() or target.stat().st_size == 0:
        return
    with target.open("rb") as file:
        header = file.read(72)
    # Offsets 0 and 68: SQLite's file format, section 1.3.
    if header[:16] != b"SQLite format 3\x00" or header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise ParamsInvalid(
            f"{target} was not made by lethe sample, so it is left alone. Move it away, or change "
            "source.url."
        )


def _drop_earlier(connection: sa.Connection, tables: Sequence[NewTable]) -> None:
    inspector = sa.inspect(connection)
    there = [table.name for table in tables if inspector.has_table(table.name)]
    foreign = [name for name in there if inspector.get_table_comment(name)["text"] != COMMENT]
    if foreign:
        raise ParamsInvalid(
            f"Tables {', '.join(foreign)} of that database were not made by lethe sample, so they "
            "are left alone. Change source.url."
        )
    quote = connection.dialect.identifier_preparer.quote_identifier
    if there:  # no CASCADE: what somebody built on them is not ours to drop
        connection.exec_driver_sql(f"DROP TABLE {', '.join(map(quote, there))}")


def _remove_leftovers(target: Path) -> None:
    """Removes the unfinished files of calls that were killed, not those of calls under way."""
    for path in target.parent.glob(f".{target.name}.*.tmp*"):
        with suppress(ValueError):
            pid = int(path.name.removeprefix(f".{target.name}.").split(".", 1)[0])
            if pid == os.getpid() or not _runs(pid):
                path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 asks only
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
