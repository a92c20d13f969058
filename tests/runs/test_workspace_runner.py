"""A run in a workspace: how it ends, what it removes, and what it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lethe.config import workspace
from lethe.core.errors import Busy, LetheError
from lethe.core.files import write_json
from lethe.runs.runner import StageFailed, WorkspaceRunner
from lethe.stores.dvc.repro import History, StageEvent

KEYS = (workspace.MINIMIZED, workspace.CONSENTED, workspace.TEMPORARY)


class Repro:
    """Stands for DVC: plays events, and remembers what it was asked."""

    def __init__(self) -> None:
        self.events: list[StageEvent] = [StageEvent("started", "minimize")]
        self.error: Exception | None = None
        self.leaves: dict[str, Any] | None = None
        self.asked: dict[str, Any] = {}

    def __call__(self, history: History, targets: Any, **options: Any) -> Iterator[StageEvent]:
        self.asked = {"root": history.root, "targets": list(targets), **options}
        yield from self.events
        if self.leaves is not None:
            write_json(history.root / workspace.FAILURE, self.leaves)
        if self.error is not None:
            raise self.error


@pytest.fixture
def repro(monkeypatch: pytest.MonkeyPatch) -> Repro:
    played = Repro()
    monkeypatch.setattr(History, "repro", lambda self, *words, **o: played(self, *words, **o))
    return played


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in KEYS:
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "keys").write_text("ana-4711")
    return tmp_path


def _keys(root: Path) -> list[bool]:
    return [(root / path).exists() for path in KEYS]


def test_a_run_reports_each_event_and_leaves_no_keys(root: Path, repro: Repro) -> None:
    repro.events = [StageEvent("started", "minimize"), StageEvent("finished", "minimize")]
    seen: list[StageEvent] = []
    WorkspaceRunner(root).run(["validate"], force=True, report=seen.append)
    assert seen == repro.events
    assert repro.asked == {"root": root, "targets": ["validate"], "force": True, "single": False}
    assert not any(_keys(root))


def test_a_failed_stage_ends_it_with_its_own_words_and_code(root: Path, repro: Repro) -> None:
    write_json(root / workspace.FAILURE, {"exit_code": 99, "message": "of a run before"})
    repro.events = [StageEvent("failed", "budget", 1)]
    repro.leaves = {"exit_code": 21, "message": "Run needs epsilon=2."}
    with pytest.raises(StageFailed, match=r"budget: Run needs epsilon=2\.") as failed:
        WorkspaceRunner(root).run()
    assert failed.value.exit_code == 21
    assert not any(_keys(root))


def test_a_killed_stage_is_not_given_the_failure_of_a_run_before(root: Path, repro: Repro) -> None:
    write_json(root / workspace.FAILURE, {"exit_code": 99, "message": "of a run before"})
    repro.events = [StageEvent("failed", "train", 1)]
    with pytest.raises(StageFailed, match="train: the stage was ended from outside") as failed:
        WorkspaceRunner(root).run()
    assert failed.value.exit_code == 1


@pytest.mark.parametrize("error", [LetheError("dvc repro ended with 1"), KeyboardInterrupt()])
def test_however_it_ends_no_keys_stay(root: Path, repro: Repro, error: Any) -> None:
    repro.error = error
    with pytest.raises(type(error)):
        WorkspaceRunner(root).run()
    assert not any(_keys(root))


def test_another_runs_keys_are_left_to_it(root: Path, repro: Repro) -> None:
    repro.error = Busy("Another run holds this workspace.")
    with pytest.raises(Busy):
        WorkspaceRunner(root).run()
    assert all(_keys(root))


def test_one_stage_alone_leaves_what_the_next_reads(root: Path, repro: Repro) -> None:
    WorkspaceRunner(root).run_stage("minimize")
    assert repro.asked["targets"] == ["minimize"]
    assert repro.asked["single"]
    assert all(_keys(root))
    repro.events = [StageEvent("failed", "minimize", 1)]
    with pytest.raises(StageFailed):
        WorkspaceRunner(root).run_stage("minimize")
