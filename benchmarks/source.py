"""How long it takes to erase one person from a source of a million, and to look again; and one
person who has very many rows."""

import datetime as dt
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML

from lethe.config.params import Params, parse_params
from lethe.stores.source.compact import compact_source
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source

SUBJECTS, RECORDS = 1_000_000, 5_000_000
NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
SOMEBODY = "P100000123"

_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;
CREATE TABLE patients (patient_id TEXT PRIMARY KEY, full_name TEXT, email TEXT, phone TEXT,
    street TEXT, city TEXT, postcode TEXT, birth_date DATE, registered_at DATETIME);
CREATE TABLE encounters (encounter_id INTEGER PRIMARY KEY,
    patient_id TEXT NOT NULL REFERENCES patients, admitted_at DATETIME, age TEXT,
    time_in_hospital INTEGER, number_inpatient INTEGER, diag_1 TEXT, insulin TEXT, readmitted TEXT);
CREATE TABLE notes (note_id INTEGER PRIMARY KEY,
    encounter_id INTEGER NOT NULL REFERENCES encounters,
    patient_id TEXT NOT NULL REFERENCES patients, written_at DATETIME, text TEXT);
CREATE TABLE invoices (invoice_id INTEGER PRIMARY KEY, patient_id TEXT REFERENCES patients,
    encounter_id INTEGER REFERENCES encounters, issued_at DATETIME, amount_cents INTEGER,
    billed_to TEXT);
CREATE TABLE consents (consent_id INTEGER PRIMARY KEY,
    patient_id TEXT NOT NULL REFERENCES patients, purpose TEXT, answer TEXT, answered_at DATETIME);
BEGIN;
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {subjects})
INSERT INTO patients SELECT 'P' || (100000000 + i), 'First' || i || ' Last' || i,
    'mail' || i || '@example.org', printf('(212) %03d-%04d', i / 10000, i % 10000),
    i % 400 || ' Elm Street', 'City' || i % 1000, 'AB' || i % 100 || ' 1CD', '1970-01-01',
    '2020-01-01 00:00:00.000000' FROM n;
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {records})
INSERT INTO encounters SELECT i, 'P' || (100000001 + i % {subjects}),
    '2021-05-05 10:00:00.000000', '[50-60)', i % 14 + 1, i % 5, '428', 'Steady', 'NO' FROM n;
INSERT INTO notes SELECT encounter_id / 20, encounter_id, patient_id, admitted_at,
    'Dizziness since last week; sleeps badly. Control tomorrow, Dr. Miller. ' || encounter_id
    FROM encounters WHERE encounter_id % 20 = 0;
INSERT INTO invoices SELECT encounter_id / 2, patient_id, encounter_id, admitted_at, 5000,
    'Somebody, Elm Street' FROM encounters WHERE encounter_id % 2 = 0;
INSERT INTO consents SELECT rowid, patient_id, 'readmission_model', 'yes',
    '2021-01-01 00:00:00.000000' FROM patients;
UPDATE notes SET text = text || ' Shares a room with first122 LAST122.' WHERE note_id = 77;
COMMIT;
CREATE INDEX e ON encounters (patient_id); CREATE INDEX n ON notes (patient_id);
CREATE INDEX ne ON notes (encounter_id); CREATE INDEX i ON invoices (patient_id);
CREATE INDEX ie ON invoices (encounter_id); CREATE INDEX c ON consents (patient_id);
"""

LARGE = 100_000
_INVOICES = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
INSERT INTO invoices SELECT 10000000 + i, '{somebody}', NULL, '2025-05-05 10:00:00.000000', 5000,
    'Somebody, Elm Street' FROM n
"""

_Made = TypeVar("_Made")


def measure() -> list[tuple[str, str, str]]:
    """Seconds by the wall clock and of CPU; the source is built anew and not counted."""
    params = _params()
    timed = _Timed(f"source of {SUBJECTS:,}, {RECORDS:,} records")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        build(Path("big.db"), SUBJECTS)
        found = timed("find the person's identifiers", lambda: traces(params, SOMEBODY))
        timed("erase", lambda: erase_from_source(params, found, now=NOW, compact=False))
        size = Path("big.db").stat().st_size / 1e9
        timed(f"rebuild the file ({size:.1f} GB)", lambda: compact_source(params))
        verified = timed("look for what is left", lambda: verify_source(params, found))
    if verified.result != "absent":
        raise RuntimeError(f"the benchmark's erasure left something: {verified.reason}")
    return timed.rows


def measure_large() -> list[tuple[str, str, str]]:
    """One person of many rows that the law keeps, among a few others."""
    params = _params()
    timed = _Timed(f"one person with {LARGE:,} retained rows")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        build(Path("big.db"), 1_000)
        with sqlite3.connect("big.db") as made:
            made.execute(_INVOICES.format(rows=LARGE, somebody=SOMEBODY))
        made.close()
        found = timed("find the person's identifiers", lambda: traces(params, SOMEBODY))
        done = timed(
            "erase",
            lambda: erase_from_source(params, found, now=NOW, compact=False),
            target="≤ 10 s",
        )
        timed("rebuild the file", lambda: compact_source(params))
        verified = timed("look for what is left", lambda: verify_source(params, found))
    if (done.result, verified.result) != ("erased", "absent"):
        raise RuntimeError(f"the benchmark's erasure ended with: {done.reason} {verified.reason}")
    return timed.rows


class _Timed:
    """Rows of what steps took, by the wall clock and of CPU."""

    def __init__(self, of: str) -> None:
        self._of = of
        self.rows: list[tuple[str, str, str]] = []

    def __call__(self, what: str, step: Callable[[], _Made], *, target: str = "") -> _Made:
        wall, cpu = time.perf_counter(), time.process_time()
        found = step()
        seconds = f"{time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} of CPU"
        self.rows.append((f"{self._of}: {what}", seconds, target))
        return found


def _params() -> Params:
    return parse_params(declared(Path("params.yaml").absolute(), "sqlite:///big.db"))


def build(path: Path, subjects: int) -> None:
    """A clinic with five encounters a person, notes, invoices and consents."""
    made = sqlite3.connect(path, isolation_level=None)
    made.executescript(_TABLES.format(subjects=subjects, records=5 * subjects))
    made.close()


def declared(path: Path, url: str) -> dict[str, Any]:
    """The project's declarations, without the encounters' columns that this source lacks."""
    raw: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    raw["source"]["url"] = url
    encounters = raw["tables"]["encounters"]
    there = "encounter_id patient_id admitted_at age time_in_hospital number_inpatient diag_1"
    kept = (*there.split(), "insulin", "readmitted")
    encounters["columns"] = {name: encounters["columns"][name] for name in kept}
    encounters["unused"] = []
    return raw


if __name__ == "__main__":
    for row in measure():
        print(*row)
