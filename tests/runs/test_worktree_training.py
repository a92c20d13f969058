"""Training in worktrees: what one began the next goes on with, and nobody is charged twice."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from pyroaring import BitMap
from typer.testing import CliRunner

from lethe.attacks.run.recorded import Recorded
from lethe.cli.main import app
from lethe.config import transcripts, workspace
from lethe.config.params import Params, load_params
from lethe.core.errors import Busy
from lethe.core.files import read_json
from lethe.data.shards import eligible_people, shard_paths
from lethe.privacy.plan import Plan
from lethe.stages import train as stage
from lethe.stores.dvc.worktree import Worktree
from lethe.training import begins, dpsgd_fit, loop
from lethe.training.description import WEIGHTS
from lethe.training.dpsgd import DpSgd
from tests.stages.test_train import NOW, FakeLedger, go, interrupt, never, params  # noqa: F401


class Worktrees:
    """Worktrees of one workspace, each with the data that it has; the test stands in one."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home, self._patch = home, patch

    def enter(self, run: str) -> Params:
        root = self.home / ".lethe" / "worktrees" / run
        root.mkdir(parents=True)
        shutil.copytree(self.home / "data", root / "data")
        shutil.copy(self.home / "params.yaml", root)
        self._patch.chdir(root)
        return load_params()

    def close(self, run: str) -> None:
        self._patch.chdir(self.home)
        shutil.rmtree(self.home / ".lethe" / "worktrees" / run)


@pytest.fixture
def worktrees(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worktrees:  # noqa: F811
    return Worktrees(tmp_path, monkeypatch)


def test_a_killed_training_goes_on_from_its_checkpoint_in_the_next_worktree(
    worktrees: Worktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "Execution", partial(loop.Execution, checkpoint_every=1))
    ledger = FakeLedger()
    params = worktrees.enter("run-1")  # noqa: F811

    def killed(step: int, _: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.train_reserved(params, ledger, DpSgd(), now=NOW, progress=killed)
    worktrees.close("run-1")
    transcript = transcripts.folder_of(worktrees.home, "run-0")
    for look in (["approve", "--waiting", "--json"], ["status"], ["ledger"]):
        CliRunner().invoke(app, look)  # as every five minutes
        assert (transcript / "steps.jsonl").exists(), look
    monkeypatch.setattr(begins, "process", lambda: "another")  # as the next task's is
    done: list[int] = []
    report = stage.train_reserved(
        worktrees.enter("run-2"),
        ledger,
        DpSgd(),
        now=NOW,
        progress=lambda step, _: done.append(step),
    )
    assert done[-1] == report["plan"]["steps"] == 4
    assert done[0] > 1, "not from the first step"
    assert report["run_id"] == "run-0"
    states = [run.state for run in ledger.runs.values()]
    assert states == ["settled"] * 2, "charged once, and its figures"
    recorded = Recorded(transcript)
    assert len(recorded.draws) == 4 and recorded.begun_again == 0, "it can be audited whole"


def test_what_a_worktree_had_trained_and_not_published_the_next_publishes_as_it_is(
    worktrees: Worktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = FakeLedger()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        params = worktrees.enter("run-1")
        patch.setattr(stage, "_publish", interrupt)
        go(params, ledger)
    worktrees.close("run-1")
    staged = worktrees.home / stage.STAGING / "run-0"
    weights = (staged / "model" / WEIGHTS).read_bytes()
    assert staged.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(dpsgd_fit, "train", never)
    assert go(worktrees.enter("run-2"), ledger)["run_id"] == "run-0"
    assert (workspace.MODEL / WEIGHTS).read_bytes() == weights
    assert len(ledger.runs) == 2, "a training and its figures"
    assert list((worktrees.home / stage.STAGING).iterdir()) == []
    transcript = transcripts.folder_of(worktrees.home, "run-0")
    transcripts.begin(worktrees.home, "another", b"")  # which takes those of folders that are gone
    assert transcript.is_dir(), "the worktree that published it has yet to audit it"


def test_the_same_training_is_one_request_in_every_worktree_and_in_home(
    worktrees: Worktrees,
) -> None:
    """So the ledger keeps two worktrees from training it at once: who reserved it still runs."""
    found = set()
    for run in (None, "run-1", "run-2"):
        params = worktrees.enter(run) if run else load_params()  # noqa: F811
        plan = Plan.from_data(read_json(workspace.PLAN))
        paths = shard_paths(workspace.SHARDS)
        found.add(stage.request_digest(plan.release(eligible_people(paths)), paths, params))
    assert len(found) == 1


def test_worktrees_train_at_once_and_an_erasure_that_clears_what_they_keep_waits_for_them(
    worktrees: Worktrees,
) -> None:
    checkpoint = worktrees.home / stage.STAGING / "run-0.checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    home = Worktree(worktrees.home)
    with stage.alone(Path()):
        worktrees.enter("run-1")
        with stage.alone(Path()):
            worktrees.enter("run-2")
            with stage.alone(Path()), pytest.raises(Busy, match="A run trains"):
                home.clear_temporary(BitMap([1]))
    assert checkpoint.exists()
    home.clear_temporary(BitMap([1]))
    assert not checkpoint.exists()
