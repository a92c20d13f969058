"""The real encounters' file: kept as it is, fetched and refused."""

import gzip
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lethe.core.errors import DownloadFailed, NotFound, SourceUnavailable
from lethe.sample import build_clinic, diabetes, download_diabetes
from lethe.sample.diabetes import COLUMNS
from tests.postgres import postgres_server, postgres_url, postgres_urls  # noqa: F401
from tests.sample.test_sample import NOW, column, rows


def encounter(number: int, patient: int, **values: str) -> dict[str, str]:
    """A row of the file as the publisher writes it, with what the test does not care about."""
    row = dict.fromkeys(COLUMNS, "No") | {
        "encounter_id": str(number),
        "patient_nbr": str(patient),
        "race": "?",
        "gender": "Female",
        "age": "[70-80)",
        "weight": "?",
        "diag_1": "250.83",
        "diag_2": "?",
        "readmitted": ">30",
    }
    return row | dict.fromkeys(diabetes.NUMBERS - {"encounter_id"}, "3") | values


def write_file(path: Path, encounters: list[dict[str, str]]) -> Path:
    lines = [",".join(COLUMNS), *(",".join(row.values()) for row in encounters)]
    content = ("\r\n".join(lines) + "\r\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


THREE = [
    encounter(900, 42, readmitted="<30", diag_1="V57"),
    encounter(100, 8222157, gender="Male", age="[0-10)"),
    encounter(500, 42, readmitted="NO", time_in_hospital="14"),
]


@pytest.mark.parametrize("name", ["diabetic_data.csv", "diabetic_data.csv.gz"])
def test_real_rows_are_kept_as_the_file_has_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / "clinic.db"
    file = write_file(tmp_path / name, THREE)
    summary = build_clinic(f"sqlite:///{path}", encounters_file=file, now=NOW)
    assert (summary.encounters_are, summary.patients, summary.encounters) == ("real", 2, 3)
    assert rows(
        path,
        "SELECT encounter_id, patient_id, gender, age, weight, time_in_hospital, diag_1, diag_2, "
        'readmitted, "glyburide-metformin" FROM encounters ORDER BY admitted_at',
    ) == [
        (100, "P008222157", "Male", "[0-10)", "?", 3, "250.83", "?", ">30", "No"),
        (500, "P000000042", "Female", "[70-80)", "?", 14, "250.83", "?", "NO", "No"),
        (900, "P000000042", "Female", "[70-80)", "?", 3, "V57", "?", "<30", "No"),
    ]
    assert column(path, "SELECT min(admitted_at) > '2016-11-03' FROM encounters") == [1]
    assert column(path, "SELECT patient_id FROM patients ORDER BY 1") == [
        "P000000042",
        "P008222157",
    ]


def broken(tmp_path: Path, what: str) -> Path:
    file = tmp_path / "file.csv"
    if what == "other header":
        file.write_text("name,email\r\nAda,ada@example.org\r\n")
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "header only":
        write_file(file, [])
    elif what == "number twice":
        write_file(file, [THREE[0], THREE[0]])
    elif what == "no number":
        write_file(file, [THREE[0], encounter(7, 7, num_medications="Ada Lovelace")])
    elif what == "no age":
        write_file(file, [encounter(7, 7, age="old")])
    elif what == "field too many":
        write_file(file, [THREE[0], encounter(7, 7, race="a,b")])
    elif what == "cut gzip":
        file = write_file(tmp_path / "file.csv.gz", [encounter(n, n) for n in range(1, 2_000)])
        file.write_bytes(file.read_bytes()[:-400])
    else:
        file = tmp_path / "file.csv.gz"
        file.write_bytes(b"no gzip")
    return file


@pytest.mark.parametrize(
    "what",
    [
        "other header",
        "empty",
        "header only",
        "number twice",
        "no number",
        "no age",
        "field too many",
        "cut gzip",
        "no gzip",
    ],
)
def test_another_file_is_refused_in_one_line_and_the_old_clinic_stays(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "folder" / "clinic.db"
    build_clinic(f"sqlite:///{path}", patients=10, now=NOW)
    before = path.read_bytes()
    with pytest.raises(SourceUnavailable) as caught:
        build_clinic(f"sqlite:///{path}", encounters_file=broken(tmp_path, what), now=NOW)
    assert "\n" not in str(caught.value)
    assert "Ada" not in str(caught.value)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == ["clinic.db"]


def test_an_absent_file_is_not_found_and_the_message_says_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"10\.24432/C5230J"):
        build_clinic(
            f"sqlite:///{tmp_path / 'c.db'}", encounters_file=tmp_path / "none.csv", now=NOW
        )
    assert list(tmp_path.iterdir()) == []


def zipped(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path.as_uri()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """Some bytes that count as the published file."""
    content = b"the published file"
    monkeypatch.setattr(diabetes, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.delenv("LETHE_DIABETES_URL", raising=False)
    yield content


def test_the_published_file_is_fetched_from_the_option_or_the_environment(
    tmp_path: Path, published: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = zipped(tmp_path / "a.zip", {"dataset/diabetic_data.csv": published, "other": b""})
    download_diabetes(tmp_path / "option" / "file.csv", url=address)
    monkeypatch.setenv("LETHE_DIABETES_URL", address)
    download_diabetes(tmp_path / "environment.csv")
    assert (tmp_path / "option" / "file.csv").read_bytes() == published
    assert (tmp_path / "environment.csv").read_bytes() == published


@pytest.mark.parametrize("what", ["changed", "absent", "no zip", "no file", "ftp", "none", "odd"])
def test_what_is_not_the_published_file_is_not_kept(
    tmp_path: Path, published: bytes, what: str
) -> None:
    (tmp_path / "text").write_text("a page of the repository")
    address = {
        "changed": zipped(tmp_path / "a.zip", {"diabetic_data.csv": published + b" "}),
        "absent": zipped(tmp_path / "b.zip", {"other.csv": published}),
        "no zip": (tmp_path / "text").as_uri(),
        "no file": (tmp_path / "nothing.zip").as_uri(),
        "ftp": "ftp://127.0.0.1/a.zip",
        "none": None,
        "odd": "http://[",
    }[what]
    target = tmp_path / "file.csv"
    target.write_bytes(b"before")
    with pytest.raises(DownloadFailed) as caught:
        download_diabetes(target, url=address)
    assert "\n" not in str(caught.value) and "10.24432/C5230J" in str(caught.value)
    assert target.read_bytes() == b"before"


def test_offline_and_an_absent_page_fail_clearly(tmp_path: Path, published: bytes) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
    address = f"http://127.0.0.1:{server.server_port}/a.zip"
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    with pytest.raises(DownloadFailed, match="501"):  # a server without pages
        download_diabetes(tmp_path / "file.csv", url=address)
    thread.join()
    server.server_close()
    with pytest.raises(DownloadFailed, match="ConnectionRefusedError"):
        download_diabetes(tmp_path / "file.csv", url=address)
    assert not (tmp_path / "file.csv").exists()


def test_an_endless_answer_is_cut(
    tmp_path: Path, published: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diabetes, "_MOST_BYTES", 100)
    (tmp_path / "long").write_bytes(b"x" * 101)
    with pytest.raises(DownloadFailed, match="too long"):
        download_diabetes(tmp_path / "file.csv", url=(tmp_path / "long").as_uri())
