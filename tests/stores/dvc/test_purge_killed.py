"""A power cut all along the changes that a purge makes to the disk: again, it ends the same."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap

from lethe.stores.dvc.git import parse_lock
from lethe.stores.dvc.purge import JOURNAL, purge_history
from tests.past_pipeline import ADA, BO, dvc, files, forget_source, git, holders, results

_CHANGES = ("replace", "rename", "unlink", "rmdir", "mkdir")


def _count_changes(kill_at: int) -> Callable[[], int]:
    """Ends the process at a change of the disk; only ever called in a process of its own."""
    seen = 0

    def wrapped(change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*words: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*words, **options)

        return counted

    for name in _CHANGES:
        setattr(os, name, wrapped(getattr(os, name)))
    return lambda: seen


def _purge_until(root: Path, kill_at: int) -> bool:
    """Whether a purge came to its end before its change of that number."""
    child = os.fork()
    if child == 0:
        try:
            _count_changes(kill_at)
            purge_history(root, BitMap([ADA]))
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return not os.WIFSIGNALED(status)


def _names_nothing_missing(root: Path) -> None:
    """Whatever the lock names is in the cache, folders with all of their files."""
    cache = root / ".dvc" / "cache" / "files" / "md5"
    for made in parse_lock((root / "dvc.lock").read_bytes()):
        for path, md5 in made.outs.items():
            if path.startswith("reports/"):
                continue
            content = (cache / md5[:2] / md5[2:]).read_bytes()
            if md5.endswith(".dir"):
                for entry in json.loads(content):
                    assert (cache / entry["md5"][:2] / entry["md5"][2:]).is_file()


def _apart_from_git(root: Path) -> dict[str, bytes]:
    """The files, and what each branch's lock says; commits differ by their time."""
    found = {name: content for name, content in files(root).items() if name[:5] != ".git/"}
    branches = {branch: git(root, "show", f"{branch}:dvc.lock") for branch in ("main", "side")}
    return found | {branch: lock.encode() for branch, lock in branches.items()}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_all_along_a_purge_ends_as_if_it_never_was(past: Path, tmp_path: Path) -> None:
    forget_source(past)
    (past / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
    staged = past / ".lethe" / "staging" / "run"
    staged.mkdir(parents=True)
    shutil.copyfile(past / "data" / "manifest.roaring", staged / "manifest.roaring")
    whole = tmp_path / "whole"
    shutil.copytree(past, whole, symlinks=True)
    purge_history(whole, BitMap([ADA]))
    expected = _apart_from_git(whole)
    assert holders(whole, token=ADA) == []
    kill_at = 1
    while True:
        kill_at += 7
        root = tmp_path / "cut"
        shutil.copytree(past, root, symlinks=True)
        if _purge_until(root, kill_at):
            break
        _names_nothing_missing(root)
        purge_history(root, BitMap([ADA]))
        assert holders(root, token=ADA) == [], kill_at
        assert _apart_from_git(root) == expected, kill_at
        assert not (root / JOURNAL).exists()
        shutil.rmtree(root)
    assert kill_at > 40, "the purge makes more changes than that"


def test_in_the_middle_dvc_still_works(past: Path, tmp_path: Path) -> None:
    forget_source(past)
    for kill_at in (20, 50):
        root = tmp_path / f"cut{kill_at}"
        shutil.copytree(past, root, symlinks=True)
        assert not _purge_until(root, kill_at)
        dvc(root, "status")
        dvc(root, "pull", "--force")


@pytest.mark.parametrize("kill_at", [12, 24, 36, 60])
def test_a_purge_of_another_person_goes_on_where_one_was_cut(past: Path, kill_at: int) -> None:
    forget_source(past)
    assert not _purge_until(past, kill_at)
    assert (past / JOURNAL).exists()
    outcomes = results(purge_history(past, BitMap([BO])))
    assert set(outcomes.values()) <= {"erased", "absent"}
    assert holders(past, token=BO) == []
    purge_history(past, BitMap([ADA]))
    assert holders(past, token=ADA) == []
    dvc(past, "pull")
