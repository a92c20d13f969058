"""A day's rows past their retention leave every store, killed -9 after every step in turn.

One person leaves whole; the model in use stays until the pipeline trains the next, and nothing is
spent for it.
"""

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lethe.stores.registry.registry import Registry
from tests.conftest import Workspace, copy_workspace
from tests.flow.test_erasure import _exact, _ledger, _vault

RETAIN_AND_DIE = Path(__file__).parent / "kill" / "retain_and_die.py"
MARK = "expired-mark-5f1c"  # in rows that are past, in columns that nothing reads
OLD = "2012-01-01 00:00:00.000000"


@dataclass
class ExpiredRows:
    """A workspace in which a day's retention ended, and what was before."""

    workspace: Workspace
    stays: str  # the key of somebody who keeps some of their encounters
    left: int  # how many
    gone: dict[str, str]  # key, e-mail and name of who left whole
    tokens: tuple[int, int]
    version: str  # of the shards, before
    said: str


def _people(workspace: Workspace) -> tuple[str, str]:
    """Two people who were trained on, with two encounters at least, all of them in time."""
    with sqlite3.connect(workspace.root / "data" / "clinic.db") as clinic:
        rows = clinic.execute(
            "SELECT patient_id FROM encounters GROUP BY patient_id "
            "HAVING count(*) > 1 AND min(admitted_at) > '2018-01-01'"
        ).fetchall()
    with _vault(workspace) as vault, _ledger(workspace) as ledger:
        run, _ = ledger.runs()  # and its figures
        keys = [key for (key,) in rows]
        known = zip(keys, vault.lookup(keys).tolist(), strict=True)
        trained = [key for key, token in known if token >= 0 and token in run.eligible]
    return trained[0], trained[1]


def _age(workspace: Workspace, stays: str, goes: str) -> tuple[int, dict[str, str]]:
    """Makes one encounter of the first, and everything of the second, older than it may be."""
    with sqlite3.connect(workspace.root / "data" / "clinic.db") as clinic:
        (one,) = clinic.execute(
            "SELECT min(encounter_id) FROM encounters WHERE patient_id = ?", (stays,)
        ).fetchone()
        clinic.execute(
            "UPDATE encounters SET admitted_at = ?, medical_specialty = ? "
            "WHERE encounter_id = ? OR patient_id = ?",
            (OLD, MARK, one, goes),
        )
        clinic.execute("DELETE FROM notes WHERE encounter_id = ?", (one,))
        clinic.execute(
            "INSERT INTO notes (note_id, encounter_id, patient_id, text) VALUES (9999999, ?, ?, ?)",
            (one, stays, f"a note {MARK}"),
        )
        clinic.execute(
            "UPDATE patients SET registered_at = '2005-01-01 00:00:00' WHERE patient_id = ?",
            (goes,),
        )
        (left,) = clinic.execute(
            "SELECT count(*) FROM encounters WHERE patient_id = ? AND encounter_id <> ?",
            (stays, one),
        ).fetchone()
        email, name = clinic.execute(
            "SELECT email, full_name FROM patients WHERE patient_id = ?", (goes,)
        ).fetchone()
    return left, {"key": goes, "email": email, "name": name}


