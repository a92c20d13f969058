"""What `lethe sample` promises: an invented clinic, whole or not at all."""

import datetime as dt
import gzip
import hashlib
import http.server
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lethe.config.params import load_params
from lethe.core.errors import DiskFull, DownloadFailed, NotFound, ParamsInvalid, SourceUnavailable
from lethe.sample import build_clinic, diabetes, download_diabetes
from lethe.sample.diabetes import COLUMNS
from lethe.sample.schema import TABLES
from lethe.stores.source.demonstration import new_clinic
from tests.conftest import PROJECT
from tests.postgres import postgres_server, postgres_url, postgres_urls  # noqa: F401

NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
PARAMS = PROJECT / "params.yaml"
PURPOSE = "readmission_model"


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def column(path: Path, query: str) -> list[Any]:
    return [row[0] for row in rows(path, query)]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated clinic of 6,000 people; tests may look, not change."""
    path = tmp_path_factory.mktemp("clinic") / "clinic.db"
    build_clinic(f"sqlite:///{path}", patients=6_000, now=NOW)
    return path


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


def test_schema_is_what_params_yaml_declares(clinic: Path) -> None:
    declared = {name: table.declared for name, table in load_params(PARAMS).tables.items()}
    there = {
        table: frozenset(column(clinic, f"SELECT name FROM pragma_table_info('{table}')"))
        for table in column(clinic, "SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    assert there == declared


def test_every_link_is_a_foreign_key_with_an_index_and_leads_somewhere(clinic: Path) -> None:
    links = {
        (table, link[3], link[2])
        for table in ("encounters", "notes", "invoices", "consents")
        for link in rows(clinic, f"PRAGMA foreign_key_list({table})")
    }
    assert links == {
        ("encounters", "patient_id", "patients"),
        ("notes", "encounter_id", "encounters"),
        ("notes", "patient_id", "patients"),
        ("invoices", "encounter_id", "encounters"),
        ("invoices", "patient_id", "patients"),
        ("consents", "patient_id", "patients"),
    }
    indexed = column(clinic, "SELECT name FROM sqlite_master WHERE name LIKE 'ix_%'")
    assert {f"ix_{table}_{own}" for table, own, _ in links} <= set(indexed)
    assert rows(clinic, "PRAGMA foreign_key_check") == []
    assert {
        table: column(clinic, f"SELECT name FROM pragma_table_info('{table}') WHERE pk")
        for table in ("patients", "encounters", "notes", "invoices", "consents")
    } == {
        "patients": ["patient_id"],
        "encounters": ["encounter_id"],
        "notes": ["note_id"],
        "invoices": ["invoice_id"],
        "consents": ["consent_id"],
    }


def test_notes_and_invoices_are_about_the_patient_of_their_encounter(clinic: Path) -> None:
    for table in ("notes", "invoices"):
        assert rows(
            clinic,
            f"SELECT count(*) FROM {table} JOIN encounters USING (encounter_id) "
            f"WHERE {table}.patient_id != encounters.patient_id",
        ) == [(0,)]
    notes = rows(clinic, "SELECT text, full_name FROM notes JOIN patients USING (patient_id)")
    assert all(name in text for text, name in notes)
    assert not any("{" in text for text, _ in notes)
    bills = rows(
        clinic, "SELECT billed_to, full_name, street FROM invoices JOIN patients USING (patient_id)"
    )
    assert all(f"{name}, {street}" in to for to, name, street in bills)
    encounters = column(clinic, "SELECT count(*) FROM encounters")[0]
    assert 0.04 < len(notes) / encounters < 0.06
    assert 0.57 < len(bills) / encounters < 0.63


def test_same_seed_gives_the_same_clinic_and_another_seed_other_people(tmp_path: Path) -> None:
    made = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        build_clinic(f"sqlite:///{tmp_path / name}", patients=50, seed=seed, now=NOW)
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            made[name] = list(connection.iterdump())
    assert made["a"] == made["b"]
    people = {name: set(re.findall(r"P\d{9}", "".join(made[name]))) for name in ("a", "c")}
    assert not people["a"] & people["c"]


def test_keys_are_random_and_addresses_unique_and_nobodys(clinic: Path) -> None:
    keys = column(clinic, "SELECT patient_id FROM patients ORDER BY rowid")
    assert all(re.fullmatch(r"P\d{9}", key) for key in keys)
    assert keys != sorted(keys)
    admitted = column(
        clinic, "SELECT patient_id FROM encounters GROUP BY patient_id ORDER BY min(admitted_at)"
    )
    assert abs(np.corrcoef(np.argsort(np.argsort(admitted)), np.arange(6_000))[0, 1]) < 0.05
    emails = column(clinic, "SELECT email FROM patients")
    phones = column(clinic, "SELECT phone FROM patients")
    assert len(set(emails)) == len(set(phones)) == 6_000
    assert all(re.fullmatch(r"[a-z0-9.-]+@example\.(org|net|com)", email) for email in emails)
    assert all(re.fullmatch(r"\([2-9]\d\d\) 555-\d{4}", phone) for phone in phones)
    assert len(set(column(clinic, "SELECT full_name FROM patients"))) > 5_900


def test_nothing_lies_in_the_future_and_a_file_is_opened_before_the_first_stay(
    clinic: Path,
) -> None:
    for table, when in (
        ("patients", "registered_at"),
        ("patients", "birth_date"),
        ("encounters", "admitted_at"),
        ("notes", "written_at"),
        ("invoices", "issued_at"),
        ("consents", "answered_at"),
    ):
        assert column(clinic, f"SELECT max({when}) FROM {table}")[0] < "2026-11-01 12:00:00.000000"
    assert rows(
        clinic,
        "SELECT count(*) FROM encounters JOIN patients USING (patient_id) "
        "WHERE admitted_at < registered_at OR admitted_at < birth_date",
    ) == [(0,)]


def test_age_follows_from_the_birth_date(clinic: Path) -> None:
    wrong = rows(
        clinic,
        "SELECT count(*) FROM encounters JOIN patients USING (patient_id) WHERE age != '[90-100)' "
        "AND abs((julianday(admitted_at) - julianday(birth_date)) / 365.25 "
        "  - (CAST(substr(age, 2, instr(age, '-') - 2) AS INTEGER) + 5)) > 5.1",
    )
    assert wrong == [(0,)]


def test_generated_encounters_have_the_shape_of_the_real_ones(clinic: Path) -> None:
    stays = column(clinic, "SELECT count(*) FROM encounters GROUP BY patient_id")
    assert len(stays) == 6_000
    assert 0.70 < np.mean(np.array(stays) == 1) < 0.85
    assert 15 <= max(stays) <= 40
    label = column(clinic, "SELECT readmitted FROM encounters")
    assert set(label) == {"NO", ">30", "<30"}
    assert 0.09 < np.mean(np.array(label) == "<30") < 0.13
    past = column(clinic, "SELECT admitted_at < '2016-11-03' FROM encounters")
    assert 0.01 < np.mean(past) < 0.05
    for name, share in (("weight", 0.97), ("medical_specialty", 0.49), ("payer_code", 0.4)):
        missing = column(clinic, f"SELECT {name} = '?' FROM encounters")
        assert abs(np.mean(missing) - share) < 0.03
    order = column(clinic, "SELECT encounter_id FROM encounters ORDER BY admitted_at")
    assert order == sorted(order)


def test_a_logistic_regression_learns_about_as_much_as_on_the_real_file(clinic: Path) -> None:
    with closing(sqlite3.connect(clinic)) as connection:
        frame = pd.read_sql("SELECT * FROM encounters", connection)
    codes = frame[["discharge_disposition_id", "age", "insulin", "diabetesMed"]]
    features = pd.get_dummies(codes.assign(chapter=frame["diag_1"].str[:2])).astype(float)
    for name in ("number_inpatient", "number_emergency", "time_in_hospital", "number_diagnoses"):
        features[name] = frame[name].clip(upper=9) / 9
    label = (frame["readmitted"] == "<30").to_numpy()
    test = (frame["patient_id"].str[-1] < "4").to_numpy()
    model = LogisticRegression(max_iter=1_000, C=0.3).fit(features[~test], label[~test])
    auc = roc_auc_score(label[test], model.predict_proba(features[test])[:, 1])
    assert 0.63 < auc < 0.72


def test_consent_histories_of_every_kind_end_in_the_declared_share(tmp_path: Path) -> None:
    path = tmp_path / "clinic.db"
    summary = build_clinic(f"sqlite:///{path}", patients=2_000, consent_share=0.7, now=NOW)
    histories: dict[str, list[tuple[str, str]]] = {
        key: [] for key in column(path, "SELECT patient_id FROM patients")
    }
    for key, purpose, answer in rows(
        path, "SELECT patient_id, purpose, answer FROM consents ORDER BY answered_at"
    ):
        histories[key].append((purpose, answer))
    ours = [[a for purpose, a in history if purpose == PURPOSE] for history in histories.values()]
    assert sum(answers[-1:] == ["yes"] for answers in ours) == 1_400 == summary.consenting
    kinds = {tuple(answers) for answers in ours}
    assert kinds >= {(), ("yes",), ("no",), ("yes", "withdrawn"), ("no", "yes")}
    assert [] in histories.values()
    assert any(
        history and all(purpose != PURPOSE for purpose, _ in history)
        for history in histories.values()
    )
    assert (
        rows(
            path,
            "SELECT count(*) FROM consents GROUP BY patient_id, answered_at HAVING count(*) > 1",
        )
        == []
    )


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


def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(ParamsInvalid, match="not made by lethe sample"):
        build_clinic(f"sqlite:///{path}", patients=10, now=NOW)
    assert path.read_bytes() == before


def test_an_earlier_sample_is_replaced_and_its_journal_is_not_played_back(tmp_path: Path) -> None:
    path = tmp_path / "clinic.db"
    build_clinic(f"sqlite:///{path}", patients=10, now=NOW)
    for suffix in ("-journal", "-wal", "-shm"):
        (tmp_path / f"clinic.db{suffix}").write_bytes(b"of the old file")
    build_clinic(f"sqlite:///{path}", patients=20, now=NOW)
    assert [found.name for found in tmp_path.iterdir()] == ["clinic.db"]
    assert column(path, "SELECT count(*) FROM patients") == [20]


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "clinic.db"
    old = os.umask(0)
    try:
        build_clinic(f"sqlite:///{path}", patients=5, now=NOW)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_killed_call_leaves_the_old_clinic_and_the_next_call_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "clinic.db"
    build_clinic(f"sqlite:///{path}", patients=10, now=NOW)
    before = path.read_bytes()
    script = (
        "import datetime as dt, os, lethe.sample.clinic as clinic\n"
        "clinic.make_invoices = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        f"clinic.build_clinic('sqlite:///{path}', patients=10, now=dt.datetime.now(dt.UTC))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PARAMS.parent, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    build_clinic(f"sqlite:///{path}", patients=10, now=NOW)
    assert [found.name for found in tmp_path.iterdir()] == ["clinic.db"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    with pytest.raises(DiskFull), new_clinic(f"sqlite:///{tmp_path / 'c.db'}", TABLES):
        raise full
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["csv:folder", "parquet:folder", "mysql://db/clinic", "sqlite://", "no url"]
)
def test_only_a_file_or_a_postgresql_server_is_written(url: str) -> None:
    with pytest.raises(ParamsInvalid, match="lethe sample writes"):
        build_clinic(url, patients=5, now=NOW)


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(SourceUnavailable) as caught:
        build_clinic("postgresql://me:hunter2@127.0.0.1:1/db", patients=5, now=NOW)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"consent_share": 1.5}, {"notes_share": -0.1}, {"patients": 0}, {"patients": 10**8}]
)
def test_impossible_arguments_are_refused_by_name(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ParamsInvalid, match=next(iter(wrong))):
        build_clinic(f"sqlite:///{tmp_path / 'c.db'}", now=NOW, **wrong)


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


def everything(connection: Any) -> dict[str, list[Any]]:
    return {
        table.name: [
            tuple(map(str, row))
            for row in connection.execute(
                f"SELECT {', '.join(chr(34) + name + chr(34) for name in table.columns)} "
                f"FROM {table.name} ORDER BY {table.key}"
            ).fetchall()
        ]
        for table in TABLES
    }


def test_postgresql_gets_the_same_clinic_and_refuses_a_stranger(
    tmp_path: Path,
    postgres_url: str,  # noqa: F811
) -> None:
    build_clinic(f"sqlite:///{tmp_path / 'clinic.db'}", patients=60, now=NOW)
    build_clinic(postgres_url, patients=60, now=NOW)
    with (
        closing(sqlite3.connect(tmp_path / "clinic.db")) as file,
        psycopg.connect(postgres_url) as server,
    ):
        wanted = everything(file)
        found = everything(server)
        # SQLite keeps the text that was written; PostgreSQL prints no empty fractions.
        assert found == {
            table: [tuple(value.replace(".000000", "") for value in row) for row in written]
            for table, written in wanted.items()
        }
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            server.execute("INSERT INTO consents VALUES (0, 'nobody', 'newsletter', 'yes', now())")


def test_postgresql_keeps_the_old_clinic_if_the_new_one_fails(
    tmp_path: Path,
    postgres_url: str,  # noqa: F811
) -> None:
    build_clinic(postgres_url, patients=30, now=NOW)
    with pytest.raises(SourceUnavailable):
        build_clinic(postgres_url, encounters_file=broken(tmp_path, "no number"), now=NOW)
    with psycopg.connect(postgres_url) as server:
        assert server.execute("SELECT count(*) FROM patients").fetchone() == (30,)
        server.execute("CREATE VIEW mine AS SELECT * FROM patients")
    with pytest.raises(SourceUnavailable, match="nothing was kept"):
        build_clinic(postgres_url, patients=40, now=NOW)
    with psycopg.connect(postgres_url) as server:
        server.execute("DROP VIEW mine")
    build_clinic(postgres_url, patients=40, now=NOW)
    with psycopg.connect(postgres_url) as server:
        assert server.execute("SELECT count(*) FROM patients").fetchone() == (40,)


def test_postgresql_tables_of_somebody_else_are_left_alone(
    postgres_url: str,  # noqa: F811
) -> None:
    with psycopg.connect(postgres_url) as server:
        server.execute("CREATE TABLE patients (name text)")
        server.execute("INSERT INTO patients VALUES ('Ada')")
    with pytest.raises(ParamsInvalid, match="patients of that database"):
        build_clinic(postgres_url, patients=10, now=NOW)
    with psycopg.connect(postgres_url) as server:
        assert server.execute("SELECT * FROM patients").fetchall() == [("Ada",)]
        tables = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert tables.fetchall() == [("patients",)]
