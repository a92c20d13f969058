"""What a run says that it costs is what the ledger took."""

import json

from lethe.stores.registry.registry import Registry
from tests.conftest import Workspace


def test_budget_shows_the_runs_own_spend(finished: Workspace) -> None:
    shown = json.loads(finished.lethe("budget", "--json").stdout)
    trained = json.loads((finished.root / "reports" / "train.json").read_text())
    exact = json.loads((finished.root / ".lethe/private/reports/train.json").read_text())
    (everybody,) = (each for each in shown["classes"] if each["in_next_run"])
    (held_out,) = (each for each in shown["classes"] if not each["in_next_run"])
    assert everybody["subjects"] == exact["subjects"]
    assert held_out["epsilon_rdp"] == trained["figures"]["epsilon_rdp"], "they pay for figures"
    both = trained["epsilon_rdp"] + trained["figures"]["epsilon_rdp"]
    assert trained["epsilon_rdp"] < everybody["epsilon_rdp"] <= both
    assert everybody["remaining"] == shown["budget_epsilon"] - everybody["epsilon_rdp"]
    assert shown["delta"] == trained["delta"]
    assert everybody["epsilon_rdp_after"] > everybody["epsilon_rdp"]


def test_a_real_run_is_refused_on_a_ledger_that_was_deleted(finished_copy: Workspace) -> None:
    (finished_copy.root / ".lethe" / "ledger.db").unlink()
    done = finished_copy.lethe("run", check=False)
    assert done.returncode == 30
    assert "what people spent cannot be known" in done.stderr
    shown = finished_copy.lethe("budget", "--json", check=False)
    assert shown.returncode == 30


def test_a_charged_sweep_of_a_real_run_spends_what_it_says(finished_copy: Workspace) -> None:
    words = ("sweep", "--charged", "--noise-multiplier", "4", "--clip", "1", "--json")
    refused = finished_copy.lethe(*words, check=False)
    assert refused.returncode == 10
    before = json.loads(finished_copy.lethe("budget", "--json").stdout)["classes"]
    report = json.loads(finished_copy.lethe(*words, "--yes").stdout)
    after = json.loads(finished_copy.lethe("budget", "--json").stdout)["classes"][0]
    assert (before[0]["runs"], after["runs"]) == (2, 3)
    assert before[0]["epsilon_rdp"] < after["epsilon_rdp"]
    assert report["charged"]["runs"] == 1
    registry = Registry.open(f"sqlite:///{finished_copy.root / 'mlflow.db'}")
    assert len(registry.versions()) == 1
