"""Commands without their imports: one process has them, and forks what tests start."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from tests.warm.client import decided_at_start

BIN = Path(sys.executable).parent
_HERE = Path(__file__).parent
_PATIENCE_S = 600.0  # its imports, on a machine that is ten times slower
_NAMES = ("lethe", "dvc", "python")


@cache
def warm_bin() -> Path:
    """A folder with `lethe`, `dvc` and `python`, for a PATH or a `sys.executable`.

    Started at the first call, by whichever worker of pytest comes first; ended with the last one.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return _start(Path(tempfile.mkdtemp(prefix="lethe-warm-")))
    shared = Path(tempfile.gettempdir()) / f"lethe-warm-{run}"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (shared / "socket").exists() and _keep(shared):
            return shared / "bin"
        shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir(0o700)
        return _start(shared)


def _keep(folder: Path) -> bool:
    """Keeps the process of a folder from ending before this one; False where it has ended."""
    try:
        os.open(folder / "kept", os.O_WRONLY | os.O_NONBLOCK)  # open until this process ends
    except OSError:  # nobody reads it
        return False
    return True


def _start(folder: Path) -> Path:
    """Ends, and removes its folder, when nobody keeps it any more."""
    binaries = folder / "bin"
    binaries.mkdir()
    program = (
        f"#!{sys.executable} -IS\n"
        f"import sys\nsys.path.insert(0, {str(_HERE)!r})\n"
        f"import client\nclient.main({str(folder)!r}, {str(BIN)!r})\n"
    )
    for name in _NAMES:
        (binaries / name).write_text(program)
        (binaries / name).chmod(0o755)
    environment = _start_environment()
    (folder / "environment").write_text(decided_at_start(environment))
    os.mkfifo(folder / "kept")
    read = os.open(folder / "kept", os.O_RDONLY | os.O_NONBLOCK)
    _keep(folder)
    process = subprocess.Popen(
        [sys.executable, str(_HERE / "server.py"), str(folder), str(BIN)],
        stdin=read,
        env=environment,
        start_new_session=True,
        cwd="/",
    )
    os.close(read)
    until = time.monotonic() + _PATIENCE_S
    while not (folder / "socket").exists():
        if process.poll() or time.monotonic() > until:
            raise RuntimeError("The warm process did not begin.")
        time.sleep(0.05)
    return binaries


def _start_environment() -> dict[str, str]:
    """What commands are started with: nothing that says where a test's own stores or modules are.

    MLflow writes where its stores are into the environment of whoever used it: a test that ran
    before in this process would send the commands of this one to its own registry.
    """
    foreign = ("LETHE_", "MLFLOW_", "PYTEST_", "COV_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "LC_ALL": "C.UTF-8"}


def warm_environment() -> dict[str, str]:
    """For a command in a workspace: `lethe`, `dvc` and `python` are found in `warm_bin` first."""
    path = (str(warm_bin()), str(BIN), os.environ["PATH"])
    return _start_environment() | {"PATH": os.pathsep.join(path)}


def program(code: str, *words: str) -> list[str]:
    """The command line of a Python program, for `warm_environment`."""
    return [str(warm_bin() / "python"), "-c", code, *words]