@pytest.fixture(scope="module")
def expired(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> ExpiredRows:
    workspace = copy_workspace(finished, tmp_path_factory.mktemp("expired") / "workspace")
    workspace.edit_params(
        lambda raw: raw["tables"]["patients"].update(
            retention={"days": 6000, "by": "registered_at"}
        )
    )
    workspace.run("dvc", "push", "--quiet")
    stays, goes = _people(workspace)
    left, gone = _age(workspace, stays, goes)
    with _vault(workspace) as vault:
        tokens = vault.lookup([stays, goes]).tolist()
    (version,) = _registry(workspace).versions()
    said = workspace.run("python", str(RETAIN_AND_DIE)).stdout
    return ExpiredRows(workspace, stays, left, gone, tuple(tokens), version.tags["data_md5"], said)


def _registry(workspace: Workspace) -> Registry:
    return Registry.open(f"sqlite:///{workspace.root / 'mlflow.db'}")


def _holding(workspace: Workspace, *traces: str) -> list[Path]:
    """Files with one of these in them, the free pages of databases included."""
    return [
        path
        for path in sorted(workspace.root.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and any(trace.encode() in path.read_bytes() for trace in traces)
    ]


def _rows(workspace: Workspace, token: int) -> dict[str, int]:
    """How many rows of a token each different shard has, in workspace, cache and remote."""
    found = {}
    for path in sorted(workspace.root.rglob("*")):
        if path.is_file() and path.read_bytes()[:4] == b"PAR1":
            table = pq.read_table(path)
            held = table["token"].to_pylist().count(token) if "token" in table.column_names else 0
            if held:
                found[hashlib.sha256(path.read_bytes()).hexdigest()] = held
    return found


def test_killed_after_every_step_the_rows_are_gone_and_nothing_is_spent(
    expired: ExpiredRows,
) -> None:
    killed = int(expired.said.partition("killed ")[2].split()[0])
    assert killed >= 9, expired.said
    assert "waiting 1 problems {}" in expired.said
    assert _holding(expired.workspace, MARK) == []
    with sqlite3.connect(expired.workspace.root / "data" / "clinic.db") as clinic:
        past = "SELECT count(*) FROM encounters WHERE admitted_at < '2016-01-01'"
        assert clinic.execute(past).fetchone() == (0,)
    with _ledger(expired.workspace) as ledger:
        assert [run.state for run in ledger.runs()] == ["settled"] * 2, "and its figures"


def test_whoever_has_nothing_left_is_in_no_file_and_not_in_the_vault(expired: ExpiredRows) -> None:
    assert _holding(expired.workspace, *expired.gone.values()) == []
    with _vault(expired.workspace) as vault:
        there = vault.lookup([expired.stays, expired.gone["key"]]).tolist()
        assert there == [expired.tokens[0], -1]
        assert vault.suppressions() == {}, "they did not ask to be left out"


def test_only_the_shards_made_since_have_who_stays_and_nothing_has_who_left(
    expired: ExpiredRows,
) -> None:
    assert list(_rows(expired.workspace, expired.tokens[0]).values()) == [expired.left]
    assert _rows(expired.workspace, expired.tokens[1]) == {}
    assert not list(expired.workspace.root.rglob(f"{expired.version[2:]}"))


def test_the_model_in_use_stays_until_the_pipeline_trains_the_next_and_then_goes(
    expired: ExpiredRows, tmp_path: Path
) -> None:
    workspace = copy_workspace(expired.workspace, tmp_path / "copy")
    waiting = workspace.lethe("retain").stdout
    assert "readmission/1 stays until the pipeline trains the next model" in waiting
    assert "champion" in _registry(workspace).versions()[0].aliases
    workspace.lethe("run")
    (number,) = json.loads(workspace.lethe("retain", "--json").stdout)["closed"].values()
    assert number == 1
    (version,) = _registry(workspace).versions()
    assert (version.version, set(version.aliases)) == (2, {"candidate", "champion"})
    with _ledger(workspace) as ledger:
        first, first_figures, second, second_figures = ledger.runs()
        assert expired.tokens[1] in first.eligible & first_figures.eligible
        assert expired.tokens[1] not in second.eligible | second_figures.eligible
    (stored,) = (workspace.root / "receipts").glob("*.json")
    receipt = json.loads(stored.read_text())["receipt"]
    assert (receipt["kind"], receipt["result"], receipt["people"]) == ("retention", "erased", 1)
    assert receipt["models"][0]["replaced_by"] == "readmission/2"
    source = next(each for each in receipt["stores"] if each["store"] == "source")
    assert "patients: 1 deleted" in source["places"]
    done = {each["store"]: each["result"] for each in receipt["stores"]}
    for store in ("source", "vault", "cache", "remote default", "registry"):
        assert done[store] == "erased", done
    for path in (workspace.root / "receipts").iterdir():
        for trace in (*expired.gone.values(), expired.stays, MARK):
            assert trace not in path.read_text()
    assert "signatures and chain hold" in workspace.lethe("erase", "receipt", "--check").stdout
    # Once more does nothing, spends nothing, and leaves no second receipt.
    assert workspace.lethe("retain").stdout.strip() == "Nothing is past its retention."
    with _ledger(workspace) as ledger:
        assert len(ledger.runs()) == 4
    assert workspace.lethe("erase", "status").stdout.strip() == "No requests."
    again = workspace.run("dvc", "repro").stdout
    assert "Stage 'train' didn't change, skipping" in again
    workspace.run("dvc", "push", "--quiet")
    workspace.run("dvc", "pull", "--quiet")
    assert _exact(workspace, "minimize")["rows_past_retention"] == 0


def test_who_comes_back_is_collected_anew_and_charged_for_before(
    expired: ExpiredRows, tmp_path: Path
) -> None:
    workspace = copy_workspace(expired.workspace, tmp_path / "copy")
    key = expired.gone["key"]
    with sqlite3.connect(workspace.root / "data" / "clinic.db") as clinic:
        clinic.execute(
            "INSERT INTO patients (patient_id, full_name, registered_at) "
            "VALUES (?, 'Somebody', '2026-01-01 00:00:00')",
            (key,),
        )
        columns = [row[1] for row in clinic.execute("PRAGMA table_info(encounters)")]
        copied = [{"encounter_id": "9999999", "patient_id": "?"}.get(c, f'"{c}"') for c in columns]
        named = ", ".join(f'"{c}"' for c in columns)
        clinic.execute(
            f"INSERT INTO encounters ({named}) SELECT {', '.join(copied)} FROM encounters LIMIT 1",
            (key,),
        )
        clinic.execute(
            "INSERT INTO consents (patient_id, purpose, answer, answered_at) "
            "VALUES (?, 'readmission_model', 'yes', '2020-01-01 00:00:00')",
            (key,),
        )
    for stage in ("minimize", "consent", "pseudonymize"):
        workspace.lethe(stage)
    with _vault(workspace) as vault, _ledger(workspace) as ledger:
        (token,) = vault.lookup([key]).tolist()
        assert token not in (-1, expired.tokens[1])
        charged = {
            run for each in ledger.classes() if token in each.members for run in each.run_ids
        }
        first, figures = (run.run_id for run in ledger.runs())
        assert charged == {first, figures}, "what was spent before is not forgotten"
