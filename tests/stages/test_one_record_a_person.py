"""A source whose people are its records, from `lethe init` through training to an erasure."""

import base64
import csv
import random
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.config.params import Params, load_params
from lethe.core.files import read_json
from lethe.stages import run_stage
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source
from tests.library import NOW

PEOPLE = 240
COLUMNS = {
    "members": ["member_id", "email", "born", "region", "weekly", "left_studio", "joined"],
    "answers": ["member_id", "purpose", "answer", "answered_at"],
    "visits": ["visit_id", "member_id", "day", "minutes"],
}
DECISIONS = {
    "purpose: <decide>": "purpose: churn",
    "expected_subjects: <decide>": "expected_subjects: 180",
    "steps: 300": "steps: 3",
    "table: visits # guessed": "table: members # guessed",
    "minimum: 100": "minimum: 50",
}
MEMBERS: dict[str, Any] = {
    "columns": {
        "born": {
            "role": "quasi_identifier",
            "type": "date",
            "why": "habits",
            "generalize": {"age_at": "joined", "bins": [0, 30, 50, 120]},
        },
        "region": {"role": "feature", "domain": ["north", "south"], "why": "w"},
        "weekly": {"role": "feature", "type": "real", "bounds": [0, 7], "why": "w"},
        "left_studio": {"role": "label", "domain": ["yes", "no"], "positive": ["yes"], "why": "w"},
        "joined": {"role": "timestamp", "type": "date", "why": "ages"},
    },
    "aggregates": {
        "visits_90": {"count": "visits", "by": "day", "days": 90, "bounds": [0, 30], "why": "w"},
        "minutes_90": {
            "mean": "visits.minutes",
            "by": "day",
            "days": 90,
            "bounds": [0, 180],
            "why": "w",
        },
    },
}
VISITS: dict[str, Any] = {
    "day": {"role": "timestamp", "type": "date", "why": "before the run"},
    "minutes": {"role": "aggregated", "type": "integer", "why": "habits"},
}


def rows() -> dict[str, list[tuple[Any, ...]]]:
    drawn = random.Random(3)
    found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in COLUMNS}
    for n in range(1, PEOPLE + 1):
        weekly = round(drawn.random() * 7, 2)
        born, region = f"{drawn.randint(1940, 2005)}-01-01", drawn.choice(["north", "south"])
        left = "yes" if weekly < 2 else "no"
        mail = f"m{n}@example.org"
        found["members"].append((n, mail, born, region, weekly, left, "2025-01-01"))
        agreed = "yes" if n % 9 else "no"
        found["answers"].append((n, "churn", agreed, "2026-01-02"))
        found["visits"] += [(10 * n + k, n, f"2026-05-{1 + k:02d}", 60) for k in range(n % 4)]
    return found


def build(kind: str, folder: Path) -> str:
    if kind == "sqlite":
        with sqlite3.connect(folder / "studio.db") as made:
            for name, columns in COLUMNS.items():
                key = f"{columns[0]} INTEGER PRIMARY KEY" if name != "answers" else columns[0]
                made.execute(f"CREATE TABLE {name} ({', '.join([key, *columns[1:]])})")
                marks = ", ".join("?" * len(columns))
                made.executemany(f"INSERT INTO {name} VALUES ({marks})", rows()[name])
        made.close()
        return "studio.db"
    (folder / "studio").mkdir()
    for name, table in rows().items():
        if kind == "csv":
            with (folder / "studio" / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([COLUMNS[name], *table])
        else:
            columns = zip(COLUMNS[name], zip(*table, strict=True), strict=True)
            made_of = {column: pa.array(values) for column, values in columns}
            pq.write_table(pa.table(made_of), folder / "studio" / f"{name}.parquet")
    return "studio"


def decide(path: Path) -> None:
    """What a person writes into the draft."""
    from ruamel.yaml import YAML

    text = path.read_text()
    for open_, decided in DECISIONS.items():
        assert text.count(open_) == 1, open_
        text = text.replace(open_, decided)
    yaml = YAML()
    raw = yaml.load(text)
    members, visits = raw["tables"]["members"], raw["tables"]["visits"]
    members["columns"].update(MEMBERS["columns"])
    members["aggregates"] = MEMBERS["aggregates"]
    visits["columns"].update(VISITS)
    for table in (members, visits):
        table["unused"] = [n for n in table.get("unused", ()) if n not in table["columns"]]
    with path.open("w") as file:
        yaml.dump(raw, file)


def lethe(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def people(params: Params, stage: str) -> tuple[int, int]:
    """(records, people) that a stage leaves."""
    run_stage(stage, params, now=NOW)
    report = read_json(params.at(Path(f"reports/{stage}.json")))
    return report["records"], report["subjects"]


@pytest.mark.parametrize("kind", ["sqlite", "csv", "parquet"])
def test_a_person_who_is_one_record_is_trained_on_once_and_erased(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_KEY", base64.urlsafe_b64encode(b"k" * 32).decode())
    lethe("init", build(kind, tmp_path))
    decide(tmp_path / "params.yaml")
    assert "sound: 3 tables, 6 columns taken for churn" in lethe("check")
    params = load_params(tmp_path / "params.yaml")
    agreed = PEOPLE - PEOPLE // 9
    assert people(params, "minimize") == (PEOPLE, PEOPLE)
    assert people(params, "consent") == (agreed, agreed)
    for stage in ("pseudonymize", "validate", "budget", "train"):
        run_stage(stage, params, now=NOW)
    trained = read_json(params.at(Path("reports/train.json")))
    assert trained["records"] == trained["subjects"] < agreed

    seven = traces(params, "7")
    outcome = erase_from_source(params, seven, now=NOW)
    assert outcome.places == ("answers: 1 deleted", "members: 1 deleted", "visits: 3 deleted")
    assert verify_source(params, seven).result == "absent"
    assert people(params, "minimize") == (PEOPLE - 1, PEOPLE - 1)
    assert people(params, "consent") == (agreed - 1, agreed - 1)
