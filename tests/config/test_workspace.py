"""A file is there whole or not at all, and a full disk is said in one line."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lethe.config import workspace
from lethe.core import locks
from lethe.core.errors import DiskFull
from lethe.core.files import disk_errors, read_json, write_json


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_folder_replaces_the_old_one_only_when_it_is_whole() -> None:
    target = Path("data/shards")
    with workspace.whole_directory(Path(), target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), workspace.whole_directory(Path(), target) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert not list(workspace.TEMPORARY.iterdir())


def test_what_has_subject_keys_is_its_owners_alone() -> None:
    with workspace.whole_directory(Path(), workspace.MINIMIZED, private=True) as folder:
        (folder / "a").write_text("x")
    assert workspace.MINIMIZED.stat().st_mode & 0o777 == 0o700
    assert (workspace.MINIMIZED / "a").stat().st_mode & 0o777 == 0o600


def test_what_a_killed_run_left_is_not_kept() -> None:
    leftover = workspace.TEMPORARY / "shards"
    leftover.mkdir(parents=True)
    (leftover / "stale").write_text("x")
    with workspace.whole_directory(Path(), Path("data/shards")) as folder:
        assert not list(folder.iterdir())


def test_a_full_disk_is_the_users_error_and_keeps_the_old_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = Path("report.json")
    write_json(target, {"a": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        write_json(target, {"a": 2})
    assert read_json(target) == {"a": 1}
    assert [path.name for path in Path().glob(".*tmp")] == []


def test_the_device_that_is_always_full_is_recognized() -> None:
    with pytest.raises(DiskFull), disk_errors(), Path("/dev/full").open("wb") as file:
        file.write(b"x" * 100_000)


def test_the_same_facts_are_the_same_bytes() -> None:
    write_json(Path("a"), {"x": 1, "y": 2})
    write_json(Path("b"), {"y": 2, "x": 1})
    assert Path("a").read_bytes() == Path("b").read_bytes()


def test_a_number_that_is_not_finite_never_reaches_a_report() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(Path("a"), {"x": float("nan")})


KILLED = """
import sys, time
from pathlib import Path
from lethe.config import workspace
with workspace.working(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(600)
"""


def _keys() -> list[Path]:
    paths = [workspace.MINIMIZED, workspace.CONSENTED, workspace.TEMPORARY]
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
        (path / "keys").write_text("ana-4711")
    return paths


def _killed(root: Path, *, also: Callable[[], None] = lambda: None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        also()
    finally:
        process.kill()
        process.communicate()


def test_what_a_killed_command_left_goes_with_the_next_one(tmp_path: Path) -> None:
    paths = _keys()
    _killed(tmp_path)
    assert workspace.remove_leftovers(Path())
    assert not any(path.exists() for path in paths)
    assert not workspace.remove_leftovers(Path())


def test_what_a_command_works_with_is_left_alone(tmp_path: Path) -> None:
    paths = _keys()

    def look() -> None:
        assert not workspace.remove_leftovers(Path())

    _killed(tmp_path, also=look)
    assert all(path.exists() for path in paths)


def test_one_that_was_killed_takes_nothing_of_one_at_work(tmp_path: Path) -> None:
    paths = _keys()
    _killed(tmp_path)

    def look() -> None:
        assert not workspace.remove_leftovers(Path())

    _killed(tmp_path, also=look)
    assert all(path.exists() for path in paths)
    assert workspace.remove_leftovers(Path())


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """What an earlier stage, which ended well, left for the next."""
    kept = tmp_path / workspace.MINIMIZED / "shard-0000.parquet"
    kept.parent.mkdir(parents=True)
    kept.write_text("P-0004711")
    return kept


def test_a_command_that_just_begins_is_not_taken_for_one_that_was_killed(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Thread(target=workspace.remove_leftovers, args=[tmp_path])
    held = locks.held

    @contextmanager
    def slowly(mark: Path, *, busy: str) -> Iterator[None]:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()  # it has its name, and nobody holds it yet
        looks.start()
        looks.join(0.5)
        with held(mark, busy=busy):
            yield

    monkeypatch.setattr(locks, "held", slowly)
    with workspace.working(tmp_path):
        looks.join(300)
        assert kept.exists() and not looks.is_alive()


def test_a_command_that_just_ended_is_not_taken_for_one_that_was_killed(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = ExitStack()
    at_work.enter_context(workspace.working(tmp_path))
    is_free = locks.is_free

    def ended_since(mark: Path) -> bool | None:
        at_work.close()
        return is_free(mark)

    monkeypatch.setattr(locks, "is_free", ended_since)
    assert workspace.remove_leftovers(tmp_path) is False
    assert kept.exists() and not list((tmp_path / workspace.WORKING).iterdir())


def test_a_mark_that_goes_while_it_is_looked_at_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "1-a"
    mark.touch()
    flock = fcntl.flock

    def ended_since(file: Any, how: int) -> None:
        mark.unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", ended_since)
    assert locks.is_free(mark) is None
    assert locks.is_free(mark) is None and not mark.exists(), "looking makes nothing"


def test_a_command_begins_only_once_the_files_of_a_killed_one_are_gone(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / workspace.WORKING).mkdir(parents=True)
    (tmp_path / workspace.WORKING / "1-killed").touch()
    remove = workspace.remove_scratch

    def works() -> None:
        with workspace.working(tmp_path):
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text("new")

    begins = Thread(target=works)

    def slowly(root: Path) -> None:
        begins.start()
        begins.join(0.5)
        assert kept.read_text() == "P-0004711", "it waits"
        remove(root)

    monkeypatch.setattr(workspace, "remove_scratch", slowly)
    assert workspace.remove_leftovers(tmp_path) is True
    begins.join(300)
    assert kept.read_text() == "new"


def test_where_nothing_was_at_work_a_look_makes_nothing(tmp_path: Path) -> None:
    assert workspace.remove_leftovers(tmp_path) is False
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_ended_well_leaves_its_output_for_the_next(tmp_path: Path) -> None:
    paths = _keys()
    with workspace.working(tmp_path):
        pass
    assert not workspace.remove_leftovers(Path())
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("below", [".lethe/worktrees/nightly", ".lethe/walks/nightly", "pod"])
def test_what_is_a_runs_own_ends_with_the_run(
    tmp_path: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / below
    root.mkdir(parents=True)
    if below == "pod":
        (root / ".git").mkdir()
        (root / ".git" / "lethe-pod.lock").touch()
    monkeypatch.chdir(root)
    paths = _keys()
    _killed(root)
    assert not workspace.remove_leftovers(Path())
    assert all(path.exists() for path in paths)
    assert not list((root / workspace.WORKING).iterdir())
