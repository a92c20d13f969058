"""People of two columns through the whole pipeline, and one of them out of it, with a receipt."""

import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from lethe.config.params import load_params
from lethe.stores.source.read import Source
from tests.conftest import Workspace
from tests.postgres import postgres_server, postgres_urls
from tests.studio import TABLES, Run, build

__all__ = ["postgres_server", "postgres_urls"]

GONE, SAID = '("1","12")', "[1, 12]"
PEOPLE = [(str(studio), str(number)) for studio in (1, 2, 11) for number in range(1, 71)]


def _declared(raw: dict[str, Any], url: str) -> None:
    raw.update(
        purpose="reading",
        source={"url": url},
        subject={"table": "members", "key": ["studio", "number"], "minimum": 10},
        records={"table": "visits", "latest_by": "day"},
        shards=2,
        tables=json.loads(json.dumps(TABLES)),
    )
    visits = raw["tables"]["visits"]
    visits["retention"] = {"days": 3650, "by": "day"}
    visits["aggregates"] = {
        "visits_before": {
            **{"count": "visits", "by": "day", "at": "day"},
            **{"bounds": [0, 10], "outside": "clip", "why": "habits"},
        }
    }
    raw["consent"] = {
        **{"table": "answers", "subject": ["studio", "number"], "purpose": "purpose"},
        **{"answer": "said", "time": "said_at"},
    }
    raw["training"]["model"] = "logistic"
    raw["training"]["mechanism"].update(
        expected_subjects=200, sample_rate=0.2, steps=5, records_per_person=1, epsilon=2.0
    )
    raw["registration"]["min_auc"] = 0.0
    raw["audit"].update(subjects=60)


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def studio(request: pytest.FixtureRequest, workspace: Workspace) -> tuple[Workspace, Run]:
    folder = workspace.root / "data"
    folder.mkdir(exist_ok=True)
    url = f"sqlite:///{folder / 'studio.db'}"
    if request.param == "PostgreSQL":
        url = request.getfixturevalue("postgres_urls")()
    run = build(url, PEOPLE)
    workspace.edit_params(lambda raw: _declared(raw, url))
    workspace.compile()
    return workspace, run


def _people(root: Path) -> set[str]:
    with chdir(root), Source.open(load_params()) as source:
        return {who for frame in source.subjects() for who in frame}


def test_one_person_leaves_and_nobody_with_a_part_of_their_key(
    studio: tuple[Workspace, Run],
) -> None:
    workspace, run = studio
    assert "sound" in workspace.lethe("check").stdout
    workspace.lethe("key")
    workspace.lethe("run")

    def lineage(person: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            workspace.lethe("lineage", "--subject", person, "--json").stdout
        )
        return found

    known = [lineage(each)["datasets"] != [] for each in (SAID, "[11, 2]", '["1","1"]', "[1, 99]")]
    assert known == [True, True, True, False]
    assert workspace.lethe("lineage", "--subject", "12", check=False).returncode != 0
    workspace.lethe("erase", "request", "--kind", "withdraw", "--subject", "[2, 12]")
    before = _people(workspace.root)
    (asked,) = json.loads(workspace.lethe("erase", "request", "--subject", SAID, "--json").stdout)
    workspace.lethe("erase", "run")
    status = json.loads(workspace.lethe("erase", "status", asked["request"], "--json").stdout)
    assert "closed" in json.dumps(status), status
    workspace.lethe("erase", "receipt", "--check")
    assert lineage("[2, 12]")["datasets"] == []
    assert before - _people(workspace.root) == {GONE}
    receipts = sorted((workspace.root / "receipts").glob("*.json"))
    assert receipts
    text = " ".join(each.read_text() for each in receipts)
    assert GONE not in text and json.dumps(GONE)[1:-1] not in text
    assert lineage(SAID) == {"models": [], "datasets": []}
    assert lineage("[11, 2]")["datasets"]
    run(
        "INSERT INTO members VALUES (1, 12, 'member0@example.org')",
        "INSERT INTO visits VALUES (9999, 1, 12, '2026-02-03', 5, 'no', '')",
        "INSERT INTO answers VALUES (1, 12, 'reading', 'yes', '2026-01-01')",
        "SELECT 1",
    )
    workspace.lethe("run")
    report = json.loads((workspace.root / ".lethe/private/reports/consent.json").read_text())
    assert "has asked to be left out, or was erased" in report["left_out"]
    assert lineage(SAID) == {"models": [], "datasets": []}
