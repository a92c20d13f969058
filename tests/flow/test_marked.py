"""Every number of people's data that leaves is charged, or says that it is not private."""

import json
from typing import Any

import pandas as pd

from lethe.stores.registry.registry import NOT_PRIVATE, Registry
from tests.conftest import Workspace

CHARGED = {"epsilon_pld", "epsilon_rdp"}  # follow from the plan alone


def test_every_metric_in_mlflow_is_a_price_or_marked(finished: Workspace) -> None:
    registry = Registry.open(f"sqlite:///{finished.root / 'mlflow.db'}")
    version = registry.find("readmission", "1")
    names = set(registry.metrics(version))
    assert {"auc", "accuracy", "log_loss", "attack_auc"} <= {
        name.removesuffix(NOT_PRIVATE) for name in names
    }
    assert {name for name in names if not name.endswith(NOT_PRIVATE)} == CHARGED
    for name, metric in json.loads(version.tags["metrics"]).items():
        assert metric["private"] is False, name
    marked = version.tags["not_private"].split(", ")
    assert {"auc", "subjects", "records"} <= set(marked)


def test_every_metric_of_the_reports_says_whether_it_is_private(finished: Workspace) -> None:
    def report(stage: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (finished.root / "reports" / f"{stage}.json").read_text()
        )
        return found

    assert all(metric["private"] is False for metric in report("train")["metrics"].values())
    assert {"records", "subjects"} <= set(report("train")["not_private"])
    assert "subjects" in report("budget")["not_private"]
    assert report("audit")["private"] is False
    assert report("audit")["attack"]["private"] is False


def test_every_row_of_a_curve_says_that_it_is_not_private(finished: Workspace) -> None:
    for name in ("roc", "calibration", "audit_roc"):
        curve = pd.read_csv(finished.root / "reports" / "plots" / f"{name}.csv")
        assert len(curve) > 0
        assert curve.columns[0] == "private" and not curve["private"].any(), name


def test_budget_shows_the_runs_own_spend(finished: Workspace) -> None:
    shown = json.loads(finished.lethe("budget", "--json").stdout)
    trained = json.loads((finished.root / "reports" / "train.json").read_text())
    (everybody,) = shown["classes"]
    assert everybody["subjects"] == trained["subjects"]
    assert everybody["epsilon_pld"] == trained["epsilon_pld"]
    assert everybody["epsilon_rdp"] == trained["epsilon_rdp"]
    assert everybody["remaining"] == shown["budget_epsilon"] - trained["epsilon_rdp"]
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
    (after,) = json.loads(finished_copy.lethe("budget", "--json").stdout)["classes"]
    assert (before[0]["runs"], after["runs"]) == (1, 2)
    assert before[0]["epsilon_rdp"] < after["epsilon_rdp"]
    assert report["charged"]["runs"] == 1
    registry = Registry.open(f"sqlite:///{finished_copy.root / 'mlflow.db'}")
    assert len(registry.versions()) == 1
