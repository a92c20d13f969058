"""Commands without their imports: one process has them, and forks what tests start."""

import fcntl
import json
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
    shared = _of_run(run)
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (shared / "socket").exists() and _keep(shared):
            return shared / "bin"
        shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir(0o700)
        return _start(shared)


def worker_python(run: str, words: list[str]) -> Path:
    """A `python` for the workers of a run of pytest: they have collected its tests already.

    Args:
        run: the id of the run, which its workers have in their environment.
        words: what is collected, as pytest is given it.
    """
    if "PYTHONPATH" in os.environ:
        return BIN / "python"
    folder = _of_run(run)
    folder.mkdir(0o700)
    collected = json.dumps({"folder": str(Path.cwd()), "words": words})
    _start(folder, collected, ready="workers")
    workers = folder / "workers-bin"
    workers.mkdir()
    write_client(workers / "python", folder, "workers")
    return workers / "python"


def _of_run(run: str) -> Path:
    return Path(tempfile.gettempdir()) / f"lethe-warm-{run}"


def _keep(folder: Path) -> bool:
    """Keeps the process of a folder from ending before this one; False where it has ended."""
    try:
        os.open(folder / "kept", os.O_WRONLY | os.O_NONBLOCK)  # open until this process ends
    except OSError:  # nobody reads it
        return False
    return True


def write_client(place: Path, folder: Path, server: str = "", *, binaries: Path = BIN) -> None:
    """A command that is run by the server of that name in `folder`, else by those `binaries`."""
    place.write_text(
        f"#!{BIN / 'python'} -IS\n"
        f"import sys\nsys.path.insert(0, {str(_HERE)!r})\n"
        f"import client\nclient.main({str(folder)!r}, {str(binaries)!r}, {server!r})\n"
    )
    place.chmod(0o755)


def _start(folder: Path, *collected: str, ready: str = "socket") -> Path:
    """Ends, and removes its folder, when nobody keeps it any more."""
    binaries = folder / "bin"
    binaries.mkdir()
    for name in _NAMES:
        write_client(binaries / name, folder)
    environment = _start_environment()
    (folder / "environment").write_text(decided_at_start(environment))
    os.mkfifo(folder / "kept")
    read = os.open(folder / "kept", os.O_RDONLY | os.O_NONBLOCK)
    _keep(folder)
    process = subprocess.Popen(
        [sys.executable, str(_HERE / "server.py"), str(folder), str(BIN), *collected],
        stdin=read,
        env=environment,
        start_new_session=True,
        cwd="/",
    )
    os.close(read)
    until = time.monotonic() + _PATIENCE_S
    while not (folder / ready).exists():
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
