"""What holds for one kind of source; what holds for all is in tests/contract."""

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from lethe.config.workspace import TEMPORARY
from lethe.core.errors import ParamsInvalid, SchemaMismatch, SourceUnavailable, SubjectKeyInvalid
from lethe.stores.source.read import Source
from tests.library import NOW, at, build, declare, rows


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_absent_sqlite_file_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=r"nothing\.db does not exist"):
        Source.open(declare("sqlite:///nothing.db"))
    assert not (tmp_path / "nothing.db").exists()


def test_an_sqlite_source_cannot_be_written(tmp_path: Path) -> None:
    params = declare(build("sqlite", tmp_path, rows(), None))
    with (
        Source.open(params) as source,
        source.engine.connect() as connection,
        pytest.raises(sa.exc.OperationalError, match="readonly"),
    ):
        connection.execute(sa.text("DELETE FROM loans"))


def test_a_file_that_is_no_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database, but long enough to be read as one" * 20)
    with pytest.raises(SourceUnavailable) as caught, Source.open(declare("sqlite:///x.db")) as s:
        s.tables()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "sqlite://",
        "oddbase://me:hunter2@host/db",
        "postgresql://me:hunter2@127.0.0.1:1/db",
    ],
)
def test_a_source_that_cannot_be_opened_shows_no_credentials(url: str) -> None:
    with pytest.raises(SourceUnavailable) as caught:
        Source.open(declare(url))
    assert "hunter2" not in str(caught.value) and "me:" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_url_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = build("sqlite", tmp_path, rows(), None)
    with pytest.raises(ParamsInvalid, match="LIBRARY_URL"):
        Source.open(declare("env:LIBRARY_URL"))
    monkeypatch.setenv("LIBRARY_URL", url)
    with Source.open(declare("env:LIBRARY_URL")) as source:
        assert set(source.tables()) == set(rows())


@pytest.mark.parametrize(
    ("spelling", "kept"),
    [
        ("2026-05-31T12:00:00+00:00", True),
        ("2026-05-31 12:00:00", True),
        ("2026-05-31T00:30:00+09:00", True),  # the day before in UTC
        ("2026-05-30T23:30:00-09:00", False),  # the day after in UTC
        ("2026-05-31T00:00:00Z", True),
        ("2026-05-30 23:59:59.999", False),
        ("2026-05-31", True),
        ("2026-05-30", False),
        ("soon", False),
        (1780228800, False),  # a bare number: its unit is unknown
        (None, False),
    ],
)
def test_sqlite_timestamps_of_every_spelling_are_compared_by_their_day(
    tmp_path: Path, spelling: Any, kept: bool
) -> None:
    params = declare(
        build("sqlite", tmp_path, rows(), None),
        tables__loans__retention={"days": 1, "by": "lent_at"},
    )
    with sqlite3.connect(tmp_path / "library.db") as connection:
        connection.execute("DELETE FROM loans WHERE loan_id > 101")
        connection.execute("UPDATE loans SET lent_at = ?", [spelling])
    connection.close()
    with Source.open(params) as source:
        assert sum(len(chunk.subject) for chunk in source.records(params, NOW)) == int(kept)


def test_keys_that_are_one_person_as_text_are_refused(tmp_path: Path) -> None:
    """SQLite holds 7 and '7' side by side."""
    params = declare(build("sqlite", tmp_path, rows(), None))
    with sqlite3.connect(tmp_path / "library.db") as connection:
        connection.execute("CREATE TABLE copy AS SELECT * FROM readers")
        connection.execute("DROP TABLE readers")
        connection.execute("CREATE TABLE readers (reader_id, name, email, born, shoe_size)")
        connection.execute("INSERT INTO readers SELECT * FROM copy")
        connection.execute("INSERT INTO readers (reader_id) VALUES ('7'), (NULL)")
        connection.execute("DROP TABLE copy")
    connection.close()
    with (
        Source.open(params) as source,
        pytest.raises(SubjectKeyInvalid, match="1 keys are null and 1 are repeated among 5"),
    ):
        source.check(params)


def test_a_view_may_be_declared_and_need_not_be(tmp_path: Path) -> None:
    url = build("sqlite", tmp_path, rows(), None)
    with sqlite3.connect(tmp_path / "library.db") as connection:
        connection.execute("CREATE VIEW grown AS SELECT * FROM readers")
    connection.close()
    with Source.open(declare(url)) as source:
        source.check(declare(url))
        assert source.tables()["grown"].view


def test_an_undeclared_table_stops_the_run_with_the_nearest_name(tmp_path: Path) -> None:
    url = build("sqlite", tmp_path, rows(), None)
    with sqlite3.connect(tmp_path / "library.db") as connection:
        connection.execute("CREATE TABLE loan (x)")
    connection.close()
    with (
        Source.open(declare(url)) as source,
        pytest.raises(SchemaMismatch, match="'loan' is not declared; did you mean 'loans'"),
    ):
        source.check(declare(url))


