"""What takes long to make is made once, however many workers run the tests."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def for_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that the workers of a run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """A folder that the first worker makes and the others wait for; tests may look, not change.

    Args:
        make: fills the folder it is given; what it leaves behind when it fails is made anew.
    """
    shared = for_all_workers(tmp_path_factory)
    folder = shared / f"shared-{name}"
    with (shared / f"shared-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = folder / "ready"
        attempt = sum(1 for _ in folder.iterdir()) if folder.exists() else 0
        if not ready.exists():
            place = folder / f"attempt-{attempt}"
            place.mkdir(parents=True)
            make(place)
            ready.write_text(place.name)
        return folder / ready.read_text()
