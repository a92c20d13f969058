"""Erasing from a folder of files: what is not the person's keeps its bytes."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lethe.config.params import Params
from lethe.core.outcomes import Traces
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.rewrite_files import Folder
from lethe.stores.source.verify import verify_source
from tests.library import NOW, at, build, declare, rows

ADA = Traces("7", None, ("Ada Quill", "ada@example.org"))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def library(kind: str, folder: Path) -> Params:
    data = rows()
    loan = (104, 8, None, None, at("2026-05-01T09:00:00"), 60, "for ada quill, 14", True, "s4")
    data["loans"][3] = loan
    url = build(kind, folder, data, None)
    return declare(url, tables__loans__columns__remark__mentions="redact")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in sorted(folder.iterdir())
    }


def test_lines_of_others_keep_their_bytes(tmp_path: Path) -> None:
    params = library("csv", tmp_path)
    before = contents(tmp_path / "csv")
    found = traces(params, "7")
    assert found == ADA
    outcome = erase_from_source(params, found, now=NOW)
    assert outcome.places == (
        "answers: 1 deleted",
        "loans: 3 deleted",
        "loans: 1 redacted",
        "readers: 1 deleted",
    )
    after = contents(tmp_path / "csv")
    assert after["branches.csv"] == before["branches.csv"]
    lines = before["loans.csv.gz"].splitlines(keepends=True)
    redacted = lines[4].replace(b"ada quill", b"<ERASED>")
    assert after["loans.csv.gz"] == lines[0] + redacted
    lines = before["readers.csv"].splitlines(keepends=True)
    assert after["readers.csv"] == b"".join([lines[0], *lines[2:]])
    assert verify_source(params, found).result == "absent"
    assert erase_from_source(params, found, now=NOW).result == "absent"
    assert contents(tmp_path / "csv") == after


def test_a_files_own_style_is_kept(tmp_path: Path) -> None:
    params = library("csv", tmp_path)
    readers = tmp_path / "csv" / "readers.csv"
    readers.write_bytes(
        b"\xef\xbb\xbfreader_id,name,email,born,shoe_size\r\n"
        b'8,"Bo\r\n""the"" Larkspur",bo@example.org,2010-01-01,44\r\n\r\n'
        b'7,"Ada Quill",ada@example.org,1990-06-02,38\r\n'
        b"9,'Cleo' Fenwick,cleo@example.org,,40"
    )
    readers.chmod(0o640)
    erase_from_source(params, ADA, now=NOW)
    assert readers.read_bytes() == (
        b"\xef\xbb\xbfreader_id,name,email,born,shoe_size\r\n"
        b'8,"Bo\r\n""the"" Larkspur",bo@example.org,2010-01-01,44\r\n\r\n'
        b"9,'Cleo' Fenwick,cleo@example.org,,40"
    )
    assert readers.stat().st_mode & 0o777 == 0o640


def test_parquet_keeps_types_and_other_rows(tmp_path: Path) -> None:
    params = library("parquet", tmp_path)
    before = pq.read_table(tmp_path / "parquet" / "loans.parquet")
    erase_from_source(params, traces(params, "7"), now=NOW)
    after = pq.read_table(tmp_path / "parquet" / "loans.parquet")
    assert after.schema == before.schema
    expected = before.to_pylist()[3] | {"remark": "for <ERASED>, 14"}
    assert after.to_pylist() == [expected]
    assert b"Ada Quill" not in b"".join(contents(tmp_path / "parquet").values())
    assert verify_source(params, ADA).result == "absent"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_was_stopped_between_two_files_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    params = library(kind, tmp_path)
    found = traces(params, "7")
    replaced: list[str] = []
    rewrite = Folder.rewrite

    def stopping(self: Folder, name: str, *rest: Any) -> None:
        if len(replaced) == 2:
            raise KeyboardInterrupt
        rewrite(self, name, *rest)
        replaced.append(name)

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "rewrite", stopping)
        with pytest.raises(KeyboardInterrupt):
            erase_from_source(params, found, now=NOW)
    assert replaced[-1] != "readers"  # the person's own row leads to the others
    assert verify_source(params, found).result == "present"
    assert traces(params, "7") == found
    assert erase_from_source(params, found, now=NOW).result == "erased"
    assert verify_source(params, found).result == "absent"
    assert not list((tmp_path / ".lethe").rglob("source-*"))


def test_a_file_that_somebody_changes_meanwhile_is_left_for_another_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = library("csv", tmp_path)
    found = traces(params, "7")
    rewrite = Folder.rewrite

    def disturbed(self: Folder, name: str, *rest: Any) -> None:
        with (tmp_path / "csv" / "answers.csv").open("a") as file:
            file.write("8,reading,yes,2026-03-01\n")
        rewrite(self, name, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "rewrite", disturbed)
        outcome = erase_from_source(params, found, now=NOW)
    assert outcome.result == "unreachable"
    assert outcome.reason is not None and "answers.csv changed" in outcome.reason
    assert erase_from_source(params, found, now=NOW).result == "erased"
    assert b"8,reading,yes,2026-03-01" in contents(tmp_path / "csv")["answers.csv"]
    assert verify_source(params, found).result == "absent"
