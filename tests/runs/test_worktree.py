"""Worktrees of runs: they share HOME's cache, stay apart, and leave nothing behind."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pyroaring import BitMap

from lethe.cli.terminal import now
from lethe.config import workspace
from lethe.config.home import OLD_WORKTREES
from lethe.config.home import home as home_of
from lethe.config.params import load_params
from lethe.core.errors import Busy, NotFound, ParamsInvalid
from lethe.rights import erasure_service as running_erasures
from lethe.runs import service, worktree
from lethe.runs.publication import made_in, publish
from lethe.runs.worktree import RunWorktree, close_worktree, open_worktree, wait_for_worktree
from lethe.stores.dvc.objects import FolderObjects, open_remote
from lethe.stores.dvc.purge import purge_history
from lethe.stores.dvc.verify import verify_history
from tests.past_pipeline import (
    ADA,
    BO,
    CLEO,
    DAN,
    PROJECT,
    dvc,
    git,
    holders,
    people,
    results,
    run_pipeline,
    tokens_in,
)
from tests.released_home import Home
from tests.warm import program, warm_environment

DAY = 86_400.0
HOUR = 3_600.0


@contextmanager
def running(root: Path, stage: str) -> Iterator[subprocess.Popen[bytes]]:
    """DVC runs a stage that does not end by itself, as a scheduler starts it: with no terminal."""
    (root / "held").touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", stage],
        cwd=root,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 600
    while (root / "held").read_text() != stage:
        assert time.monotonic() < until and process.poll() is None, "the stage never began"
        time.sleep(0.02)
    try:
        yield process
    finally:
        (root / "held").unlink(missing_ok=True)
        process.wait(timeout=300)


def left(home: Path, run: str) -> list[str]:
    """What is still known of a worktree, to git and on disk."""
    listed = git(home, "worktree", "list").splitlines()[1:]
    found = [path.name for path in (home / ".lethe" / "worktrees").iterdir()]
    admin = [path.name for path in (home / ".git" / "worktrees").glob("*")]
    return [each for each in [*map(str, listed), *found, *admin] if run in each]


# ---------------------------------------------------------------------- opening


def test_a_worktree_begins_with_homes_commit_lock_outputs_and_reports(released: Home) -> None:
    home = released.root
    opened = open_worktree(home, "run-1")
    assert git(opened.root, "rev-parse", "HEAD") == git(home, "rev-parse", "HEAD")
    for name in ("dvc.lock", "reports/register.json", "data/subjects.roaring", "model/model.json"):
        assert (opened.root / name).read_bytes() == (home / name).read_bytes()
    assert dvc(opened.root, "repro", "--dry", "--single-item", "train").count("didn't change") == 1
    assert git(home, "status", "--porcelain") == ""
    assert "(detached HEAD)" in git(home, "worktree", "list")
    assert stat.S_IMODE(opened.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(opened.folder.parent.stat().st_mode) == 0o700


def test_a_worktree_shares_homes_cache_and_remotes_and_keeps_dvcs_notes_to_itself(
    released: Home,
) -> None:
    home = released.root
    (home / ".dvc" / "config.local").write_text("['remote \"other\"']\n    url = ../other\n")
    opened = open_worktree(home, "run-1")
    assert not (opened.root / ".dvc" / "cache").exists()
    people(opened.root, BO)
    run_pipeline(opened.root, "pseudonymize")
    assert not (opened.root / ".dvc" / "cache").exists()
    assert (opened.root / ".lethe" / "dvc" / "repo").is_dir()
    for name, folder in (("default", "remote"), ("other", "other")):
        remote = open_remote(opened.root, name)
        assert isinstance(remote, FolderObjects)
        assert remote.base.resolve() == home / folder
    assert stat.S_IMODE((opened.root / ".dvc" / "config.local").stat().st_mode) == 0o600


def test_a_lock_that_home_has_not_committed_is_what_a_worktree_begins_with(released: Home) -> None:
    for name, content in released.second.items():
        (released.root / name).write_bytes(content)
    opened = open_worktree(released.root, "run-1")
    assert made_in(opened) == released.second
    assert tokens_in(opened.root / workspace.SUBJECTS) == BitMap([ADA, BO, CLEO])


def test_an_open_worktree_is_gone_on_with(released: Home) -> None:
    opened = open_worktree(released.root, "run-1")
    (opened.root / "dvc.lock").write_bytes(released.second["dvc.lock"])
    os.utime(opened.root / worktree.MARK, (0, 0))
    (released.root / "params.yaml").write_text("edited meanwhile: true\n")
    assert open_worktree(released.root, "run-1") == opened
    assert (opened.root / "dvc.lock").read_bytes() == released.second["dvc.lock"]
    assert opened.idle_seconds(time.time()) < HOUR, "and is in use again"


KILLED = """
import os, signal, sys
from pathlib import Path
from lethe.config.params import load_params
from lethe.runs import worktree as history_worktree
setattr(history_worktree, sys.argv[2], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
history_worktree.open_worktree(Path(sys.argv[1]), "run-1")
"""


@pytest.mark.parametrize("step", ["share_settings", "check_out"])
def test_a_worktree_that_was_killed_while_it_was_opened_is_opened_anew(
    released: Home, step: str
) -> None:
    home = released.root
    done = subprocess.run(program(KILLED, str(home), step), cwd=PROJECT, env=warm_environment())
    assert done.returncode == -signal.SIGKILL
    half = RunWorktree.of(home, "run-1")
    assert half.folder.is_dir()
    assert not half.is_open
    with pytest.raises(NotFound, match="not open"):
        wait_for_worktree(home, "run-1", seconds=0)
    opened = open_worktree(home, "run-1")
    assert opened.is_open
    assert (opened.root / "model" / "model.json").exists()


def test_a_worktree_that_git_never_finished_is_in_nobodys_way(released: Home) -> None:
    """As `git worktree add` leaves it when it is killed: locked, so that nothing prunes it."""
    home = released.root
    git(
        home, "worktree", "add", "--quiet", "--detach", str(home / ".lethe" / "worktrees" / "run-1")
    )
    (home / ".git" / "worktrees" / "run-1" / "locked").write_text("initializing")
    (home / ".lethe" / "worktrees" / "run-1" / ".git").unlink()
    assert open_worktree(home, "run-1").is_open


@pytest.mark.parametrize("path", ["params.yaml", "dvc.yaml", "behaviour.json", "source"])
def test_what_decides_and_is_not_committed_is_refused_by_its_name(
    released: Home, path: str
) -> None:
    with (released.root / path).open("a") as file:
        file.write("\n# edited\n" if path.endswith("yaml") else f"{DAN} ward-of-dan\n")
    with pytest.raises(ParamsInvalid, match=f"^{path}: changed in"):
        open_worktree(released.root, "run-1")
    assert left(released.root, "run-1") == []


def test_what_decides_nothing_may_be_edited_at_any_time(released: Home) -> None:
    (released.root / "README.md").write_text("Edited.\n")
    git(released.root, "add", "--force", "reports")
    git(released.root, "commit", "--quiet", "--message", "Keep the reports in git")
    for name, content in released.second.items():  # as a publication leaves them
        (released.root / name).write_bytes(content)
    assert git(released.root, "status", "--porcelain", "reports/train.json")
    assert open_worktree(released.root, "run-1").is_open


def test_a_lock_whose_objects_are_lost_is_refused_before_anybody_is_charged_again(
    released: Home,
) -> None:
    for path in (released.root / ".dvc" / "cache" / "files" / "md5").rglob("*.dir"):
        path.unlink()
    with pytest.raises(NotFound, match=r"data/shards, model .*dvc pull"):
        open_worktree(released.root, "run-1")
    assert left(released.root, "run-1") == []


@pytest.mark.parametrize(
    "run", ["", ".", "..", "../up", "a/b", "-f", "a.lock", "a b", "é", "a" * 101]
)
def test_a_name_that_is_no_folders_is_refused(released: Home, run: str) -> None:
    with pytest.raises(ParamsInvalid, match="A run is named by"):
        open_worktree(released.root, run)


def test_a_workspace_in_a_folder_of_a_repository_has_worktrees_too(released: Home) -> None:
    whole = released.root.parent / "whole"
    whole.mkdir()
    (released.root / ".git").rename(whole / ".git")
    home = released.root.rename(whole / "ward")
    git(whole, "add", "--all")
    git(whole, "commit", "--quiet", "--message", "Move")
    opened = open_worktree(home, "run-1")
    assert opened.root == home / ".lethe" / "worktrees" / "run-1" / "ward"
    assert (opened.root / "model" / "model.json").exists()
    assert publish(home, "run-1", released.second, objection=lambda _: None).commit
    assert git(whole, "show", "--format=", "--name-only", "HEAD") == "ward/dvc.lock"
    assert git(whole, "status", "--porcelain") == ""
    assert close_worktree(home, "run-1")
    assert list((home / ".lethe" / "worktrees").iterdir()) == []
    assert git(whole, "worktree", "list").count("\n") == 0


# ---------------------------------------------------------------------- side by side


def test_two_worktrees_and_home_run_stages_at_once(released: Home) -> None:
    first, second = open_worktree(released.root, "run-1"), open_worktree(released.root, "run-2")
    people(first.root, BO)
    people(second.root, CLEO)
    with running(first.root, "pseudonymize"):
        run_pipeline(second.root, "pseudonymize")
        people(released.root, DAN)
        run_pipeline(released.root, "pseudonymize")
    found = [tokens_in(each / workspace.SUBJECTS) for each in (first.root, second.root)]
    assert found == [BitMap([BO]), BitMap([CLEO])]
    assert tokens_in(released.root / workspace.SUBJECTS) == BitMap([DAN])


def test_who_waits_for_a_worktree_gets_it_when_nothing_holds_it(released: Home) -> None:
    opened = open_worktree(released.root, "run-1")
    people(opened.root, BO)
    with running(opened.root, "pseudonymize"), pytest.raises(Busy, match="A run is under way"):
        wait_for_worktree(released.root, "run-1", seconds=0)
    assert wait_for_worktree(released.root, "run-1", seconds=30) == opened


# ---------------------------------------------------------------------- erasures


def test_an_erasure_leaves_nothing_of_the_person_in_a_worktree_between_two_stages(
    released: Home,
) -> None:
    home = released.root
    opened = open_worktree(home, "run-1")
    people(opened.root, ADA, BO, CLEO, DAN)
    run_pipeline(opened.root, "pseudonymize")
    scratch = opened.root / workspace.CONSENTED / "shard-0000.parquet"
    scratch.parent.mkdir(parents=True)
    scratch.write_bytes((opened.root / "data" / "shards" / "shard-0000.parquet").read_bytes())
    for root in (home, opened.root):
        (root / "source").unlink()
    assert len([path for path in holders(home, token=ADA) if "worktrees/run-1" in path]) >= 4
    outcomes = purge_history(home, BitMap([ADA]))
    assert results(outcomes)["worktree run-1"] == "erased"
    assert holders(home, token=ADA) == []
    assert {each.result for each in verify_history(home, BitMap([ADA]))} == {"absent"}
    # The worktree goes on without her, and can be published.
    assert tokens_in(opened.root / workspace.SUBJECTS) == BitMap([BO, CLEO, DAN])
    people(opened.root, BO, CLEO, DAN)
    (opened.root / "version").write_text("2")
    run_pipeline(opened.root)
    assert publish(home, "run-1", made_in(opened), objection=lambda _: None).version == "wards/2"
    assert holders(home, token=ADA) == []


def test_an_erasure_that_meets_a_worktree_at_work_says_so_and_the_next_goes_on(
    released: Home,
) -> None:
    home = released.root
    opened = open_worktree(home, "run-1")
    people(opened.root, ADA, BO, DAN)
    with running(opened.root, "pseudonymize"):
        outcomes = {each.store: each for each in purge_history(home, BitMap([ADA]))}
        assert outcomes["worktree run-1"].result == "unreachable"
        assert "A run is under way in run-1" in str(outcomes["worktree run-1"].reason)
    for root in (home, opened.root):
        (root / "source").unlink()
    assert holders(home, token=ADA) != []
    assert {each.result for each in purge_history(home, BitMap([ADA]))} <= {
        "erased",
        "absent",
    }
    assert holders(home, token=ADA) == []


def test_an_erasure_finds_a_worktree_that_opens_while_it_is_at_work(
    released: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins with what is left: the worktree is there before HOME's lock is read."""
    home = released.root
    (home / "source").unlink()
    git(home, "rm", "--quiet", "--cached", "source")
    git(home, "commit", "--quiet", "--message", "The source is elsewhere")
    share = worktree.share_settings

    def purged_then_share(*words: Path, **named: Path) -> None:
        purge_history(home, BitMap([ADA]))
        share(*words, **named)

    monkeypatch.setattr(worktree, "share_settings", purged_then_share)
    monkeypatch.setattr(worktree, "_refuse_uncommitted", lambda _: None)
    opened = open_worktree(home, "run-1")
    assert tokens_in(opened.root / workspace.SUBJECTS) == BitMap([BO])
    assert holders(home, token=ADA) == []


# ---------------------------------------------------------------------- closing


def test_a_closed_worktree_leaves_nothing_and_closing_it_again_is_no_error(released: Home) -> None:
    home = released.root
    opened = open_worktree(home, "run-1")
    for path in (workspace.MINIMIZED, workspace.CONSENTED, workspace.TEMPORARY):
        (opened.root / path).mkdir(parents=True)
        (opened.root / path / "keys").write_text("ana-4711")
    assert left(home, "run-1") != []
    assert close_worktree(home, "run-1")
    assert left(home, "run-1") == []
    assert not close_worktree(home, "run-1")
    assert git(home, "status", "--porcelain") == ""


@pytest.mark.parametrize("damage", [".git", ".dvc", ".lethe"])
def test_a_damaged_worktree_is_closed_like_any_other(released: Home, damage: str) -> None:
    home = released.root
    opened = open_worktree(home, "run-1")
    target = opened.root / damage
    target.unlink() if target.is_file() else target.rename(target.with_name("damaged"))
    assert close_worktree(home, "run-1")
    assert left(home, "run-1") == []


ORPHAN = """
import pathlib, time
while True:
    folder = pathlib.Path("data/consented")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "keys").write_text("ana-4711")
    time.sleep(0.01)
"""


def test_what_a_killed_stage_left_running_is_ended_before_its_scratch_goes(
    released: Home,
) -> None:
    home = released.root
    opened = open_worktree(home, "run-1")
    orphan = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], cwd=opened.root, start_new_session=True
    )
    try:
        while not (opened.root / workspace.CONSENTED / "keys").exists():
            assert orphan.poll() is None
            time.sleep(0.02)
        assert close_worktree(home, "run-1")
        assert orphan.poll() is not None
    finally:
        orphan.kill()
        orphan.wait(timeout=300)
    assert left(home, "run-1") == []


