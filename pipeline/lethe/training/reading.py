"""What a module of the user's own reads while it makes a network: code, and nothing of people.

First weights must be public. So while such a module is imported and called, Python's audit events
are watched: files that are neither code nor the interpreter's are not opened, wherever they lie;
nor are databases, sockets and other processes. What lies beside the module is no exception: no
digest has such a file, so that nobody would see it change.

Not seen: what a library opens without Python (`safetensors.torch.load_file`, `pyarrow`, other C++
and Rust), what a thread of the module's own does, what is in an environment variable, and what the
network reads later, as it is used. Whoever wants to hide a file can. This is for oversights.
"""

import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CODE = (".py", ".pyc", ".pyi", ".so", ".pyd", ".dll", ".dylib")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_OF_THE_SYSTEM = ("/proc/", "/sys/", "/etc/")
_REFUSED = {
    "sqlite3.connect": "opens a database",
    "socket.connect": "connects to another machine",
    "socket.getaddrinfo": "connects to another machine",
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.exec": "starts a process",
    "os.fork": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.spawn": "starts a process",
}


class ReadsElsewhere(Exception):
    """Says what was tried."""


class _Watch(threading.local):
    def __init__(self) -> None:
        self.root = ""
        self.tried: list[str] = []


_watch = _Watch()
_installed = threading.Event()


@contextmanager
def code_alone(root: Path) -> Iterator[None]:
    """In this block, and in this thread, nothing but code is read.

    Args:
        root: of the workspace, of whose files code alone is read.

    Raises:
        ReadsElsewhere: something else was tried, whether the block went on without it or not.
    """
    if not _installed.is_set():
        _installed.set()
        sys.addaudithook(_heard)
    before = vars(_watch).copy()
    _watch.tried = []
    _watch.root = os.path.realpath(root) + os.sep
    try:
        yield
    except ReadsElsewhere:
        pass
    finally:
        tried = _watch.tried
        vars(_watch).update(before)
    if tried:
        raise ReadsElsewhere(tried[0])


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if not _watch.root:
        return
    what = _REFUSED.get(event)
    if event == "open" and not _may_open(args[0]):
        what = f"opens a file {Path(os.fsdecode(args[0])).name!r}"
    if what is not None:
        _watch.tried.append(what)
        raise ReadsElsewhere(what)


def _may_open(path: Any) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return True  # of a file that is open already
    real = os.path.realpath(os.fsdecode(path))
    is_code = real.endswith(_CODE) or (".pyc." in real and "__pycache__" in real)
    if is_code or real in _DEVICES or real.startswith(_OF_THE_SYSTEM):
        return True
    environment = _inside(real, _environment())
    if real.startswith(_watch.root):
        return environment and not _inside(_watch.root, _environment())
    return environment or _inside(real, [_folder(sys.base_prefix)])


def _environment() -> list[str]:
    """Of the interpreter and its packages."""
    found = {sys.prefix, str(Path(__file__).parents[1]), *sysconfig.get_paths().values()}
    return [_folder(each) for each in found]


def _folder(path: str) -> str:
    return os.path.realpath(path) + os.sep


def _inside(path: str, folders: list[str]) -> bool:
    return any(path.startswith(folder) for folder in folders)
