"""One training of a workspace at a time, and none while an erasure clears what they stage."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from lethe.config import workspace
from lethe.config.home import at_home
from lethe.core.errors import Busy

STAGING_LOCK = workspace.STATE / "staging.lock"


_LOCK = workspace.STATE / "train.lock"


@contextmanager
def alone() -> Iterator[None]:
    """Two trainings of one workspace would release two models for one charge."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("Another training runs in this workspace. Wait for it.") from None
        with _staging_in_use():
            yield


@contextmanager
def _staging_in_use() -> Iterator[None]:
    """Several trainings share it, each with its own run; an erasure that clears it is alone."""
    path = at_home(STAGING_LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("An erasure is at work here. Wait for it.") from None
        yield
