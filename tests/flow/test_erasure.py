"""The loop on one machine, killed -9 after every step in turn: the person is gone, once.

What is asserted is what an undisturbed run comes to: one training, one receipt each.
"""

import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest

from lethe.config.keys import read_key_file
from lethe.ledger.ledger import Ledger
from lethe.rights.intake import STEPS
from lethe.stores.registry.registry import Registry
from lethe.stores.vault.vault import Vault
from tests.conftest import Workspace, copy_workspace

ERASE_AND_DIE = Path(__file__).parent / "kill" / "erase_and_die.py"
KEPT = ["suppressions (vault, requests)", "ledger"]


@dataclass
class Person:
    key: str
    email: str
    name: str
    token: int


@dataclass
class Erased:
    """A workspace after four requests for two people and one unknown, and what was before."""

    workspace: Workspace
    ada: Person
    bo: Person
    requests: dict[str, str]
    said: str
    backup: Path
    remaining: int


def _vault(workspace: Workspace) -> Vault:
    key = read_key_file(workspace.root / "secrets" / "lethe.key")
    return Vault.open(f"sqlite:///{workspace.root / '.lethe' / 'vault.db'}", key)


def _ledger(workspace: Workspace) -> Ledger:
    return Ledger.open(f"sqlite:///{workspace.root / '.lethe' / 'ledger.db'}")


def _report(workspace: Workspace, stage: str) -> dict:
    return json.loads((workspace.root / "reports" / f"{stage}.json").read_text())


def _exact(workspace: Workspace, stage: str) -> dict:
    """What the operator alone sees of a stage."""
    return json.loads((workspace.root / f".lethe/private/reports/{stage}.json").read_text())


def _people(workspace: Workspace) -> list[Person]:
    """Two people who were trained on."""
    with sqlite3.connect(workspace.root / "data" / "clinic.db") as clinic:
        rows = clinic.execute("SELECT patient_id, email, full_name FROM patients").fetchall()
    with _vault(workspace) as vault, _ledger(workspace) as ledger:
        run, _ = ledger.runs()  # and its figures
        tokens = vault.lookup([row[0] for row in rows]).tolist()
        trained = [(row, token) for row, token in zip(rows, tokens, strict=True)]
        return [Person(*row, t) for row, t in trained if t >= 0 and t in run.eligible][:2]


def _ask(workspace: Workspace, *words: str) -> str:
    (made,) = json.loads(workspace.lethe("erase", "request", *words, "--json").stdout)
    return str(made["request"])


@pytest.fixture(scope="module")
def erased(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Erased:
    folder = tmp_path_factory.mktemp("erased")
    workspace = copy_workspace(finished, folder / "workspace")
    workspace.run("dvc", "push", "--quiet")
    shutil.copy(workspace.root / "data" / "clinic.db", folder / "backup.db")
    ada, bo = _people(workspace)
    asked = {
        "ada": _ask(workspace, "--email", ada.email),
        "bo": _ask(workspace, "--subject", bo.key),
        "again": _ask(workspace, "--subject", ada.key),
        "nobody": _ask(workspace, "--email", "nobody@example.org"),
    }
    trained = _exact(workspace, "train")["subjects"]
    said = workspace.run("python", str(ERASE_AND_DIE)).stdout
    return Erased(workspace, ada, bo, asked, said, folder / "backup.db", trained - 2)


def test_killed_after_every_step_every_request_ends_with_one_training(erased: Erased) -> None:
    killed = int(erased.said.partition("killed ")[2].split()[0])
    assert killed >= 3 * len(STEPS), erased.said
    assert "costs epsilon" in erased.said
    rows = json.loads(erased.workspace.lethe("erase", "status", "--json").stdout)
    states = {row["request"]: row["state"] for row in rows}
    assert states == {
        erased.requests["ada"]: "closed",
        erased.requests["bo"]: "closed",
        erased.requests["again"]: "joined",
        erased.requests["nobody"]: "closed",
    }
    with _ledger(erased.workspace) as ledger:
        first, first_figures, second, second_figures = ledger.runs()
        states = [run.state for run in (first, first_figures, second, second_figures)]
        assert states == ["settled"] * 4
        assert first.eligible < first_figures.eligible, "who is held out pays for figures"
        assert second.eligible < second_figures.eligible
        assert not {erased.ada.token, erased.bo.token} & set(second_figures.eligible)
        assert len(second.eligible) == erased.remaining == len(first.eligible) - 2
        assert not {erased.ada.token, erased.bo.token} & set(second.eligible)


def test_the_new_version_is_champion_and_the_old_one_is_gone(erased: Erased) -> None:
    registry = Registry.open(f"sqlite:///{erased.workspace.root / 'mlflow.db'}")
    (version,) = registry.versions("readmission")
    assert version.version == 2
    assert set(version.aliases) == {"candidate", "champion"}
    for who in ("ada", "bo"):
        (model,) = _receipt(erased, who)["models"]
        assert (model["version"], model["replaced_by"]) == ("readmission/1", "readmission/2")


def _receipt(erased: Erased, who: str) -> dict:
    shown = erased.workspace.lethe("erase", "receipt", erased.requests[who]).stdout
    return json.loads(shown)["receipt"]


def test_receipts_say_what_was_done_and_nothing_of_who_it_was(erased: Erased) -> None:
    done = {each["store"]: each["result"] for each in _receipt(erased, "bo")["stores"]}
    for store in ("source", "vault", "cache", "remote default", "workspace", "registry"):
        assert done[store] == "erased", done
    unknown = _receipt(erased, "nobody")
    assert unknown["result"] == "nothing found"
    results = {each["store"]: each["result"] for each in unknown["stores"]}
    assert results.pop("requests") == "kept", "their own request led to them until now"
    assert set(results.values()) == {"absent"}
    kept = [each["table"] for each in _receipt(erased, "bo")["retained"]]
    assert kept in (["invoices", *KEPT], KEPT)
    folder = erased.workspace.root / "receipts"
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".html"))
    assert len(files) == 6, "one receipt each, and a page"
    for path in files:
        for person in (erased.ada, erased.bo):
            for trace in (person.key, person.email, person.name, f" {person.token} "):
                assert trace not in path.read_text()


