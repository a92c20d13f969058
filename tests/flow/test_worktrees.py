"""A run of the real pipeline: it works on HOME's stores, and releases nobody who asks meanwhile."""

import sqlite3
from pathlib import Path

import pytest
from pyroaring import BitMap

from lethe.config.keys import read_key_file
from lethe.stores.vault.vault import Vault
from tests.conftest import Workspace
from tests.past_pipeline import git


@pytest.fixture
def nightly(finished_copy: Workspace) -> Workspace:
    """A run in which the gate is to be passed again, with another condition than HOME's."""
    git(finished_copy.root, "add", "dvc.lock", "params.yaml")
    git(finished_copy.root, "commit", "--quiet", "--message", "Finished")
    opened = Workspace(Path(finished_copy.lethe("worktree", "open", "run-1").stdout.strip()))
    opened.edit_params(lambda raw: raw["registration"].update(min_auc=0.01))
    opened.run("dvc", "repro", "--single-item", "register")
    return opened


def test_who_asks_while_a_run_is_under_way_is_neither_registered_nor_published(
    finished_copy: Workspace, nightly: Workspace
) -> None:
    home = finished_copy
    for name in ("vault.db", "ledger.db", "workspace"):
        assert not (nightly.root / ".lethe" / name).exists(), "the stores are HOME's"
    for name in ("mlflow.db", "mlruns", "secrets", "data/clinic.db"):
        assert not (nightly.root / name).exists(), name
    code = ("python", "-c", "import lethe; print(lethe.__file__)")
    runs = nightly.run(*code, PYTHONPATH=str(nightly.root / "pipeline")).stdout.strip()
    assert Path(runs).is_relative_to(nightly.root), "as a task of the schedule: the committed code"
    before = (home.root / "dvc.lock").read_bytes()
    assert (nightly.root / "dvc.lock").read_bytes() != before, "there is something to release"

    home.lethe("erase", "request", "--subject", _held_out(home))
    refused = home.lethe("worktree", "publish", "run-1", check=False)
    assert refused.returncode == 34, refused.stderr
    assert (
        "fewer than 100 people in the run's shards have withdrawn or were erased since"
        in refused.stderr
    )
    assert (home.root / "dvc.lock").read_bytes() == before

    home.lethe("erase", "request", "--subject", _trained_on(home))
    refused = nightly.lethe("register", check=False)
    assert refused.returncode == 25, refused.stderr
    assert "1 people in it have withdrawn or were erased" in refused.stderr

    home.lethe("worktree", "close", "run-1")
    assert list((home.root / ".lethe" / "worktrees").iterdir()) == []
    gone = home.lethe("worktree", "publish", "run-1", check=False)
    assert (gone.returncode, "not open" in gone.stderr) == (26, True)


def _trained_on(home: Workspace) -> str:
    return _person(home, BitMap.deserialize((home.root / "data/manifest.roaring").read_bytes()))


def _held_out(home: Workspace) -> str:
    """Somebody in the shards whom the model was not trained on, so that the gate is open."""
    trained = BitMap.deserialize((home.root / "data/manifest.roaring").read_bytes())
    subjects = BitMap.deserialize((home.root / "data/subjects.roaring").read_bytes())
    return _person(home, subjects - trained)


def _person(home: Workspace, tokens: BitMap) -> str:
    with sqlite3.connect(home.root / "data" / "clinic.db") as clinic:
        keys = [key for (key,) in clinic.execute("SELECT patient_id FROM patients")]
    clinic.close()
    key = read_key_file(home.root / "secrets" / "lethe.key")
    with Vault.open(f"sqlite:///{home.root / '.lethe' / 'vault.db'}", key) as vault:
        found = vault.lookup(keys).tolist()
    known = {key: token for key, token in zip(keys, found, strict=True) if token >= 0}
    return str(next(key for key, token in known.items() if token in tokens))
