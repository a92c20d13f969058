"""Lock files: held by a process, and freed when it ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lethe.core.errors import Busy
from lethe.core.waiting import waiting


@contextmanager
def held(path: Path, *, busy: str, shared: bool = False) -> Iterator[None]:
    """Holds a lock file without waiting; its content is left as it is.

    Args:
        busy: what the user reads if another process holds it.
        shared: among all who ask for it shared; who asks for it alone is refused meanwhile.

    Raises:
        Busy: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(busy) from None
        yield


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Holds a lock file, once everybody before has let go of it.

    Whoever holds it may remove it: who waited then holds nothing, and takes the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    while True:
        with path.open("a") as file:
            with waiting(f"another process that holds {path.name}"):
                fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                continue
            yield
            return


def is_free(path: Path) -> bool | None:
    """Whether nobody holds a lock file; None if there is none, and none is made."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True if path.exists() else None  # its holder removed it and let go