def test_a_reader_that_stops_halfway_leaves_nothing_open(tmp_path: Path) -> None:
    params = declare(build("sqlite", tmp_path, rows(), None), source__chunk_rows=1)
    with Source.open(params) as source:
        started: Iterator[Any] = source.records(params, NOW)
        next(started)
    with sqlite3.connect(tmp_path / "library.db", timeout=0) as connection:
        connection.execute("DELETE FROM loans")
    connection.close()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folders_copy_is_private_holds_only_what_may_be_read_and_goes(
    tmp_path: Path, kind: str
) -> None:
    params = declare(build(kind, tmp_path, rows(), None))
    with Source.open(params) as source:
        source.check(params)
        list(source.records(params, NOW))
        (copy,) = TEMPORARY.glob("source-*.db")
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        content = copy.read_bytes()
        assert b"Aby" in content
        for never in (b"ada@example.org", b"Quill", b"large print", b"s1"):
            assert never not in content
    assert not list(TEMPORARY.glob("*"))


def test_a_folders_copy_goes_when_the_run_stops(tmp_path: Path) -> None:
    params = declare(build("csv", tmp_path, rows(), None))
    with pytest.raises(KeyError), Source.open(params) as source:
        source.check(params)
        raise KeyError
    assert not list(TEMPORARY.glob("*"))


def _folder(tmp_path: Path) -> Path:
    return Path(build("csv", tmp_path, rows(), None).removeprefix("csv:"))


def test_none_and_na_in_a_csv_file_are_words_and_only_emptiness_is_null(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "branches.csv").write_text(
        "town,number,kind,opened_at\nAby,1,None,2020-01-01\nAby,2,,2020-01-01\n"
    )
    params = declare(f"csv:{folder}")
    with Source.open(params) as source:
        values = pd.concat([c.values["kind"] for c in source.records(params, NOW)])
    assert sorted(map(str, values)) == ["None", "None", "None"]  # the word, the null, the unlinked
    assert values.isna().sum() == 2


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"town,number,kind,opened_at\nAby,1,main\n", SourceUnavailable, "line 2: 3 fields.* 4"),
        (b"town,number,kind,opened_at\na,b,c,d,Secretname\n", SourceUnavailable, "5 fields"),
        (b"town,town,kind,opened_at\n", SchemaMismatch, "names each of its columns once"),
        (b"", SchemaMismatch, "needs a header"),
        (b"town,number,kind,opened_at\n\xff\xfe,1,2,3\n", SourceUnavailable, "line 2: no UTF-8"),
        (b'town,number,kind,opened_at\n"Aby,1,2,3\n', SourceUnavailable, "cannot be read as csv"),
    ],
)
def test_a_broken_csv_file_is_named_and_its_content_is_not(
    tmp_path: Path, content: bytes, error: type[Exception], message: str
) -> None:
    folder = _folder(tmp_path)
    (folder / "branches.csv").write_bytes(content)
    params = declare(f"csv:{folder}")
    with pytest.raises(error, match=message) as caught, Source.open(params) as source:
        source.check(params)
    assert "branches.csv" in str(caught.value) and "Secretname" not in str(caught.value)
    assert not list(TEMPORARY.glob("*"))


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    folder = Path(build("parquet", tmp_path, rows(), None).removeprefix("parquet:"))
    (folder / "loans.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(SourceUnavailable, match=r"loans\.parquet cannot be read as parquet"):
        Source.open(declare(f"parquet:{folder}"))
    assert not list(TEMPORARY.glob("*"))


def test_two_files_of_one_table_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "readers.csv.gz").write_bytes(b"")
    with pytest.raises(SchemaMismatch, match=r"readers\.csv.* are both table 'readers'"):
        Source.open(declare(f"csv:{folder}"))


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_tables_is_refused(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "empty").mkdir()
    with pytest.raises(SourceUnavailable):
        Source.open(declare(f"csv:{tmp_path / 'empty'}"))


def test_parquet_is_copied_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the whole table in memory: counted by the rows that are handed on at once."""
    loans = [(n, 7, "Aby", 1, at("2026-01-01"), 5, None, True, "s") for n in range(1000)]
    url = build("parquet", tmp_path, rows() | {"loans": loans}, None)
    sizes: list[int] = []
    real = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, **options: Any) -> Iterator[pa.RecordBatch]:
        for batch in real(self, **options):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    params = declare(url, source__chunk_rows=64)
    with Source.open(params) as source:
        assert sum(len(c.subject) for c in source.records(params, NOW)) == 1000
    assert max(sizes) <= 64
