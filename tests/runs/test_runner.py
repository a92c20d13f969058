"""Every place where stages run keeps the contract; and a toy that only this test knows."""

import dataclasses
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lethe.config.params import load_params
from lethe.config.sections import Erasure
from lethe.core.errors import NotFound, RunEnded
from lethe.rights.workspace_stores import WorkspaceStores
from lethe.runs.pods import home as pods
from lethe.runs.pods.graph import Pipeline
from lethe.runs.pods.stage import PodRunner
from lethe.runs.runner import Report, Runner, WorkspaceRunner
from lethe.runs.worktree import WorktreeRunner, close_worktree, open_worktree, runner_in
from lethe.stores.registry.registry import Registry
from tests.conftest import PROJECT, Workspace
from tests.runs.contract import RunnerContract, make_pipeline


class Elsewhere(Runner):
    """A toy: a copy of the workspace on what could be another machine's disk."""

    def __init__(self, home: Path, there: Path) -> None:
        self.root = Path(shutil.copytree(home, there))

    def perform(self, targets: Sequence[str], *, force: bool, single: bool, report: Report) -> None:
        WorkspaceRunner(self.root).perform(targets, force=force, single=single, report=report)


def _in_workspace(workspace: Workspace, outside: Path, folder: Path) -> Runner:
    return runner_in(workspace.root)


def _in_worktree(workspace: Workspace, outside: Path, folder: Path) -> Runner:
    return runner_in(open_worktree(workspace.root, "nightly-7").root)


def _in_pod(workspace: Workspace, outside: Path, folder: Path) -> Runner:
    remote = str(outside / "git")
    subprocess.run(["git", "init", "--quiet", "--bare", remote], check=True)
    pods.open_run(workspace.root, "nightly-7", remote=remote)
    return PodRunner("nightly-7", remote=remote, folder=folder, watch_seconds=30)


def _elsewhere(workspace: Workspace, outside: Path, folder: Path) -> Runner:
    return Elsewhere(workspace.root, folder)


class TestWorkspace(RunnerContract):
    place = _in_workspace


class TestWorktree(RunnerContract):
    place = _in_worktree


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # of pygtrie, in DVC
class TestPod(RunnerContract):
    place = _in_pod


class TestElsewhere(RunnerContract):
    place = _elsewhere


def test_a_worktree_that_was_closed_runs_nothing(workspace: Workspace, tmp_path: Path) -> None:
    make_pipeline(workspace, tmp_path / "outside")
    runner = runner_in(open_worktree(workspace.root, "nightly-7").root)
    assert isinstance(runner, WorktreeRunner)
    close_worktree(workspace.root, "nightly-7")
    with pytest.raises(NotFound, match="nightly-7 is not open: it was closed when its run ended"):
        runner.run()
    assert not (tmp_path / "outside" / "ran").exists()


def test_a_pod_of_a_run_that_is_over_runs_nothing(workspace: Workspace, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    make_pipeline(workspace, outside)
    runner = _in_pod(workspace, outside, tmp_path / "pod")
    pods.close_run(workspace.root, "nightly-7")
    with pytest.raises(RunEnded, match="Nothing of this stage was kept"):
        runner.run()
    assert not (outside / "ran").exists()


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["minimize"], ["minimize"]),
        (["validate"], ["minimize", "consent", "pseudonymize", "validate"]),
        (["consent", "minimize"], ["minimize", "consent"]),
    ],
)
def test_stages_are_reached_by_all_that_they_need(targets: list[str], expected: list[str]) -> None:
    pipeline = Pipeline(PROJECT)
    assert pipeline.up_to(targets) == expected
    assert pipeline.up_to([]) == pipeline.names


class Counted(Runner):
    """Runs nothing, and counts how often it was asked to."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, 0

    def perform(self, targets: Sequence[str], *, force: bool, single: bool, report: Report) -> None:
        self.asked += 1


def test_models_are_trained_anew_where_the_runner_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "open", lambda url: SimpleNamespace(versions=lambda *_: []))
    monkeypatch.chdir(tmp_path)
    Path("reports").mkdir()
    Path("reports/register.json").write_text('{"model": "wards", "version": 2}')
    runner = Counted(tmp_path)
    any_vault: Any = SimpleNamespace(everybody=list)
    params = load_params(PROJECT / "params.yaml", root=Path())
    stores = WorkspaceStores(
        dataclasses.replace(params, erasure=Erasure(code=("tests",))),
        any_vault,
        any_vault,
        tmp_path,
        clock=lambda: None,  # type: ignore[arg-type, return-value]
        runner=runner,
    )
    assert stores.retrain().version == "wards/2"
    assert runner.asked == 1
    assert "git's files below tests, declared to be code" in stores.dvc.unseen()[-1]