def test_dvc_killed_in_the_middle_of_a_stage_stands_in_nobodys_way(released: Home) -> None:
    home = released.root
    opened = open_worktree(home, "run-1")
    people(opened.root, BO)
    with running(opened.root, "pseudonymize") as process:
        (stage,) = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "stand_in.py" in child.cmdline() and child.name().startswith("python")
        ]
        process.kill()
        process.wait(timeout=300)
        assert stage.is_running(), "the stage itself goes on"
        assert close_worktree(home, "run-1")
        assert not stage.is_running()
    assert left(home, "run-1") == []


# ---------------------------------------------------------------------- left behind


def test_worktrees_of_dead_runs_go_and_what_is_in_use_or_waits_stays(
    released: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = released.root
    monkeypatch.chdir(home)
    waiting = open_worktree(home, "waiting")
    (waiting.root / workspace.MINIMIZED).mkdir(parents=True)
    (waiting.root / workspace.MINIMIZED / "keys").write_text("ana-4711")
    (home / ".lethe" / "worktrees" / "half").mkdir()
    later = time.time()
    assert service.sweep(Path(), now=later + 0.5 * HOUR) == []
    assert service.sweep(Path(), now=later + 2 * HOUR) == ["half"]
    assert (waiting.root / workspace.MINIMIZED).exists()
    assert service.sweep(Path(), now=later + 1.5 * DAY) == []
    assert waiting.is_open, "a run may wait that long for a device"
    assert not (waiting.root / workspace.MINIMIZED).exists(), "but keys do not"
    with monkeypatch.context() as patch:
        patch.setattr(service, "close_worktree", _busy)
        assert service.sweep(Path(), now=later + 30 * DAY) == [], (
            "and stands in the way of nobody else"
        )
    with running(waiting.root, "register"):
        assert service.sweep(Path(), now=later + 30 * DAY) == []
    assert service.sweep(Path(), now=later + 30 * DAY, but="waiting") == []
    assert service.sweep(Path(), now=later + 30 * DAY) == ["waiting"]
    assert left(home, "waiting") == left(home, "half") == []


def test_a_worktree_that_comes_to_life_while_it_is_taken_for_dead_stays(
    released: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(released.root)
    opened = open_worktree(released.root, "run-1")
    os.utime(opened.root / worktree.MARK, (0, 0))
    assert not close_worktree(released.root, "run-1", only_if=lambda each: not each.is_open)
    assert opened.is_open


def test_people_are_erased_in_home_and_not_in_a_worktree(
    released: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_worktree(released.root, "run-1")
    monkeypatch.chdir(opened.root)
    with pytest.raises(ParamsInvalid, match=f"Run it in {released.root}"):
        running_erasures.run(load_params(), clock=now, report=print)
    assert not (released.root / ".lethe" / "vault.db").exists()


def _busy(*_: object, **__: object) -> bool:
    raise Busy("A run is under way.")


# ---------------------------------------------------------------------- of the version before


def _as_before(home: Path, run: str) -> RunWorktree:
    """An open worktree as the version before left it: in another folder, with another mark."""
    made = open_worktree(home, run)
    (home / ".lethe" / "walks").mkdir(exist_ok=True)
    git(home, "worktree", "move", str(made.folder), str(home / ".lethe" / "walks" / run))
    made.folder.with_name(f"{run}.lock").unlink()
    old = RunWorktree.of(home, run, place=OLD_WORKTREES)
    (old.root / worktree.MARK).rename(old.root / ".lethe" / "walk.json")
    return old


def test_what_the_version_before_left_is_swept_and_its_keys_go_first(
    released: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = released.root
    monkeypatch.chdir(home)
    old = _as_before(home, "run-1")
    (old.root / workspace.MINIMIZED).mkdir(parents=True)
    later = time.time()
    assert service.sweep(Path(), now=later + 2 * HOUR) == []
    assert service.sweep(Path(), now=later + 1.5 * DAY) == []
    assert old.is_open and not (old.root / workspace.MINIMIZED).exists()
    assert service.sweep(Path(), now=later + 30 * DAY) == ["run-1"]
    assert not old.folder.exists()
    assert left(home, "run-1") == []


def test_what_the_version_before_left_is_closed_by_name_beside_the_new_one(released: Home) -> None:
    home = released.root
    old, new = _as_before(home, "run-1"), open_worktree(home, "run-1")
    assert new.folder != old.folder
    assert close_worktree(home, "run-1")
    assert not old.folder.exists() and not new.folder.exists()
    assert left(home, "run-1") == []


def test_an_erasure_looks_into_what_the_version_before_left(released: Home) -> None:
    home = released.root
    old = _as_before(home, "run-1")
    for root in (home, old.root):
        (root / "source").unlink()
    assert [path for path in holders(home, token=ADA) if ".lethe/walks/run-1" in path]
    assert home_of(old.root) == home
    assert results(purge_history(home, BitMap([ADA])))["worktree run-1"] == "erased"
    assert holders(home, token=ADA) == []
    assert {each.result for each in verify_history(home, BitMap([ADA]))} == {"absent"}
