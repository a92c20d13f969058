"""What a run came to is known after it is gone, to who waits for it."""

import datetime as dt
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from lethe.config import workspace
from lethe.config.params import load_params
from lethe.core.errors import Busy, FileDamaged, ParamsInvalid, PublicationRefused
from lethe.people import withdrawn
from lethe.runs import ended, service
from lethe.runs.ended import EndedRun, last_attempt, next_attempt, note
from lethe.runs.runner import StageFailed
from lethe.runs.worktree import open_worktree
from tests.released_home import Home

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
BATCH = "0123456789abcdef"
FINAL = {16, 23}


def _run(number: int) -> str:
    return f"erase-{BATCH}-{number}"


def _fail(home: Path, number: int, *, code: int = 11, at: dt.datetime = NOW) -> None:
    note(home, _run(number), failure=(code, "The source is away."), now=at)


def _next(home: Path, *, now: dt.datetime = NOW) -> str | None:
    return next_attempt(home, BATCH, final=FINAL, now=now)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


def test_a_published_run_is_taken_whatever_failed_before_or_after(home: Path) -> None:
    _fail(home, 1)
    note(home, _run(1), version="readmission/4", now=NOW)
    _fail(home, 1)
    found = ended.ended(home, _run(1))
    assert found is not None and (found.version, found.exit_code) == ("readmission/4", 0)
    EndedRun(home, lambda: _run(1)).run()
    assert _next(home) is None


def test_a_failed_run_says_its_stages_own_code_and_words(home: Path) -> None:
    note(home, _run(1), now=NOW)  # closed, and nobody knows why: less than what is said later
    _fail(home, 1, code=23)
    note(home, _run(1), now=NOW)
    with pytest.raises(StageFailed, match="The source is away") as failed:
        EndedRun(home, lambda: _run(1)).run()
    assert failed.value.exit_code == 23


def test_a_run_that_nobody_heard_of_is_waited_for(home: Path) -> None:
    with pytest.raises(Busy, match="has not ended"):
        EndedRun(home, lambda: _run(1)).run()
    assert _next(home) == _run(1)
    assert last_attempt(home, BATCH) == (_run(1), None)


def test_a_failure_that_stays_one_is_not_tried_again(home: Path) -> None:
    _fail(home, 1, code=16)
    assert _next(home) is None


def test_other_failures_are_tried_again_at_once_then_later_each_time(home: Path) -> None:
    _fail(home, 1)
    assert _next(home) == _run(2)
    at = NOW
    for number, minutes in ((2, 5), (3, 10), (4, 20), (5, 40), (6, 80), (7, 160), (8, 320)):
        _fail(home, number, at=at)
        with pytest.raises(Busy, match="The source is away"):
            _next(home, now=at + dt.timedelta(minutes=minutes) - dt.timedelta(seconds=1))
        at += dt.timedelta(minutes=minutes)
        assert _next(home, now=at) == _run(number + 1)
    for number in range(9, 60):
        _fail(home, number, at=NOW)
    assert _next(home, now=NOW + dt.timedelta(hours=6)) == _run(60), "the longest rest"


def test_the_newest_attempt_counts_while_it_is_under_way(home: Path) -> None:
    _fail(home, 1)
    worktree = ended.RunWorktree.of(home, _run(2))
    (worktree.root / ".lethe").mkdir(parents=True)
    (worktree.root / ".lethe" / "run.json").write_text("{}")
    with pytest.raises(Busy, match="under way"):
        _next(home)
    assert last_attempt(home, BATCH) == (_run(2), None)


def test_what_is_old_goes_and_what_is_damaged_is_named(home: Path) -> None:
    _fail(home, 1)
    (home / ended.ENDED / "broken.json").write_text("[]")
    note(home, "other", now=NOW + dt.timedelta(days=ended.KEPT_DAYS + 1))
    assert ended.ended(home, _run(1)) is None
    assert (home / ended.ENDED / "broken.json").exists()
    with pytest.raises(FileDamaged, match="broken"):
        ended.ended(home, "broken")


def test_a_publication_and_its_refusal_are_kept(
    released: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(released.root)
    params = load_params()
    monkeypatch.setattr(service, "_alone", lambda params: nullcontext())
    monkeypatch.setattr(withdrawn, "count_withdrawn", lambda *_: 2)
    with pytest.raises(PublicationRefused):
        service.release(params, _run(1), released.second, now=NOW)
    with pytest.raises(StageFailed, match="2 people") as failed:
        EndedRun(released.root, lambda: _run(1)).run()
    assert failed.value.exit_code == PublicationRefused.exit_code
    monkeypatch.setattr(withdrawn, "count_withdrawn", lambda *_: 0)
    made = service.release(params, _run(2), released.second, now=NOW)
    found = ended.ended(released.root, _run(2))
    assert found is not None and found.version == made.version
    EndedRun(released.root, lambda: _run(2)).run()


def test_a_worktree_that_is_closed_leaves_its_failure_and_one_never_opened_nothing(
    released: Home,
) -> None:
    worktree = open_worktree(released.root, _run(1))
    workspace.write_failure(worktree.root, 16, "Of 9 people 3 are too few.")
    assert service.end(_run(1), released.root, now=NOW)
    found = ended.ended(released.root, _run(1))
    assert found == ended.RunOutcome(NOW, None, 16, "Of 9 people 3 are too few.")
    assert not service.end("nightly", released.root, now=NOW)
    assert ended.ended(released.root, "nightly") is None


def test_what_keeps_a_run_from_its_worktree_is_kept_too(released: Home) -> None:
    with (released.root / "params.yaml").open("a") as file:
        file.write("\n# a change\n")
    with pytest.raises(ParamsInvalid, match="not committed"):
        service.start(_run(1), released.root, now=NOW)
    with pytest.raises(StageFailed, match="not committed"):
        EndedRun(released.root, lambda: _run(1)).run()
    with pytest.raises(ParamsInvalid):
        service.start("../up", released.root, now=NOW)
    assert [path.name for path in (released.root / ended.ENDED).iterdir()] == [f"{_run(1)}.json"]
