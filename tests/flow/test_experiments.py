"""Experiments of DVC, and what it shows of runs: charged in one ledger, readable, offline."""

import csv
import io
import json
import re
from pathlib import Path

from lethe.config.home import IDENTITY
from lethe.config.params import load_params
from lethe.ledger.ledger import Ledger
from lethe.stores.registry.registry import Registry, Version
from tests.conftest import PROJECT, Workspace
from tests.past_pipeline import git

FOR_GIT = re.compile(rf"dvc\.lock|{re.escape(str(IDENTITY))}|reports/(plots/)?\w+\.(json|csv)")


def test_a_whole_run_leaves_nothing_to_git_but_what_is_to_be_committed(finished: Workspace) -> None:
    listed = git(finished.root, "status", "--porcelain", "--untracked-files=all").splitlines()
    paths = [line[3:] for line in listed]
    assert {"dvc.lock", str(IDENTITY), "reports/metrics.json", "reports/train.json"} <= set(paths)
    assert [path for path in paths if not FOR_GIT.fullmatch(path)] == []


def test_the_metrics_fit_a_screen(finished: Workspace) -> None:
    shown = finished.run("dvc", "metrics", "show", "--md").stdout.strip().splitlines()
    heads = [each.strip() for each in shown[0].strip("|").split("|")]
    assert len(shown) == 3, "one report"
    report = json.loads((finished.root / "reports" / "metrics.json").read_text())
    charged = {f"charged.{name}" for name in report["charged"]}
    assert set(heads) == {"Path", "epsilon_pld", "epsilon_rdp", "version"} | charged
    assert {"charged.records", "charged.subjects"} <= charged, "others may drown, of so few people"
    assert len(charged) <= 9, "a screen's width"


def test_the_plots_name_their_axes_and_fetch_nothing(
    finished_copy: Workspace, tmp_path: Path
) -> None:
    # So few people have no curve; these are as a run of many writes them.
    plots = finished_copy.root / "reports" / "plots"
    for name in ("roc", "calibration"):
        head = (plots / f"{name}.csv").read_text().splitlines()[0]
        (plots / f"{name}.csv").write_text(f"{head}\nTrue,0,0\nTrue,1,1\n")
    finished_copy.run("dvc", "plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=|@import|fetch\(|url\(", page)
    for words in (
        "false-positive rate",
        "true-positive rate",
        "predicted probability",
        "observed share",
    ):
        assert f'"title": "{words}' in page
    assert page.count("vegaEmbed('#") == 4, "two curves, and two reports with nothing to draw"


def test_dvc_finds_one_pipeline_here() -> None:
    listed = git(PROJECT, "ls-files", "--", "*dvc.yaml", "*.dvc").splitlines()
    assert listed == ["dvc.yaml"], (
        "whatever lies deeper would be shown, fetched and applied as well"
    )


def _versions(made: Workspace) -> list[Version]:
    return Registry.open(f"sqlite:///{made.root}/mlflow.db").versions("readmission")


def test_experiments_in_folders_of_their_own_are_charged_shown_applied_and_removed(
    finished_copy: Workspace,
) -> None:
    made = finished_copy
    made.run("git", "config", "user.name", "test")
    made.run("git", "config", "user.email", "test@example.org")
    git(made.root, "add", "--all")
    git(made.root, "commit", "--quiet", "--message", "Finished")
    rate = "training.optimizer.learning_rate"
    made.run("dvc", "exp", "run", "--temp", "--name", "aside", "--set-param", f"{rate}=2")
    made.run("dvc", "exp", "run", "--queue", "--name", "later", "--set-param", f"{rate}=3")
    made.run("dvc", "exp", "run", "--run-all")

    ledger = load_params(made.root / "params.yaml").address("sqlite:///.lethe/ledger.db")
    with Ledger.open(ledger, create=False) as opened:
        assert [run.state for run in opened.runs()] == ["settled"] * 6, "a training and its figures"
        spent = max(len(each.run_ids) for each in opened.classes(delta=1e-5))
    assert spent == 6, "whoever is in all of them has paid for all of them"
    first, *tried = _versions(made)
    assert "candidate" in first.aliases
    assert [(v.aliases, v.tags["experiment"]) for v in tried] == [((), "true")] * 2

    shown = made.run("dvc", "exp", "show", "--only-changed", "--hide-workspace", "--csv").stdout
    rows = {row["Experiment"]: row for row in csv.DictReader(io.StringIO(shown))}
    assert {rows[name][rate] for name in ("aside", "later")} == {"2", "3"}
    assert len(next(iter(rows.values()))) < 16, "a screen's width"

    made.run("dvc", "exp", "apply", "aside")
    assert "learning_rate: 2" in (made.root / "params.yaml").read_text()
    assert f'"version": {rows["aside"]["version"]}' in (
        (made.root / "reports" / "metrics.json").read_text()
    )
    made.run("dvc", "exp", "remove", "aside", "later")
    assert "aside" not in made.run("dvc", "exp", "list", "--name-only").stdout
    with Ledger.open(ledger, create=False) as opened:
        assert len(opened.runs()) == 6, "what was learned from people was learned"
