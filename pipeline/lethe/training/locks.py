"""One training of a workspace at a time, and none while an erasure clears what they stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lethe.config import workspace
from lethe.config.home import at_home
from lethe.core.locks import held

STAGING_LOCK = workspace.STATE / "staging.lock"
_LOCK = workspace.STATE / "train.lock"


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Two trainings of one workspace would release two models for one charge."""
    busy = "Another training runs in this workspace. Wait for it."
    with held(root / _LOCK, busy=busy), _staging_in_use(root):
        yield


@contextmanager
def _staging_in_use(root: Path) -> Iterator[None]:
    """Several trainings share it, each with its own run; an erasure that clears it is alone."""
    busy = "An erasure is at work here. Wait for it."
    with held(at_home(STAGING_LOCK, root), busy=busy, shared=True):
        yield
