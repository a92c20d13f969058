"""What a run came to is known after it is gone, to who waits for it."""

import datetime as dt
from contextlib import nullcontext
from pathlib import Path

import pytest

from lethe.config import workspace
from lethe.config.params import load_params
from lethe.core.errors import Busy, FileDamaged, ParamsInvalid, PublicationRefused
from lethe.people import withdrawn
from lethe.runs import ended, service
from lethe.runs.ended import EndedRun, begin, note
from lethe.runs.runner import StageFailed
from lethe.runs.worktree import open_worktree
from tests.released_home import Home

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
FINAL = {16, 23}
ADA, BO = "request-ada", "request-bo"


def _run(number: int) -> str:
    return f"erase-{number:016x}"


def _fail(home: Path, number: int, *, code: int = 11, at: dt.datetime = NOW, **more: bool) -> None:
    note(home, _run(number), failure=(code, "The source is away."), now=at, **more)


def _begin(home: Path, number: int, *requests: str, now: dt.datetime = NOW) -> bool:
    return begin(home, _run(number), requests or (ADA,), final=FINAL, now=now)


def _take(home: Path, *requests: str) -> None:
    EndedRun(home, lambda: requests or (ADA,)).run()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def test_a_published_run_is_taken_whatever_failed_before_or_after(home: Path) -> None:
    assert _begin(home, 1)
    _fail(home, 1)
    note(home, _run(1), version="readmission/4", now=NOW)
    _fail(home, 1)
    found = ended.ended(home, _run(1))
    assert found is not None and (found.version, found.exit_code) == ("readmission/4", 0)
    _take(home)
    assert not _begin(home, 2), "it has brought an answer"


def test_a_failed_run_says_its_stages_own_code_and_words(home: Path) -> None:
    _begin(home, 1)
    note(home, _run(1), now=NOW)  # closed, and nobody knows why: less than what is said later
    _fail(home, 1, code=23)
    note(home, _run(1), now=NOW)
    with pytest.raises(StageFailed, match="The source is away") as failed:
        _take(home)
    assert failed.value.exit_code == 23


def test_what_was_not_asked_for_or_has_not_ended_is_waited_for(home: Path) -> None:
    with pytest.raises(Busy, match="No run"):
        _take(home)
    assert _begin(home, 1)
    with pytest.raises(Busy, match="has not ended"):
        _take(home)
    with pytest.raises(Busy, match="under way"):
        _begin(home, 2)
    assert _begin(home, 1), "the same again, where its own task is repeated"


def test_who_asked_since_is_in_no_run_before(home: Path) -> None:
    _begin(home, 1)
    note(home, _run(1), version="readmission/4", now=NOW)
    with pytest.raises(Busy, match="No run"):
        _take(home, ADA, BO)
    assert _begin(home, 2, ADA, BO)
    note(home, _run(2), version="readmission/5", now=NOW)
    _take(home, ADA, BO)
    _take(home, BO)
    assert not _begin(home, 3, BO)


def test_who_asks_while_one_fails_is_tried_with_the_others_and_then_rests(home: Path) -> None:
    for number in (1, 2):
        assert _begin(home, number)
        _fail(home, number)
    for number in (3, 4):  # that they asked may be what it failed for
        assert _begin(home, number, ADA, BO)
        _fail(home, number)
    with pytest.raises(Busy, match="Next try"):
        _begin(home, 5, ADA, BO)


def test_a_failure_that_stays_one_is_not_tried_again_for_the_same_people(home: Path) -> None:
    _begin(home, 1)
    _fail(home, 1, code=16)
    assert not _begin(home, 2)
    assert _begin(home, 2, ADA, BO)


