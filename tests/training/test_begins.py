"""One training a charge: what is begun again, what cannot be recorded, and what is lost."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lethe.attacks.run.recorded import Recorded, Unrecorded
from lethe.config import transcripts, workspace
from lethe.core.errors import DiskFull, NotRecorded
from lethe.core.files import read_json
from lethe.privacy.plan import Plan
from lethe.stages import train as stage
from lethe.stores.opening import open_ledger
from lethe.training import begins, loop, transcript
from lethe.training.begins import Begin, BegunAgain, Journal
from lethe.training.dpsgd import DpSgd
from lethe.training.trainer import Reserved, Session, Shards, Trained
from tests import trained_run
from tests.attacks.recorded_run import PLAN, run

PARAMS = trained_run.params()
Patch = pytest.MonkeyPatch
Fit = Callable[[Shards, Reserved, Plan, Session], Trained]


def _another_process() -> None:
    begins._named.cache_clear()


def _as_begun(*words: tuple[int, str, bool]) -> int:
    return begins.again(20, [Begin(*each) for each in words])


def test_what_an_honest_run_begins_is_nothing_begun_again() -> None:
    assert _as_begun((0, "a", True)) == 0
    assert _as_begun((0, "a", False), (10, "b", False), (10, "c", True)) == 0  # killed twice
    assert _as_begun((0, "a", False), (0, "b", True)) == 0  # before its first checkpoint
    assert _as_begun((0, "a", True), (20, "b", True)) == 0  # after its last


def test_the_best_of_several_is_begun_again() -> None:
    assert _as_begun((0, "a", True), (0, "b", True), (0, "c", True)) == 2
    assert _as_begun((0, "a", True), (15, "b", True)) == 1  # its last steps alone
    assert _as_begun((0, "a", False), (0, "a", True)) == 1  # ended before its last step
    assert _as_begun((0, "a", False), (10, "b", False), (10, "a", True)) == 1


def test_an_ended_run_is_not_begun_again_whatever_its_checkpoint_says(tmp_path: Path) -> None:
    made = run(tmp_path / "run")
    assert made.failed() == []
    _another_process()
    (tmp_path / "run.checkpoint").unlink()
    with pytest.raises(BegunAgain, match="another charge"):
        run(tmp_path / "run")
    assert made.failed() == []  # nothing was drawn, and nothing lost


def test_from_its_last_checkpoint_a_run_is_the_same_run(tmp_path: Path) -> None:
    made = run(tmp_path / "run", every=7)
    _another_process()
    again = run(tmp_path / "run", every=7)
    assert again.failed() == []
    assert all((again.released[name] == each).all() for name, each in made.released.items())
    assert [each.done for each in Journal(made.folder).begins] == [0, 20]


def test_a_process_does_not_begin_a_run_twice(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(begins, "process", lambda: "the one")
    with pytest.raises(BegunAgain):
        run(tmp_path / "run", killed_at=(19,))


def test_the_audit_names_what_was_begun_again(tmp_path: Path, monkeypatch: Patch) -> None:
    first = run(tmp_path / "run")
    ended = json.loads((first.folder / begins.BEGINS).read_bytes())
    _another_process()
    monkeypatch.setattr(transcript.Journal, "begin", lambda *words: None)  # it is not refused
    monkeypatch.setattr(transcript.Journal, "end", lambda *words: None)
    (tmp_path / "run.checkpoint").unlink()
    made = run(tmp_path / "run")
    (made.folder / begins.BEGINS).write_text(json.dumps(ended * 2))
    assert made.failed() == ["run.begun"]


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b'[{"done": 0}]'])
def test_without_its_journal_a_transcript_is_none(content: bytes | None, tmp_path: Path) -> None:
    made = run(tmp_path / "run")
    path = made.folder / begins.BEGINS
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(Unrecorded):
        made.failed()


def _full(after: int, error: int = errno.ENOSPC) -> Callable[..., None]:
    """As a disk that takes so many pieces more."""
    append, left = transcript.Recorder._append, [after]

    def appended(self: transcript.Recorder, path: Path, content: bytes) -> None:
        if not left[0]:
            append(self, path, content[: len(content) // 2])
            raise OSError(error, "no")
        left[0] -= 1
        append(self, path, content)

    return appended


@pytest.mark.parametrize("after", [0, 1, 2, 30, 40])
def test_a_full_disk_stops_the_training_which_goes_on_later(
    after: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(transcript.Recorder, "_append", _full(after))
        run(tmp_path / "run")
    _another_process()
    made = run(tmp_path / "run")
    assert made.failed() == []
    done = [each.done for each in Journal(made.folder).begins]
    assert done == [0, 10 if after >= 30 else 0]


WHOLE, LONG, SHORT = 2**30, 38_960, 13_920  # bytes: one part, 4 of 50 steps, and 10 of 22


@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [(WHOLE, SHORT, 1), (LONG, SHORT, 2), (SHORT, WHOLE, 2)],
)
def test_another_limit_of_the_transcript_is_no_other_run(
    first: int, then: int, kept: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Whoever declares another one after a disk was full is not charged again for that."""
    plan = replace(PLAN, steps=200)
    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(transcript.Recorder, "_append", _full(400))
        run(tmp_path / "run", plan=plan, limit=first)
    parted = (tmp_path / "run" / transcript.ABOUT).read_bytes()
    _another_process()
    made = run(tmp_path / "run", plan=plan, limit=then)
    assert made.failed() == []
    recorded = Recorded(made.folder)
    assert (made.folder / transcript.ABOUT).read_bytes() == parted
    assert 1 < Journal(made.folder).begins[1].done < 200
    assert len(recorded.segments) <= kept


