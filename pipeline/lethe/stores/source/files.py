"""A folder of CSV or Parquet files as a source: copied into a private SQLite file.

So there is one way to read. Only columns that may be read are copied; the others are
there by name alone, so that the schema can still be compared with the declarations.
"""

import csv
import datetime as dt
import gzip
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lethe.config.csv_form import CsvForm
from lethe.config.workspace import TEMPORARY, working
from lethe.core.errors import NotFinite, SchemaMismatch, SourceUnavailable
from lethe.core.files import disk_errors
from lethe.stores.source.number_keys import NumberKeys

Numbers = Mapping[str, frozenset[str]]  # a column of numbers → words there that are none
# 3,5 becomes a number, and 1.234, which may be a thousand or a fraction, none.
_COMMAS = str.maketrans(",.", ".,")
_LONGEST_CELL = 1 << 30  # characters; the csv module's own limit is 128 KiB
_LARGEST_INTEGER = 2**63 - 1  # that SQLite stores
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
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


def header(path: Path, kind: str, form: CsvForm) -> list[str]:
    """The column names of a file.

    Raises:
        SchemaMismatch: no header, a name twice, or one that is no name.
        SourceUnavailable: the file is not of its kind.
    """
    try:
        if kind == "parquet":
            names = list(pq.read_schema(path).names)
        else:
            with _text(path, form) as file:
                names = next(csv_rows(file, form), [])
    except (OSError, UnicodeDecodeError, pa.ArrowException, csv.Error) as error:
        raise _unreadable(path, kind, error) from None
    odd = [n for n, name in enumerate(names, start=1) if _CONTROL.search(name)]
    if odd:
        if kind == "csv" and _is_utf16(",".join(names).encode()[:4]):
            raise SourceUnavailable(_not_utf8(path))
        raise SchemaMismatch(
            f"{path.name}: the name of column {odd[0]} in the header has a control character, such "
            "as NUL. Correct the header, or save the file as UTF-8 text."
        )
    # The copy's names, as SQLite's, know no case of ASCII.
    if not names or len({name.casefold() for name in names}) != len(names):
        raise SchemaMismatch(
            f"{path.name} needs a header that names each of its columns once, in whatever case."
        )
    return names


def csv_rows(file: Iterable[str], form: CsvForm) -> Any:
    """A reader of CSV, for cells of any length."""
    csv.field_size_limit(_LONGEST_CELL)
    return csv.reader(file, **form.dialect)


def _text(path: Path, form: CsvForm) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=form.reading, newline="")
    return path.open("rt", encoding=form.reading, newline="")


