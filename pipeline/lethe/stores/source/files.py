"""A folder of CSV or Parquet files as a source: copied into a private SQLite file.

So there is one way to read. Only columns that may be read are copied; the others are
there by name alone, so that the schema can still be compared with the declarations.
"""

import csv
import datetime as dt
import gzip
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lethe.config.workspace import TEMPORARY, working
from lethe.core.errors import SchemaMismatch, SourceUnavailable
from lethe.core.files import disk_errors

_SUFFIXES = {"csv": (".csv", ".csv.gz"), "parquet": (".parquet",)}


def folder_tables(folder: Path, kind: str) -> dict[str, Path]:
    """Table name → its file, for every file of the kind in a folder.

    Raises:
        SourceUnavailable: no such folder, or no such file in it.
        SchemaMismatch: two files make one table.
    """
    if not folder.is_dir():
        raise SourceUnavailable(f"The source folder {folder} does not exist. Correct source.url.")
    tables: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        for suffix in _SUFFIXES[kind]:
            if path.name.endswith(suffix) and path.is_file() and not path.name.startswith("."):
                name = path.name.removesuffix(suffix)
                if name in tables:
                    raise SchemaMismatch(
                        f"{tables[name].name} and {path.name} are both table {name!r}. Keep one."
                    )
                tables[name] = path
    if not tables:
        raise SourceUnavailable(
            f"The source folder {folder} has no {kind} file. Correct source.url."
        )
    return tables


def header(path: Path, kind: str) -> list[str]:
    """The column names of a file.

    Raises:
        SchemaMismatch: no header, or a name twice.
        SourceUnavailable: the file is not of its kind.
    """
    try:
        if kind == "parquet":
            names = list(pq.read_schema(path).names)
        else:
            with _text(path) as file:
                names = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, pa.ArrowException, csv.Error) as error:
        raise _unreadable(path, kind, error) from None
    if not names or len(set(names)) != len(names):
        raise SchemaMismatch(f"{path.name} needs a header that names each of its columns once.")
    return names


def _text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open("rt", encoding="utf-8-sig", newline="")


class FolderCopy:
    """The private SQLite file that stands for a folder.

    Guarantees: readable by its owner alone; holds the values of `read` columns only; is gone
        after `close`; at most `chunk_rows` rows of one file are in memory.
    """

    def __init__(self, folder: Path, *, root: Path, kind: str, chunk_rows: int) -> None:
        """Makes the empty tables, in the temporary folder of the workspace in `root`."""
        self._kind = kind
        self._chunk_rows = chunk_rows
        self.filled = False
        self._files = folder_tables(folder, kind)
        self._headers = {name: header(path, kind) for name, path in self._files.items()}
        self._mark = ExitStack()
        self._mark.enter_context(
            working(root)
        )  # if it is killed, the next command removes the copy
        temporary = root / TEMPORARY
        temporary.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(prefix="source-", suffix=".db", dir=temporary)
        os.close(descriptor)
        self.path = Path(name).absolute()
        with self._writing() as connection:
            for table, names in self._headers.items():
                columns = ", ".join(map(_quoted, names))
                connection.execute(f"CREATE TABLE {_quoted(table)} ({columns})")

    def fill(self, read: Mapping[str, Sequence[str]]) -> None:
        """Copies the columns that may be read, table by table, chunk by chunk."""
        with disk_errors(), self._writing() as connection:
            for table, path in self._files.items():
                wanted = set(read.get(table, ()))
                names = [name for name in self._headers[table] if name in wanted]
                if not names:
                    continue
                marks = ", ".join("?" * len(names))
                columns = ", ".join(map(_quoted, names))
                insert = f"INSERT INTO {_quoted(table)} ({columns}) VALUES ({marks})"
                for rows in self._chunks(path, names):
                    connection.executemany(insert, rows)
        self.filled = True

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        self._mark.close()

    def _writing(self) -> "_Writing":
        return _Writing(self.path)

    def _chunks(self, path: Path, names: list[str]) -> Iterator[list[tuple[Any, ...]]]:
        try:
            if self._kind == "parquet":
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(batch_size=self._chunk_rows, columns=names):
                        lists = [_plain(batch.column(name)) for name in names]
                        yield list(zip(*lists, strict=True))
            else:
                yield from self._csv_chunks(path, names)
        except (
            OSError,
            UnicodeDecodeError,
            EOFError,
            pa.ArrowException,
            csv.Error,
        ) as error:
            raise _unreadable(path, self._kind, error) from None

    def _csv_chunks(self, path: Path, names: list[str]) -> Iterator[list[tuple[Any, ...]]]:
        """Rows as text; only the empty field is null, since None and NA can be values."""
        with _text(path) as file:
            reader = csv.reader(file, strict=True)
            header_names = next(reader)
            width = len(header_names)
            positions = [header_names.index(name) for name in names]
            rows: list[tuple[Any, ...]] = []
            for row in reader:
                if not row:
                    continue
                if len(row) != width:
                    raise SourceUnavailable(
                        f"{path.name}, line {reader.line_num}: {len(row)} fields where the "
                        f"header has {width}. Correct the file."
                    )
                rows.append(tuple(row[position] or None for position in positions))
                if len(rows) == self._chunk_rows:
                    yield rows
                    rows = []
            if rows:
                yield rows


class _Writing:
    """One write transaction on the copy; speed before durability, since it is scratch."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._connection.commit()
        finally:
            self._connection.close()


def _unreadable(path: Path, kind: str, error: Exception) -> SourceUnavailable:
    # The reader's own words can hold a row, so they are left out.
    return SourceUnavailable(
        f"{path.name} cannot be read as {kind} ({type(error).__name__}). Correct the file."
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _plain(column: pa.Array) -> list[Any]:
    """Values that SQLite can store, in the spelling of values.py."""
    values: list[Any] = column.to_pylist()
    if pa.types.is_primitive(column.type) and not pa.types.is_temporal(column.type):
        return values
    return [_storable(value) for value in values]


def _storable(value: Any) -> Any:
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    return str(value)
