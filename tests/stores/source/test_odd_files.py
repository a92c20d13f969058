"""Files as people have them: odd keys, long cells, other encodings, and what is said of them."""

import gzip
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lethe.config.csv_form import CsvForm
from lethe.core.errors import (
    ErasureRefused,
    LetheError,
    NotFinite,
    SchemaMismatch,
    SourceUnavailable,
)
from lethe.core.outcomes import Traces
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.files import FolderCopy, header
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests.library import NOW, build, declare, rows

UNSIGNED = 2**63
Cast = Callable[[pa.ChunkedArray], pa.ChunkedArray]


def edited(folder: Path, table: str, column: str, cast: Cast) -> None:
    path = folder / "parquet" / f"{table}.parquet"
    made = pq.read_table(path)
    place = made.schema.get_field_index(column)
    pq.write_table(made.set_column(place, column, cast(made[column])), path)


def as_type(kind: pa.DataType, change: Callable[[Any], Any] = lambda value: value) -> Cast:
    def cast(values: pa.ChunkedArray) -> pa.ChunkedArray:
        changed = [None if v is None else change(v) for v in values.to_pylist()]
        return pa.chunked_array([pa.array(changed, type=kind)])

    return cast


def people(url: str) -> set[str]:
    params = declare(url)
    with Source.open(params) as source:
        source.check(params)
        return {
            str(each) for chunk in source.records(params, NOW) for each in chunk.subject.dropna()
        }


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return build("parquet", tmp_path, rows(), None)


KINDS = {
    "unsigned": as_type(pa.uint64()),
    "whole decimal": as_type(pa.decimal128(38, 0), Decimal),
    "small": as_type(pa.int8()),
    "floating": as_type(pa.float64(), float),
}


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_other_numeric_types_join(url: str, kind: str, tmp_path: Path) -> None:
    before = people(url)
    edited(tmp_path, "readers", "reader_id", KINDS[kind])
    assert people(url) == before
    assert before


@pytest.mark.parametrize("places", [1, 2, 10, 18])
def test_decimal_keys_with_places_are_spelled_as_ever(
    url: str, tmp_path: Path, places: int
) -> None:
    def spelled(value: Any) -> Decimal:
        return Decimal(int(value)).quantize(Decimal(1).scaleb(-places))

    expected = {str(spelled(each)) for each in people(url)}
    kind = as_type(pa.decimal128(30, places), spelled)
    for table in ("readers", "loans", "answers"):
        edited(tmp_path, table, "reader_id", kind)
    assert people(url) == expected, "else everybody has a new token, and suppressions match nobody"
    found = Traces(str(spelled(7)), None, ())
    assert erase_from_source(declare(url), found, now=NOW).result == "erased"
    assert verify_source(declare(url), found).result == "absent"


def test_decimal_keys_with_places_cannot_be_anonymized_and_that_is_said(
    url: str, tmp_path: Path
) -> None:
    for table in ("readers", "loans", "answers"):
        edited(tmp_path, table, "reader_id", as_type(pa.decimal128(20, 2), Decimal))
    params = declare(url, tables__readers__erase={"action": "anonymize", "columns": ["reader_id"]})
    with pytest.raises(ErasureRefused, match=r"reader_id.*decimal128\(20, 2\)") as raised:
        erase_from_source(params, Traces("7.00", None, ()), now=NOW)
    assert "7.00" not in str(raised.value)


def test_decimal_keys_with_places_that_link_to_whole_numbers_are_named(
    url: str, tmp_path: Path
) -> None:
    edited(tmp_path, "readers", "reader_id", as_type(pa.decimal128(20, 2), Decimal))
    with pytest.raises(SchemaMismatch, match=r"holds numbers.*text.*no row is at fault"):
        people(url)


def test_unsigned_keys_beyond_a_databases_own_join_and_can_be_erased(
    url: str, tmp_path: Path
) -> None:
    far = as_type(pa.uint64(), lambda value: value + UNSIGNED)
    expected = {str(int(each) + UNSIGNED) for each in people(url)}
    for table in ("readers", "loans", "answers"):
        edited(tmp_path, table, "reader_id", far)
    assert people(url) == expected
    found = Traces(str(7 + UNSIGNED), None, ())
    assert erase_from_source(declare(url), found, now=NOW).result == "erased"
    assert verify_source(declare(url), found).result == "absent"


def test_ends_of_a_link_that_cannot_join_are_named(url: str, tmp_path: Path) -> None:
    edited(tmp_path, "readers", "reader_id", as_type(pa.string(), str))
    with pytest.raises(SchemaMismatch, match=r"holds numbers.*text.*no row is at fault"):
        people(url)


@pytest.mark.parametrize("width", [32, 64])
def test_nan_in_parquet_is_refused_as_in_a_database(url: str, tmp_path: Path, width: int) -> None:
    kind = pa.float32() if width == 32 else pa.float64()
    edited(tmp_path, "loans", "days", as_type(kind, lambda value: float("nan")))
    with pytest.raises(NotFinite, match=r"loans\.days.*[0-9] values that are NaN"):
        people(url)


def copied(folder: Path, kind: str = "csv") -> list[tuple[Any, ...]]:
    import sqlite3

    copy = FolderCopy(folder, root=folder, kind=kind, chunk_rows=2, form=CsvForm())
    try:
        copy.fill({"t": ["a", "b"]})
        return sqlite3.connect(copy.path).execute("SELECT * FROM t").fetchall()
    finally:
        copy.close()


def test_a_cell_may_be_longer_than_the_csv_modules_own_limit(tmp_path: Path) -> None:
    long = "x" * 300_000
    (tmp_path / "t.csv").write_text(f"a,b\n1,{long}\n")
    assert copied(tmp_path) == [("1", long)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n3,J\xfcrgen\n", "t.csv, line 3: no UTF-8.*Latin-1.*iconv"),
        (b"a,b\n" + b"1,2\n" * 50_000 + b"3,\xe9\n", "line 50002: no UTF-8"),
        (b"a,\xdcber\n1,2\n", "line 1: no UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16, not UTF-8.*iconv"),
        ("a,b\n1,2\n".encode("utf-16-be"), "is UTF-16"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_another_encoding_is_named_with_its_line(
    tmp_path: Path, content: bytes, words: str, zipped: bool
) -> None:
    if zipped:
        (tmp_path / "t.csv.gz").write_bytes(gzip.compress(content))
        words = words.replace("t.csv", "t.csv.gz")
    else:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises((SourceUnavailable, SchemaMismatch), match=words) as raised:
        copied(tmp_path)
    assert "rgen" not in str(raised.value)


@pytest.mark.parametrize("names", ["a,b\x00c", "a\x00", "a,\x1b[31m", '"a\nb",c', "a,A", "a,a", ""])
def test_a_header_that_names_no_columns_is_refused(tmp_path: Path, names: str) -> None:
    (tmp_path / "t.csv").write_text(names + "\n1,2\n")
    with pytest.raises(SchemaMismatch, match="header"):
        header(tmp_path / "t.csv", "csv", CsvForm())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x00" * 40, b"PAR1", b"PAR1" + b"\xff" * 60 + b"PAR1"),
        *(b'a,b\n"1,2', b"a,b\n1\x00,2"),
    ],
)
def test_whatever_a_file_holds_it_is_read_or_reported(
    tmp_path: Path, kind: str, content: bytes
) -> None:
    (tmp_path / f"t.{kind}").write_bytes(content)
    try:
        copied(tmp_path, kind)
    except LetheError as error:
        assert error.exit_code in (11, 12)
