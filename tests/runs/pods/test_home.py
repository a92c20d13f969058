"""Runs in pods as an erasure meets them: waited for, revoked, or let go on; and how they close."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pyroaring import BitMap

from lethe.core.errors import NotFound, ParamsInvalid, RunEnded
from lethe.runs.pods import stage
from lethe.runs.pods.home import STORE, came_to, close_run, fence, open_run
from lethe.runs.pods.refs import PodRun, Refs, State
from lethe.stores.dvc.transfer import fetch_into_cache, missing, refuse_relative_remote
from tests.past_pipeline import (
    ADA,
    BO,
    DAN,
    EVE,
    commit,
    dvc,
    git,
    holders,
    out,
    people,
    run_pipeline,
)

# DVC is used in this process, and one of its libraries warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture
def home(past: Path) -> Path:
    """A workspace with a past, as `open` wants it: a DVC remote and a git remote for all."""
    remote = (past.parent / "remote").resolve()
    if not remote.exists():
        remote.mkdir()
    config = past / ".dvc" / "config"
    config.write_text(config.read_text().replace("../remote", str(remote)))
    commit(past, "A remote for all")
    git(past.parent, "init", "--quiet", "--bare", str(past.parent / "git.git"))
    return past


def _opened(home: Path, run: str = "a") -> Refs:
    open_run(home, run, remote=str(home.parent / "git.git"))
    return Refs(home, str(home.parent / "git.git"))


def _state(refs: Refs, run: str = "a") -> str | None:
    found = refs.find(run)
    return found.state if found else None


def test_a_workspace_without_runs_in_pods_has_nothing_to_wait_for(past: Path) -> None:
    assert fence(past, BitMap([ADA])) is None


@pytest.mark.parametrize("token", [EVE, DAN])
def test_a_run_is_passed_only_if_it_is_idle_and_has_nobody_of_them(home: Path, token: int) -> None:
    """They begin at the version with Ada, Bo, Cleo and Eve, who is held out; Dan is on a branch."""
    states: tuple[State, ...] = ("idle", "keys", "pushing", "revoked")
    for state in states:
        refs = _opened(home, state)
        seen = refs.find(state)
        assert seen is not None
        if state != "idle":
            refs.swap(seen, state)
    outcome = fence(home, BitMap([token]))
    assert outcome is not None
    assert (outcome.store, outcome.result) == (STORE, "present")
    has = token == EVE
    assert outcome.places == (("idle",) if has else ()) + ("keys", "pushing", "revoked")
    after = {state: _state(refs, state) for state in states}
    assert after == {state: state for state in states} | ({"idle": "revoked"} if has else {})
    for state in states[0 if has else 1 :]:
        ended = refs.find(state)
        assert ended is not None
        refs.end(ended)
    outcome = fence(home, BitMap([token]))
    assert outcome is not None and outcome.result == "absent"


def test_a_run_whose_manifest_is_gone_is_not_taken_for_one_without_the_person(
    home: Path,
) -> None:
    refs = _opened(home)
    for folder in (home / ".dvc" / "cache", home.parent / "remote"):
        md5 = out(home, Path("data/subjects.roaring"))
        (folder / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    outcome = fence(home, BitMap([DAN]))
    assert outcome is not None and outcome.result == "present"
    assert _state(refs) == "revoked"


def test_a_git_remote_that_does_not_answer_leaves_the_request_open(home: Path) -> None:
    _opened(home)
    shutil.move(home.parent / "git.git", home.parent / "away.git")
    outcome = fence(home, BitMap([DAN]))
    assert outcome is not None
    assert outcome.result == "unreachable"
    assert "git remote" in str(outcome.reason)
    assert str(home.parent) not in str(outcome.reason)


def test_a_revoked_run_is_neither_opened_nor_published(home: Path) -> None:
    refs = _opened(home)
    assert came_to(home, "a").lock == (home / "dvc.lock").read_bytes()
    seen = refs.find("a")
    assert seen is not None
    refs.swap(seen, "revoked")
    with pytest.raises(RunEnded, match="revoked"):
        came_to(home, "a")
    with pytest.raises(RunEnded, match="Close it"):
        _opened(home)


def test_opening_again_goes_on_with_what_is_there(home: Path) -> None:
    refs = _opened(home)
    seen = refs.find("a")
    assert seen is not None
    after = refs.swap(seen, "keys", {"dvc.lock": b"schema: '2.0'\n"})
    _opened(home)
    assert refs.find("a") == after


def test_closing_removes_what_only_the_run_named_and_keeps_what_others_need(
    home: Path,
) -> None:
    refs = _opened(home)
    before = (home / "dvc.lock").read_bytes()
    people(home, ADA, BO, EVE)  # Cleo is gone: one shard, the manifests and the model are new
    run_pipeline(home)
    dvc(home, "push", "--quiet")
    lock = (home / "dvc.lock").read_bytes()
    model = out(home, Path("model"))
    seen = refs.find("a")
    assert seen is not None
    refs.swap(seen, "idle", {"dvc.lock": lock})
    (home / "dvc.lock").write_bytes(before)
    remote = home.parent / "remote" / "files" / "md5"
    assert (remote / model[:2] / model[2:]).exists()
    count = close_run(home, "a")
    assert count >= 4, "model and its files, a shard, its folder, manifests"
    assert not (remote / model[:2] / model[2:]).exists()
    assert refs.find("a") is None
    named = ["data/shards", "data/subjects.roaring", "data/manifest.roaring", "model"]
    assert missing(home, named) == set(), "what HOME's lock names is whole"
    assert close_run(home, "a") == 0


def test_a_published_run_loses_nothing_when_it_is_closed(home: Path) -> None:
    refs = _opened(home)
    people(home, ADA, BO, EVE)
    run_pipeline(home)
    dvc(home, "push", "--quiet")
    commit(home, "Published")
    seen = refs.find("a")
    assert seen is not None
    refs.swap(seen, "idle", {"dvc.lock": (home / "dvc.lock").read_bytes()})
    assert close_run(home, "a") == 0
    assert holders(home.parent / "remote", token=EVE)


def test_pods_are_refused_a_remote_that_only_one_machine_can_find(past: Path) -> None:
    with pytest.raises(ParamsInvalid, match=r"default remote 'default' is at '\.\./remote'"):
        open_run(past, "a", remote="nowhere")
    dvc(past, "remote", "modify", "--quiet", "default", "url", "s3://bucket/lethe")
    refuse_relative_remote(past)


def test_a_workspace_that_never_opened_a_run_has_none_to_close_or_publish(past: Path) -> None:
    assert close_run(past, "a") == 0
    with pytest.raises(NotFound):
        came_to(past, "a")


def test_the_workspace_is_given_what_a_run_made_and_nothing_damaged(home: Path) -> None:
    people(home, ADA, BO, EVE)
    run_pipeline(home)
    dvc(home, "push", "--quiet")
    lock = (home / "dvc.lock").read_bytes()
    cache, remote = home / ".dvc" / "cache", home.parent / "remote" / "files" / "md5"
    shutil.rmtree(cache)
    model, manifest = out(home, Path("model")), out(home, Path("data/manifest.roaring"))
    damaged = remote / manifest[:2] / manifest[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(b"damaged")
    count = fetch_into_cache(home, lock)
    have = {path.relative_to(cache / "files" / "md5").as_posix() for path in cache.glob("*/*/*/*")}
    assert count == len(have) >= 6, "two folders, their four files, the subjects"
    assert f"{model[:2]}/{model[2:]}" in have
    assert f"{manifest[:2]}/{manifest[2:]}" not in have
    assert fetch_into_cache(home, lock) == 0


class _Moved:
    """A git remote that says, after a while, that somebody swapped the run."""

    def __init__(self, answers: Callable[[], str | None]) -> None:
        self.answers = answers

    def peek(self, run: str) -> str | None:
        return self.answers()


@pytest.mark.parametrize("now", ["", "other"])
def test_a_stage_ends_soon_after_its_run_was_revoked(now: str) -> None:
    seen = PodRun("a", "mine", "base", "", "idle", {})
    started = time.monotonic()
    with (
        pytest.raises(RunEnded, match="Run a is over"),
        stage._watched(_Moved(lambda: now), seen, 0.05),  # type: ignore[arg-type]
    ):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        child.wait()
    assert time.monotonic() - started < 30
    assert not psutil.pid_exists(child.pid)


@pytest.mark.parametrize("now", ["mine", None])
def test_a_stage_goes_on_while_its_run_stands_or_nobody_answers(now: str | None) -> None:
    seen = PodRun("a", "mine", "base", "", "idle", {})
    with stage._watched(_Moved(lambda: now), seen, 0.02):  # type: ignore[arg-type]
        done = subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)"])
    assert done.returncode == 0