def test_anybody_can_check_the_receipts_with_the_public_key_alone(
    erased: Erased, tmp_path: Path
) -> None:
    for path in (erased.workspace.root / "receipts").glob("*.json"):
        shutil.copy(path, tmp_path / path.name)
    shutil.copy(erased.workspace.root / "secrets" / "receipts.pub", tmp_path / "key.pem")
    elsewhere = Workspace(tmp_path)
    words = ("erase", "receipt", "--check", ".", "--public-key", "key.pem")
    said = elsewhere.lethe(*words).stdout
    assert "Receipts 1 to 3: signatures and chain hold." in said
    head = said.partition("Head: ")[2].split()[0]
    last = max(tmp_path.glob("*.json"))
    last.write_text(last.read_text().replace("nothing found", "erased", 1))
    assert elsewhere.lethe(*words, check=False).returncode == 37
    last.unlink()
    assert elsewhere.lethe(*words).returncode == 0
    assert elsewhere.lethe(*words, "--head", head, check=False).returncode == 37
    assert erased.workspace.lethe("erase", "receipt", "--check", "--head", head).returncode == 0


def test_no_file_of_the_workspace_holds_the_people_any_more(erased: Erased) -> None:
    for path in sorted(erased.workspace.root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            for person in (erased.ada, erased.bo):
                for trace in (person.key, person.email, person.name):
                    assert trace.encode() not in content, path
    with _vault(erased.workspace) as vault:
        assert vault.lookup([erased.ada.key, erased.bo.key]).tolist() == [-1, -1]


def test_dvc_works_afterwards(erased: Erased) -> None:
    again = erased.workspace.run("dvc", "repro")
    assert "Stage 'train' didn't change, skipping" in again.stdout
    erased.workspace.run("dvc", "push", "--quiet")
    erased.workspace.run("dvc", "pull", "--quiet")


def test_a_stale_source_brings_nobody_back_and_a_fresh_yes_does_with_another_token(
    erased: Erased, tmp_path: Path
) -> None:
    shutil.copytree(erased.workspace.root, tmp_path / "copy", symlinks=True)
    workspace = Workspace(tmp_path / "copy")
    clinic = workspace.root / "data" / "clinic.db"
    shutil.copy(erased.backup, clinic)
    looked = workspace.lethe("erase", "verify", check=False)
    assert looked.returncode == 36
    assert "back in the source: 2" in looked.stdout
    for stage in ("minimize", "consent", "pseudonymize"):
        workspace.lethe(stage)
    assert _exact(workspace, "consent")["left_out"]["has asked to be left out, or was erased"] == 2
    with _vault(workspace) as vault:
        assert vault.lookup([erased.ada.key, erased.bo.key]).tolist() == [-1, -1]
    with sqlite3.connect(clinic) as source:
        source.execute(
            "INSERT INTO consents (patient_id, purpose, answer, answered_at) "
            "VALUES (?, 'readmission_model', 'yes', strftime('%Y-%m-%d %H:%M:%f', 'now'))",
            (erased.ada.key,),
        )
    for stage in ("minimize", "consent", "pseudonymize"):
        workspace.lethe(stage)
    with _vault(workspace) as vault, _ledger(workspace) as ledger:
        ada, bo = vault.lookup([erased.ada.key, erased.bo.key]).tolist()
        assert ada not in (-1, erased.ada.token)
        assert bo == -1
        charged = {run for each in ledger.classes() if ada in each.members for run in each.run_ids}
        first, figures, *_ = (run.run_id for run in ledger.runs())
        assert charged == {first, figures}, "what was spent before is not forgotten"
