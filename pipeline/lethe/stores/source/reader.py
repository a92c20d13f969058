"""One read-only connection to a source: opened, streamed from, and closed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import exc

from lethe.config.params import Params
from lethe.core.errors import SchemaMismatch, SourceUnavailable, ValueOutsideDomain
from lethe.stores.source.connect import SourcePlace, place_of, source_engine
from lethe.stores.source.files import FolderCopy
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
            self._copy = FolderCopy(Path(folder), root=params.root, kind=kind, chunk_rows=rows)
        try:
            path = self._copy.path if self._copy else None
            engine = source_engine(params, writing=False, path=path)
            with database_errors(_place(engine.url)):
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
                self._tables = reflect(self._connection)
        return self._tables

    def outside(self) -> tuple[str, ...]:
        """What the database has beside the declared schema; reads the catalogue, no row."""
        with database_errors():
            return outside(self._connection)

    def stream(self, statement: sa.Executable) -> Iterator[pd.DataFrame]:
        """The rows of a statement in chunks, values as the driver has them (dtype object)."""
        self._fill()
        options = {"stream_results": True, "yield_per": self._params.source.chunk_rows}
        with (
            database_errors(),
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
            }
        )


def _place(url: sa.URL) -> str:
    """Where a database is, without credentials: ` at host:port`; nothing for a file."""
    if url.host is None:
        return ""
    return f" at {url.host}" + (f":{url.port}" if url.port else "")


@contextmanager
def database_errors(place: str = "") -> Iterator[None]:
    """A driver's complaint as the user's error; its own words can hold values or credentials.

    Args:
        place: where the database is, for the message; see `_place`.
    """
    try:
        yield
    except exc.DataError:
        raise ValueOutsideDomain(
            "The database could not read a value as the declarations need it (a timestamp that is "
            "none). Correct the source, or declare another column."
        ) from None
    except exc.ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) == "42501":
            raise SourceUnavailable(
                "The source refuses to be read with this role. Grant it SELECT."
            ) from None
        raise SchemaMismatch(
            "The database refused a statement over the declared columns "
            f"({type(error.orig).__name__}): a table or column is gone, or a link joins columns of "
            "different types."
        ) from None
    except exc.SQLAlchemyError as error:
        cause = type(getattr(error, "orig", None) or error).__name__
        raise SourceUnavailable(
            f"The source{place} does not answer ({cause}). Check source.url, that the database is "
            "up, and that its password is right."
        ) from None
