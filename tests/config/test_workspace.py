"""A file is there whole or not at all, and a full disk is said in one line."""

import errno
import os
from pathlib import Path

import pytest

from lethe.config import workspace
from lethe.core.errors import DiskFull
from lethe.core.files import disk_errors, read_json, write_json


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_folder_replaces_the_old_one_only_when_it_is_whole() -> None:
    target = Path("data/shards")
    with workspace.whole_directory(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), workspace.whole_directory(target) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert not list(workspace.TEMPORARY.iterdir())


def test_what_has_subject_keys_is_its_owners_alone() -> None:
    with workspace.whole_directory(workspace.MINIMIZED, private=True) as folder:
        (folder / "a").write_text("x")
    assert workspace.MINIMIZED.stat().st_mode & 0o777 == 0o700
    assert (workspace.MINIMIZED / "a").stat().st_mode & 0o777 == 0o600


def test_what_a_killed_run_left_is_not_kept() -> None:
    leftover = workspace.TEMPORARY / "shards"
    leftover.mkdir(parents=True)
    (leftover / "stale").write_text("x")
    with workspace.whole_directory(Path("data/shards")) as folder:
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
