"""One read-only connection to a source: opened, streamed from, and closed."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import exc

from lethe.config.params import Params
from lethe.core.errors import SchemaMismatch, SourceUnavailable, ValueOutsideDomain
from lethe.stores.source.catalogue import Catalogue
from lethe.stores.source.connect import (
    SourcePlace,
    place_of,
    place_of_url,
    source_engine,
    unavailable,
)
from lethe.stores.source.files import FolderCopy
from lethe.stores.source.number_keys import NumberKeys
from lethe.stores.source.schema import TableInfo, may_be_read, outside, reflect


class Reader:
    """Runs statements on one snapshot of a source.

    Guarantees: the database is asked for a read-only transaction (PostgreSQL: REPEATABLE
        READ READ ONLY; SQLite: the file is opened with `mode=ro`), and all statements see
        its one state; at most `source.chunk_rows` rows are held at once.
    """

    def __init__(self, params: Params) -> None:
        """Connects.

        Raises:
            SourceUnavailable: absent, or does not answer; never shows credentials.
        """
        url = params.address(params.source.url)
        kind, _, folder = url.partition(":")
        self._params = params
        self._copy = None
        self._tables: dict[str, TableInfo] | None = None
        self._results: set[sa.CursorResult[Any]] = set()
        if kind in ("csv", "parquet"):
            rows = params.source.chunk_rows
            self._copy = FolderCopy(
                Path(folder), root=params.root, kind=kind, chunk_rows=rows, form=params.source.csv
            )
        try:
            path = self._copy.path if self._copy else None
            engine = source_engine(params, writing=False, path=path)
            with database_errors(place_of_url(engine.url)):
                self._connection = engine.connect()
                self._connection.execute(sa.text("SELECT 1"))
        except BaseException:
            if self._copy:
                self._copy.close()
            raise

    @property
    def dialect(self) -> str:
        return self._connection.dialect.name

    @property
    def engine(self) -> sa.Engine:
        return self._connection.engine

    def place(self) -> SourcePlace | None:
        """Where the database is read; see `place_of`."""
        with database_errors():
            return place_of(self._connection)

    def close(self) -> None:
        """Ends the snapshot; a folder's private copy is removed."""
        try:
            for result in list(self._results):  # of readers that stopped halfway
                result.close()
            self._connection.close()
            self._connection.engine.dispose()
        finally:
            if self._copy:
                self._copy.close()

    def tables(self) -> dict[str, TableInfo]:
        """Reflected tables and views; reads no row."""
        if self._tables is None:
            with database_errors():
                self._tables = reflect(self._connection, self._params.tables)
        return self._tables

    def number_keys(self) -> list[NumberKeys | None]:
        """How each column of the subject's key spells its numbers; None if it is none of numbers.

        Raises:
            SchemaMismatch: the subject's table is not there.
        """
        table, keys = self._params.subject.table, self._params.subject.keys
        if self._copy is not None:
            return [self._copy.number_keys(table, key) for key in keys]
        types = self.types(table)
        return [NumberKeys.of(types[key], self.dialect) if key in types else None for key in keys]

    def types(self, table: str) -> dict[str, sa.types.TypeEngine[Any]]:
        """The types of a database's columns.

        Raises:
            SchemaMismatch: the table is not there.
        """
        with database_errors():
            columns = Catalogue(self._connection, [table]).columns().get(table)
        if columns is None:
            raise SchemaMismatch(
                f"Table {table!r} is not in the source, so nobody can be looked up there. Declare "
                "the table that is there."
            )
        return {each["name"]: each["type"] for each in columns}

    def outside(self) -> tuple[str, ...]:
        """What the database has beside the declared schema; reads the catalogue, no row."""
        with database_errors():
            return outside(self._connection, self._params.tables)

    def stream(self, statement: sa.Executable) -> Iterator[pd.DataFrame]:
        """The rows of a statement in chunks, values as the driver has them (dtype object)."""
        try:
            yield from self._stream(statement)
        except exc.DataError:
            raise self._unread(statement) from None

    def _stream(self, statement: sa.Executable) -> Iterator[pd.DataFrame]:
        self._fill()
        options = {"stream_results": True, "yield_per": self._params.source.chunk_rows}
        with (
            database_errors(data=False),
            self._connection.execute(statement, execution_options=options) as result,
        ):
            self._results.add(result)
            try:
                names = list(result.keys())
                for rows in result.partitions():
                    columns = zip(*rows, strict=True)
                    yield pd.DataFrame(
                        {n: pd.Series(v, dtype=object) for n, v in zip(names, columns, strict=True)}
                    )
            finally:
                self._results.discard(result)

    def _unread(self, statement: sa.Executable) -> ValueOutsideDomain:
        """Which selected columns have dates that no calendar here has: PostgreSQL knows more."""
        counts: dict[str, sa.Select[Any]] = {}
        for column in statement.selected_columns if isinstance(statement, sa.Select) else ():
            for base in column.base_columns:
                table = getattr(base, "table", None)
                info = self.tables().get(getattr(table, "fullname", ""))
                if table is None or info is None:
                    continue
                if info.kinds.get(base.name) in ("date", "timestamp"):
                    odd = ~sa.func.isfinite(base) | (base < sa.text("'0001-01-01'"))
                    odd |= base >= sa.text("'10000-01-01'")
                    counts[f"{table.fullname}.{base.name}"] = (
                        sa.select(sa.func.count()).select_from(table).where(odd)
                    )
        with suppress(exc.SQLAlchemyError):  # then the columns stay unnamed
            found = {n: self._connection.execute(each).scalar_one() for n, each in counts.items()}
            if named := ", ".join(f"{name} ({count})" for name, count in found.items() if count):
                return ValueOutsideDomain(
                    "Dates that are infinite, before year 1 or after 9999 cannot be read: "
                    f"{named}. Correct the source (null where there is none), or declare the "
                    "column unused."
                )
        return _unread()

    def row(self, statement: sa.Executable) -> sa.Row[Any]:
        self._fill()
        with database_errors():
            return self._connection.execute(statement).one()

    def count(self, statement: sa.Executable) -> int:
        return int(self.row(statement)[0] or 0)

    def _fill(self) -> None:
        """A folder's rows are copied when the first is asked for: the schema was seen by then."""
        if self._copy is None or self._copy.filled:
            return
        self._connection.rollback()  # SQLite: a reader's transaction would keep the writer out
        self._copy.fill(
            {
                name: [
                    column
                    for column, declared in table.columns.items()
                    if may_be_read(self._params, declared)
                ]
                for name, table in self._params.tables.items()
            },
            numbers={
                name: {
                    column: frozenset(declared.missing)
                    for column, declared in table.columns.items()
                    if declared.type in ("integer", "real")
                }
                for name, table in self._params.tables.items()
            },
        )


def _unread() -> ValueOutsideDomain:
    return ValueOutsideDomain(
        "The database could not read a value as the declarations need it (a timestamp that is "
        "none). Correct the source, or declare another column."
    )


@contextmanager
def database_errors(place: str = "", *, data: bool = True) -> Iterator[None]:
    """A driver's complaint as the user's error; its own words can hold values or credentials.

    Args:
        place: where the database is, for the message; see `place_of_url`.
        data: also what says that a value cannot be read.
    """
    try:
        yield
    except exc.DataError:
        if not data:
            raise
        raise _unread() from None
    except exc.ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) == "42501":
            raise SourceUnavailable(
                "The source refuses to be read with this role. Grant it SELECT, and USAGE of "
                "each schema that is declared."
            ) from None
        raise SchemaMismatch(
            "The database refused a statement over the declared columns "
            f"({type(error.orig).__name__}): a table or column is gone, or a link joins columns of "
            "different types."
        ) from None
    except exc.SQLAlchemyError as error:
        raise unavailable(error, place) from None