def test_so_does_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch, pytest.raises(NotRecorded, match="same charge"):
        patch.setattr(transcript.Recorder, "_append", _full(5, errno.EIO))
        run(tmp_path / "run")
    _another_process()
    assert run(tmp_path / "run").failed() == []


@pytest.mark.parametrize(
    "lost", ["about.json", "drawn.zlib", "steps.jsonl", "begins.json", "all", "another's"]
)
def test_a_run_does_not_go_on_with_half_of_its_transcript(
    lost: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    begin = transcript.Recorder.begin

    def damaged(self: transcript.Recorder, *words: Any, **others: Any) -> None:
        folder = tmp_path / "run"
        if others["done"] and lost == "all":
            shutil.rmtree(folder)
            folder.mkdir()
        elif others["done"] and lost == "another's":
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "other", folder)
        elif others["done"]:
            (folder / lost).write_bytes(b"")
        begin(self, *words, **others)

    run(tmp_path / "other", plan=replace(PLAN, clip_norm=0.25))
    monkeypatch.setattr(transcript.Recorder, "begin", damaged)
    with pytest.raises(BegunAgain, match="another charge"):
        run(tmp_path / "run", killed_at=(12,))


class Best(DpSgd):
    """Somebody's trainer that trains three times and keeps one."""

    def __init__(self, sessions: Callable[[Session, int], Session]) -> None:
        self._sessions = sessions

    def fit(
        self, shards: Shards, reservation: Reserved, *, plan: Plan, session: Session
    ) -> Trained:
        fits = [
            super(Best, self).fit(
                shards, reservation, plan=plan, session=self._sessions(session, number)
            )
            for number in range(3)
        ]
        return max(fits, key=lambda each: each.facts["metrics"]["auc"]["value"])


def _stage(root: Path, trainer: DpSgd) -> dict[str, Any]:
    with open_ledger(PARAMS) as ledger:
        return stage.train_reserved(PARAMS, ledger, trainer, now=trained_run.NOW)


def _workspace(root: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(root)
    trained_run.write_people(PARAMS)


@pytest.mark.parametrize(
    "sessions",
    [
        lambda session, n: replace(session, checkpoint=session.checkpoint.with_suffix(f".{n}")),
        lambda session, n: replace(session, transcript=session.transcript if n == 2 else None),
        lambda session, n: replace(
            session,
            checkpoint=session.checkpoint.with_suffix(f".{n}"),
            transcript=session.transcript if n == 2 else None,
        ),
    ],
)
def test_a_trainer_that_keeps_the_best_of_three_is_refused_and_charged(
    sessions: Callable[[Session, int], Session], tmp_path: Path, monkeypatch: Patch
) -> None:
    _workspace(tmp_path, monkeypatch)
    with pytest.raises(BegunAgain):
        _stage(tmp_path, Best(sessions))
    assert not workspace.MODEL.exists()
    with open_ledger(PARAMS) as ledger:
        assert [each.state for each in ledger.runs()] == ["settled"]
    honest = _stage(tmp_path, DpSgd())
    with open_ledger(PARAMS) as ledger:
        assert len(ledger.runs()) == 2  # the next is another charge
    assert transcripts.folder_of(tmp_path, honest["run_id"]).is_dir()


def test_to_ask_for_the_same_fit_again_gives_the_same_model(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    _workspace(tmp_path, monkeypatch)
    trained = []
    fit = DpSgd.fit

    def kept(self: DpSgd, *words: Any, **others: Any) -> Trained:
        trained.append(fit(self, *words, **others))
        return trained[-1]

    monkeypatch.setattr(DpSgd, "fit", kept)
    _stage(tmp_path, Best(lambda session, number: session))
    assert len(trained) == 3
    assert all(each.model == trained[0].model for each in trained)


def test_a_stage_whose_disk_is_full_goes_on_under_its_charge(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    _workspace(tmp_path, monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(transcript.Recorder, "_append", _full(4))
        _stage(tmp_path, DpSgd())
    assert not workspace.MODEL.exists()
    _another_process()
    report = _stage(tmp_path, DpSgd())
    with open_ledger(PARAMS) as ledger:
        assert [each.run_id for each in ledger.runs()] == [report["run_id"]]


def test_a_kill_after_the_last_step_draws_nothing_again(tmp_path: Path, monkeypatch: Patch) -> None:
    _workspace(tmp_path, monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "refuse_not_finite", _interrupted)
        _stage(tmp_path, DpSgd())
    _another_process()
    drawn = []
    monkeypatch.setattr(loop.DpStep, "draw", lambda *words: drawn.append(words))
    report = _stage(tmp_path, DpSgd())
    assert drawn == []
    assert read_json(workspace.MODEL / "model.json")["run_id"] == report["run_id"]


def _interrupted(*words: Any) -> None:
    raise KeyboardInterrupt