def test_other_failures_are_tried_again_at_once_then_later_each_time(home: Path) -> None:
    assert _begin(home, 1)
    _fail(home, 1)
    at = NOW
    for number, minutes in enumerate((0, 5, 10, 20, 40, 80, 160, 320, 360, 360), start=1):
        if minutes:
            with pytest.raises(Busy, match="The source is away"):
                _begin(
                    home,
                    number + 1,
                    now=at + dt.timedelta(minutes=minutes) - dt.timedelta(seconds=1),
                )
        at += dt.timedelta(minutes=minutes)
        assert _begin(home, number + 1, now=at)
        _fail(home, number + 1, at=at)


def test_what_is_charged_anew_is_not_tried_again_soon(home: Path) -> None:
    _begin(home, 1)
    _fail(home, 1, anew=True)
    with pytest.raises(Busy):
        _begin(home, 2, now=NOW + dt.timedelta(hours=6) - dt.timedelta(seconds=1))
    assert _begin(home, 2, now=NOW + dt.timedelta(hours=6))


def test_a_run_that_is_started_again_has_not_ended(home: Path) -> None:
    _begin(home, 1)
    _fail(home, 1)
    assert _begin(home, 1)
    with pytest.raises(Busy, match="has not ended"):
        _take(home)


def test_what_is_old_goes_and_what_is_damaged_is_named(home: Path) -> None:
    _begin(home, 1)
    _fail(home, 1)
    (home / ended.ENDED / "broken.json").write_text("[]")
    later = NOW + dt.timedelta(days=ended.KEPT_DAYS + 1)
    note(home, "other", now=later)
    assert ended.ended(home, _run(1)) is None
    assert (home / ended.ENDED / "broken.json").exists()
    with pytest.raises(FileDamaged, match="broken"):
        ended.ended(home, "broken")
    _begin(home, 2, BO, now=later)
    assert _run(1) not in (home / ".lethe" / "attempts.json").read_text()
    (home / ".lethe" / "attempts.json").write_text("{}")
    with pytest.raises(FileDamaged, match="attempts"):
        _begin(home, 3)


def test_a_publication_and_its_refusal_are_kept(
    released: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(released.root)
    params = load_params()
    _begin(released.root, 1)
    monkeypatch.setattr(service, "_alone", lambda params: nullcontext())
    monkeypatch.setattr(withdrawn, "count_withdrawn", lambda *_: 2)
    with pytest.raises(PublicationRefused):
        service.release(params, _run(1), released.second, now=NOW)
    with pytest.raises(StageFailed, match="2 people") as failed:
        _take(released.root)
    assert failed.value.exit_code == PublicationRefused.exit_code
    monkeypatch.setattr(withdrawn, "count_withdrawn", lambda *_: 0)
    _begin(released.root, 2)
    made = service.release(params, _run(2), released.second, now=NOW)
    found = ended.ended(released.root, _run(2))
    assert found is not None and found.version == made.version
    _take(released.root)


def test_a_worktree_that_is_closed_leaves_its_failure_and_one_never_opened_nothing(
    released: Home,
) -> None:
    worktree = open_worktree(released.root, _run(1))
    workspace.write_failure(worktree.root, 16, "Of 9 people 3 are too few.")
    assert service.end(_run(1), released.root, now=NOW)
    found = ended.ended(released.root, _run(1))
    assert found == ended.RunOutcome(NOW, None, 16, "Of 9 people 3 are too few.", anew=False)
    assert not service.end("nightly", released.root, now=NOW)
    assert ended.ended(released.root, "nightly") is None


def test_what_keeps_a_run_from_its_worktree_is_kept_too(released: Home) -> None:
    with (released.root / "params.yaml").open("a") as file:
        file.write("\n# a change\n")
    _begin(released.root, 1)
    with pytest.raises(ParamsInvalid, match="not committed"):
        service.start(_run(1), released.root, now=NOW)
    with pytest.raises(StageFailed, match="not committed"):
        _take(released.root)
    with pytest.raises(ParamsInvalid):
        service.start("../up", released.root, now=NOW)
    assert [path.name for path in (released.root / ended.ENDED).iterdir()] == [f"{_run(1)}.json"]