class FolderCopy:
    """The private SQLite file that stands for a folder.

    Guarantees: readable by its owner alone; holds the values of `read` columns only; is gone
        after `close`; at most `chunk_rows` rows of one file are in memory.
    """

    def __init__(
        self, folder: Path, *, root: Path, kind: str, chunk_rows: int, form: CsvForm
    ) -> None:
        """Makes the empty tables, in the temporary folder of the workspace in `root`."""
        self._form = form
        self._kind = kind
        self._chunk_rows = chunk_rows
        self.filled = False
        self._files = folder_tables(folder, kind)
        self.headers = {name: header(path, kind, form) for name, path in self._files.items()}
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
            for table, names in self.headers.items():
                columns = ", ".join(map(_quoted, names))
                connection.execute(f"CREATE TABLE {_quoted(table)} ({columns})")

    def fill(
        self,
        read: Mapping[str, Sequence[str]] | None,
        *,
        first_rows: bool = False,
        numbers: Mapping[str, Numbers] | None = None,
    ) -> None:
        """Copies the columns that may be read, table by table, chunk by chunk.

        Args:
            read: the columns by table; None for all. first_rows: the first chunk of each alone.
            numbers: which columns, by table, have numbers as the files' form writes them; NaN is
                refused there, as in a database, unless it is a word for none.

        Raises:
            NotFinite: there is one.
        """
        with disk_errors(), self._writing() as connection:
            for table, path in self._files.items():
                wanted = set(self.headers[table] if read is None else read.get(table, ()))
                names = [name for name in self.headers[table] if name in wanted]
                if not names:
                    continue
                marks = ", ".join("?" * len(names))
                columns = ", ".join(map(_quoted, names))
                insert = f"INSERT INTO {_quoted(table)} ({columns}) VALUES ({marks})"
                chunks = self._chunks(path, names, (numbers or {}).get(table, {}))
                for rows in islice(chunks, 1) if first_rows else chunks:
                    connection.executemany(insert, rows)
        self.filled = True

    def number_keys(self, table: str, column: str) -> NumberKeys | None:
        """How a column of numbers spells them; CSV has texts alone."""
        if self._kind == "csv":
            return None
        declared = pq.read_schema(self._files[table]).field(column).type
        if pa.types.is_decimal(declared):
            return NumberKeys(places=declared.scale, whole_too=declared.scale != 0)
        if pa.types.is_integer(declared) or pa.types.is_floating(declared):
            return NumberKeys(floating=pa.types.is_floating(declared))
        return None

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        self._mark.close()

    def _writing(self) -> "_Writing":
        return _Writing(self.path)

    def _chunks(
        self, path: Path, names: list[str], numbers: Numbers
    ) -> Iterator[list[tuple[Any, ...]]]:
        try:
            if self._kind == "parquet":
                yield from self._parquet_chunks(path, names, numbers)
            else:
                yield from self._csv_chunks(path, names, numbers)
        except (
            OSError,
            UnicodeDecodeError,
            EOFError,
            pa.ArrowException,
            csv.Error,
        ) as error:
            raise _unreadable(path, self._kind, error) from None

    def _parquet_chunks(
        self, path: Path, names: list[str], numbers: Numbers
    ) -> Iterator[list[tuple[Any, ...]]]:
        finite = [name for name in names if "NaN" not in numbers.get(name, ("NaN",))]
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=self._chunk_rows, columns=names):
                for name in finite:
                    _refuse_nan(batch.column(name), f"{path.stem}.{name}")
                yield list(zip(*(_plain(batch.column(name)) for name in names), strict=True))

    def _csv_chunks(
        self, path: Path, names: list[str], numbers: Numbers
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Rows as text; only the empty field is null, since None and NA can be values."""
        with _text(path, self._form) as file:
            reader = csv_rows(file, self._form)
            header_names = next(reader)
            width = len(header_names)
            positions = [header_names.index(name) for name in names]
            swapped = self._form.decimal == ","
            commas = [(header_names.index(n), words) for n, words in numbers.items() if swapped]
            rows: list[tuple[Any, ...]] = []
            for row in reader:
                if not row:
                    continue
                if len(row) != width:
                    raise SourceUnavailable(
                        f"{path.name}, line {reader.line_num}: {len(row)} fields where the "
                        f"header has {width}. Correct the file."
                    )
                for position, words in commas:
                    if row[position].strip() not in words:
                        row[position] = row[position].translate(_COMMAS)
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
    if isinstance(error, UnicodeDecodeError):
        return SourceUnavailable(_not_utf8(path))
    # The reader's own words can hold a row, so they are left out.
    return SourceUnavailable(
        f"{path.name} cannot be read as {kind} ({type(error).__name__}). Correct the file."
    )


def _not_utf8(path: Path) -> str:
    """Where a file stops being UTF-8, and what it may be; nothing of its content."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        if _is_utf16(file.read(4)):
            return f"{path.name} is UTF-16, not UTF-8. Save it as UTF-8 (iconv -f UTF-16 -t UTF-8)."
        file.seek(0)
        lines = enumerate(file, start=1)
        line = next((n for n, text in lines if not _is_utf8(text)), None)
    if line is None:
        return f"{path.name} is not in the declared encoding. Correct source.csv.encoding."
    return (
        f"{path.name}, line {line}: no UTF-8 from there on; it may be Latin-1 or Windows-1252. "
        "Save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)."
    )


def _is_utf16(start: bytes) -> bool:
    nothing = b"\x00\x00"
    return start[:2] in (b"\xff\xfe", b"\xfe\xff") or nothing in (start[::2], start[1::2])


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refuse_nan(column: pa.Array, name: str) -> None:
    if not pa.types.is_floating(column.type):
        return
    wrong = pc.sum(pc.is_nan(column)).as_py() or 0
    if wrong:
        raise NotFinite(
            f"Column {name!r} has {wrong} values that are NaN. Correct the file: where there is no "
            "value, write null."
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _plain(column: pa.Array) -> list[Any]:
    """Values that SQLite can store, in the spelling of values.py."""
    values: list[Any] = column.to_pylist()
    plain = pa.types.is_primitive(column.type) and not pa.types.is_temporal(column.type)
    if plain and not pa.types.is_uint64(column.type) and not pa.types.is_decimal(column.type):
        return values
    return [_storable(value) for value in values]


def _storable(value: Any) -> Any:
    """A whole number is SQLite's own, so that keys of any whole type join; else its text.

    A decimal with places keeps them: 7.00 has been `7.00` ever since, and who has that key would
    otherwise be somebody new, who has spent nothing and asked for nothing.
    """
    if isinstance(value, Decimal) and value.as_tuple().exponent == 0:
        value = int(value)
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        return str(value)
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    return str(value)
