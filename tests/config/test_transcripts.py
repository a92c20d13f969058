"""How long a transcript is there, and who may remove it: here, elsewhere, killed, and too late."""

import os
import shutil
import time
from pathlib import Path

import pytest
from pyroaring import BitMap
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.config import transcripts
from lethe.core import locks

PEOPLE = BitMap([1]).serialize()
DAY = 86_400
Patch = pytest.MonkeyPatch


def _left(home: Path) -> set[str]:
    return {path.name for path in (home / transcripts.TRANSCRIPTS).iterdir()}


def _elsewhere(monkeypatch: Patch) -> None:
    monkeypatch.setattr(transcripts, "machine", lambda: "a container")


def _aged(folder: Path, days: float) -> None:
    at = time.time() - days * DAY
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (at, at))


def test_a_look_by_another_path_leaves_what_trains(tmp_path: Path, monkeypatch: Patch) -> None:
    host = tmp_path / "host"
    worktree = host / ".lethe" / "worktrees" / "one"
    worktree.mkdir(parents=True)
    transcripts.begin(host, "a", PEOPLE)
    transcripts.begin(worktree, "b", PEOPLE)
    mounted = tmp_path / "mounted"
    host.rename(mounted)  # the same files, by another path
    _elsewhere(monkeypatch)
    assert transcripts.remove_abandoned(mounted) is False
    transcripts.begin(mounted, "c", PEOPLE)  # nor does a training that begins elsewhere
    assert _left(mounted) == {"a", "b", "c"}


def test_a_look_takes_nothing_of_a_worktree_that_is_gone(tmp_path: Path) -> None:
    """Its run was killed and goes on from HOME, or is not audited yet."""
    worktree = tmp_path / ".lethe" / "worktrees" / "one"
    worktree.mkdir(parents=True)
    transcripts.begin(worktree, "a", PEOPLE)
    shutil.rmtree(worktree)
    assert transcripts.remove_abandoned(tmp_path) is False
    assert _left(tmp_path) == {"a"}
    assert transcripts.remove_expired(tmp_path, time.time() + 15 * DAY) == ["a"]


def test_the_next_training_takes_it_from_everywhere(tmp_path: Path, monkeypatch: Patch) -> None:
    worktree = tmp_path / ".lethe" / "worktrees" / "one"
    worktree.mkdir(parents=True)
    transcripts.begin(worktree, "a", PEOPLE)
    shutil.rmtree(worktree)
    _elsewhere(monkeypatch)
    transcripts.begin(tmp_path, "b", PEOPLE)
    assert _left(tmp_path) == {"b"}


def test_but_neither_one_that_is_audited_nor_one_that_another_worktree_took_over(
    tmp_path: Path,
) -> None:
    here = tmp_path / ".lethe" / "worktrees" / "here"
    gone = [here.with_name(name) for name in ("one", "two", "three")]
    for root in (here, *gone):
        root.mkdir(parents=True)
    for root, run in zip(gone, "abc", strict=True):
        transcripts.begin(root, run, PEOPLE)
    for root in gone:
        shutil.rmtree(root)
    transcripts.take_over(here, "a")
    with transcripts.audited(here, "b"):
        transcripts.begin(tmp_path, "d", PEOPLE)
        assert _left(tmp_path) == {"a", "b", "d"}


def test_nothing_is_taken_over_that_is_not_there(tmp_path: Path) -> None:
    transcripts.take_over(tmp_path, "a")
    assert not transcripts.folder_of(tmp_path, "a").exists()


def _linked(tmp_path: Path) -> tuple[Path, Path]:
    """A workspace, and a git worktree of it that lies outside."""
    home, linked = tmp_path / "home", tmp_path / "linked"
    (home / ".lethe").mkdir(parents=True)
    admin = home / ".git" / "worktrees" / "linked"
    admin.mkdir(parents=True)
    (admin / "commondir").write_text("../..\n")
    linked.mkdir()
    (linked / ".git").write_text(f"gitdir: {admin}\n")
    return home, linked


def test_a_folder_outside_is_known_to_be_gone_only_where_it_was(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    home, linked = _linked(tmp_path)
    assert transcripts.begin(linked, "a", PEOPLE).is_relative_to(home)
    shutil.rmtree(linked)
    with monkeypatch.context() as patch:
        _elsewhere(patch)
        transcripts.begin(home, "b", PEOPLE)
        assert _left(home) == {"a", "b"}
    transcripts.begin(home, "b", PEOPLE)
    assert _left(home) == {"b"}


def _killed_audit(root: Path, run_id: str) -> None:
    """As a process that was killed leaves it."""
    with transcripts.audited(root, run_id):
        kept = root.parent / "kept"
        shutil.copytree(transcripts.folder_of(root, run_id), kept)
    shutil.move(kept, transcripts.folder_of(root, run_id))


def test_an_audit_elsewhere_is_not_taken_for_one_that_was_killed(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    root = tmp_path / "root"
    transcripts.begin(root, "a", PEOPLE)
    _killed_audit(root, "a")
    with monkeypatch.context() as patch:
        _elsewhere(patch)
        assert transcripts.remove_abandoned(root) is False
    assert transcripts.remove_abandoned(root) is True


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"/elsewhere/root", b'{"place": "."}'])
def test_one_that_says_nothing_of_its_training_goes_by_its_time_alone(
    content: bytes, tmp_path: Path
) -> None:
    folder = transcripts.begin(tmp_path, "a", PEOPLE)
    (folder / "of.json").write_bytes(content)
    assert transcripts.remove_abandoned(tmp_path) is False
    transcripts.begin(tmp_path, "b", PEOPLE)
    assert _left(tmp_path) == {"a", "b"}
    assert transcripts.remove_expired(tmp_path, time.time() + 15 * DAY) == ["a", "b"]


def test_one_whose_audit_never_came_goes_after_the_declared_days(tmp_path: Path) -> None:
    folder = transcripts.begin(tmp_path, "a", PEOPLE, days=3)
    _aged(folder, 2.9)
    assert transcripts.remove_expired(tmp_path, time.time()) == []
    _aged(folder, 3.1)
    (folder / "steps.jsonl").write_text("")  # a training that is under way writes every step
    assert transcripts.remove_expired(tmp_path, time.time()) == []
    _aged(folder, 3.1)
    with locks.held(folder / "audited.lock", busy=""):
        _aged(folder, 3.1)
        assert transcripts.remove_expired(tmp_path, time.time()) == []  # it is being audited
    assert transcripts.remove_expired(tmp_path, time.time()) == ["a"]
    assert _left(tmp_path) == set()


@pytest.mark.parametrize("command", ["audit", "key", "run"])
def test_any_command_removes_it_and_names_the_run(
    command: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    _aged(transcripts.begin(tmp_path, "0f0f", PEOPLE, days=3), 4)
    answer = CliRunner().invoke(app, [command, "--help"])
    assert "transcript of run 0f0f" in answer.stderr and "audit.transcript_days" in answer.stderr
    assert _left(tmp_path) == set()
