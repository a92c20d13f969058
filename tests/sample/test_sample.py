"""What `lethe sample` promises: an invented clinic, whole or not at all."""

import datetime as dt
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lethe.config.params import load_params
from lethe.sample import build_clinic
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
