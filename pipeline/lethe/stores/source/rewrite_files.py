"""A folder of CSV or Parquet files as a source that people can be erased from.

The folder's private copy is a SQLite file, erased from as any other; then the files whose
rows changed are written anew beside their place and renamed over it. A row that did not
change keeps its bytes (CSV) or its values and types (Parquet).
"""

import csv
import gzip
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lethe.config.csv_form import CsvForm
from lethe.config.params import Params
from lethe.core.errors import Busy, ErasureRefused, SourceUnavailable
from lethe.core.files import disk_errors
from lethe.core.values import canonical_text
from lethe.stores.source.files import FolderCopy, csv_rows, folder_tables, header

_ROWS_AT_ONCE = 65_536

Changes = Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Folder:
    """A folder's files as they were when they were copied, and the copy."""

    kind: str
    files: Mapping[str, Path]
    seen: Mapping[str, tuple[int, int, int]]
    copy: Path
    form: CsvForm

    def rewrite(self, name: str, deleted: set[int], changed: Changes) -> None:
        """Writes one table's file without the deleted rows and with the changed values.

        Args:
            deleted, changed: by the row's number in the file, the first one being 1.

        Raises:
            Busy: somebody else changed the file since it was read.
            SourceUnavailable: the folder cannot be written to.
        """
        path = self.files[name]
        staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with disk_errors():
                if self.kind == "parquet":
                    _write_parquet(path, staging, deleted, changed)
                else:
                    _write_csv(path, staging, deleted, changed, self.form)
                staging.chmod(path.stat().st_mode & 0o777)
                if _state(path) != self.seen[name]:
                    raise Busy(f"{path.name} changed while a person was erased; try again.")
                staging.replace(path)
        except (PermissionError, FileNotFoundError):
            raise SourceUnavailable(
                f"{path.name} is gone or cannot be replaced. Check the folder's permissions."
            ) from None
        finally:
            staging.unlink(missing_ok=True)


@contextmanager
def folder_of(params: Params) -> Iterator[Folder | None]:
    """The source's folder with a private copy of all of it; None if it is a database.

    Raises:
        SourceUnavailable, SchemaMismatch: see `source_files`.
    """
    kind, _, place = params.address(params.source.url).partition(":")
    if kind not in ("csv", "parquet"):
        yield None
        return
    files = folder_tables(Path(place), kind)
    seen = {name: _state(path) for name, path in files.items()}
    rows, form = params.source.chunk_rows, params.source.csv
    copied = FolderCopy(Path(place), root=params.root, kind=kind, chunk_rows=rows, form=form)
    try:
        copied.fill({name: header(path, kind, form) for name, path in files.items()})
        yield Folder(kind, files, seen, copied.path, form)
    finally:
        copied.close()


@contextmanager
def readable(params: Params) -> Iterator[Path | None]:
    """A folder's private copy as a SQLite file; None for a database, which is read itself."""
    with folder_of(params) as folder:
        yield folder.copy if folder else None


def _state(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _write_csv(
    path: Path, staging: Path, deleted: set[int], changed: Changes, form: CsvForm
) -> None:
    zipped = path.suffix == ".gz"
    opened: Any = gzip.open if zipped else open
    with (
        opened(path, "rt", encoding=form.encoding, newline="") as file,
        staging.open("xb") as target,
        _text(target, zipped, form) as made,
    ):
        for piece in _kept_lines(file, deleted, changed, form):
            made.write(piece)
        made.flush()
        if not zipped:
            os.fsync(target.fileno())


def _text(target: IO[bytes], zipped: bool, form: CsvForm) -> IO[str]:
    # No name and no time in the header: the same rows are the same bytes.
    raw: Any = gzip.GzipFile("", "wb", fileobj=target, mtime=0) if zipped else target
    return io.TextIOWrapper(raw, encoding=form.encoding, newline="")


def _kept_lines(file: IO[str], deleted: set[int], changed: Changes, form: CsvForm) -> Iterator[str]:
    """Records as they stand in the file; only changed ones are spelled anew."""
    lines: list[str] = []

    def noted() -> Iterator[str]:
        for line in file:
            lines.append(line)
            yield line

    names: list[str] = []
    number = 0
    for row in csv_rows(noted(), form):
        raw = "".join(lines)
        lines.clear()
        if not names:
            names = [name.removeprefix("\ufeff") for name in row]
            yield raw
            continue
        number += bool(row)
        if number in changed and row:
            values = dict(zip(names, row, strict=True)) | {
                name: "" if value is None else canonical_text(value)
                for name, value in changed[number].items()
            }
            end = raw[len(raw.rstrip("\r\n")) :]
            line = io.StringIO()
            csv.writer(line, lineterminator=end, **form.dialect).writerow(values.values())
            yield line.getvalue()
        elif number not in deleted or not row:
            yield raw


def _with_changes(table: Any, name: str, numbers: Sequence[int], changed: Changes) -> Any:
    """The table with one column's new values; `numbers` are its rows' in the file."""
    values = [
        changed[number][name] if name in changed.get(number, ()) else value
        for number, value in zip(numbers, table.column(name).to_pylist(), strict=True)
    ]
    field = table.schema.field(name)
    place = table.schema.get_field_index(name)
    try:
        return table.set_column(place, field, pa.array(values, type=field.type))
    except pa.ArrowException:  # whose own words hold the value
        raise ErasureRefused(
            f"Column {name!r} is of {field.type}, which cannot hold what the erasure writes there. "
            "Declare delete for its table, or give the column whole numbers or text."
        ) from None


def _write_parquet(path: Path, staging: Path, deleted: set[int], changed: Changes) -> None:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        groups = file.metadata.num_row_groups
        columns = file.metadata.num_columns
        codec = file.metadata.row_group(0).column(0).compression if groups and columns else "SNAPPY"
        start = 1
        with pq.ParquetWriter(staging, schema, compression=codec) as writer:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                numbers = range(start, start + batch.num_rows)
                start += batch.num_rows
                table = pa.Table.from_batches([batch], schema=schema)
                for name in {n for number in numbers for n in changed.get(number, ())}:
                    table = _with_changes(table, name, numbers, changed)
                writer.write_table(table.filter(pa.array([n not in deleted for n in numbers])))
    with staging.open("rb") as made:
        os.fsync(made.fileno())
