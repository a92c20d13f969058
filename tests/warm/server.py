"""A process that has imported what commands import, and forks one for each that is asked for.

Importing PyTorch, MLflow and DVC takes seconds, of each process anew; a fork has them. Each command
is a process with its own memory, folder, environment, streams, exit code and death, as if it had
been started. Two things are not the same. What an interpreter reads at its start: a command with a
PYTHONPATH or a hash seed of its own is started truly. And whose child it is: it leads a session of
its own below this process, so tests of how processes end together start those of `BIN`.

It is three: one without `lethe`, for commands whose PYTHONPATH names the code that they run; one
with it, for all others; and, where pytest asks for it, one that has collected its tests, of which
its workers are forks.

Runs no thread and no command's code itself. Ends, with its folder, when its standard input does.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import shutil
import signal
import socket
import sys
import types
from ast import literal_eval
from pathlib import Path
from typing import Any

MODULES = (
    *("dvc.cli", "dvc.stage.run", "dvc.cachemgr", "dvc.data_cloud", "dvc.rwlock", "dvc.utils.diff"),
    *("dvc_render.vega_templates", "dvc_task.app", "dvc_data.index.push", "dvc_studio_client.env"),
    *("dvc_data.hashfile.transfer", "dvc_data.hashfile.checkout", "dvc_data.hashfile.status"),
    *("scmrepo.git", "scmrepo.noscm", "dulwich.ignore", "dulwich.worktree", "flatten_dict"),
    *("configobj", "platformdirs", "pygit2", "celery.app", "flufl.lock", "zc.lockfile", "networkx"),
    *("markdown_it", "rich.markdown", "rich.traceback", "typer.rich_utils", "faker"),
    *("torch", "torch._dynamo", "opacus", "sklearn.metrics", "pandas", "pyarrow.dataset"),
    *("matplotlib.backends.backend_agg", "matplotlib.figure", "dateutil.rrule", "encodings.ascii"),
    *("great_expectations", "presidio_analyzer", "spacy", "PIL.PngImagePlugin"),
    *("mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_workspace_store", "alembic.config"),
    *("mlflow.store.model_registry.sqlalchemy_workspace_store", "dp_accounting.rdp", "psutil"),
)
_PATIENCE_S = 60.0  # for who has connected and is to say what it wants
PACKAGES = ("dvc.commands", "dvc.repo", "faker.providers")  # with all that is in them


def main(folder: str, binaries: str, collected: str | None = None) -> None:
    """Imports, and serves until its standard input ends.

    Args:
        collected: where workers of pytest are forks too: its folder and words, as JSON.
    """
    if forked():  # a test may end all children of its process: this is none
        os._exit(0)
    for name in MODULES:
        importlib.import_module(name)
    for name in PACKAGES:
        _import_all(name)
    importlib.import_module("tables").install(Path(folder, "mlflow.db"))
    if not forked():
        serve("bare", folder, binaries)
        return
    _import_all("lethe")
    _read_code()
    if collected and not forked():
        _collect(**json.loads(collected))
        serve("workers", folder, binaries)
        return
    serve("socket", folder, binaries)


def forked() -> bool:
    """Whether this is still the process that called; the other one is nobody's child."""
    if child := os.fork():
        os.waitpid(child, 0)
        return True
    if os.fork():
        os._exit(0)
    return False


def serve(name: str, folder: str, binaries: str) -> None:
    gc.collect()
    gc.freeze()
    gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gate.bind(f"{folder}/{name}-soon")
    gate.listen(64)
    Path(folder, f"{name}-soon").rename(Path(folder, name))
    Server(gate, folder, binaries, name).serve()


def _collect(folder: str, words: list[str]) -> None:
    """Imports the tests as pytest does; a worker's own collection then takes a tenth."""
    os.chdir(folder)
    sys.path[:] = [folder, *sys.path[1:]]
    import pytest

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *words])


def _import_all(package: str) -> None:
    found = importlib.import_module(package)
    for each in pkgutil.walk_packages(found.__path__, f"{package}."):
        if not each.name.endswith("__main__"):
            importlib.import_module(each.name)


def _read_code() -> None:
    """What `lethe` compares at its start, and records of a release: the code, alike for all."""
    from lethe.ledger.admission import code_digest
    from lethe.stages import STAGES, behaviour

    for stage in STAGES:
        behaviour.own_code().digest(behaviour.modules(stage))
    code_digest()


class Server:
    def __init__(
        self, gate: socket.socket, folder: str, binaries: str, name: str = "socket"
    ) -> None:
        self.gate, self.folder, self.binaries, self.name = gate, folder, binaries, name
        self.running: dict[int, socket.socket] = {}  # process id: who asked for it
        self.selector = selectors.DefaultSelector()

    def serve(self) -> None:
        woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakes)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(0, selectors.EVENT_READ)
        self.selector.register(woken, selectors.EVENT_READ)
        self.selector.register(self.gate, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj == 0:
                    self._end()
                    return
                if key.fileobj == woken:
                    os.read(woken, 1024)
                    self._bury()
                elif key.fileobj is self.gate:
                    self._begin(self.gate.accept()[0])
                else:
                    self._pass_on(key.fileobj)  # type: ignore[arg-type]

    def _begin(self, client: socket.socket) -> None:
        client.settimeout(_PATIENCE_S)  # one that was stopped before it asked must not hold others
        try:
            _, streams, _, _ = socket.recv_fds(client, 16, 4)
        except (ConnectionError, TimeoutError):
            streams = []
        if len(streams) < 4:  # gone before it asked
            client.close()
            return
        with os.fdopen(streams[3], "rb") as file:
            file.seek(0)
            words, cwd, environment = literal_eval(file.read().decode())
        if self.name == "bare" and _has_imported_other(_own_path(environment, cwd)):
            for stream in streams[:3]:
                os.close(stream)
            client.send(b"anew")
            client.close()
            return
        process = os.fork()
        if process == 0:
            self._be(words, cwd, environment, streams[:3])
        for stream in streams[:3]:
            os.close(stream)
        self.running[process] = client
        self.selector.register(client, selectors.EVENT_READ)

    def _be(self, words: list[str], cwd: str, environment: dict[str, str], at: list[int]) -> None:
        """In the fork: what was asked for, until it ends."""
        code = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, stream in enumerate(at):
                os.dup2(stream, number)
                os.close(stream)
            self.selector.close()
            self.gate.close()
            for other in self.running.values():
                other.close()
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(environment)
            _draw_anew()
            if self.name in ("bare", "socket"):  # others start truly what they start by it
                sys.executable = f"{self.folder}/bin/python"
            sys.orig_argv = [sys.executable, *words]
            sys.path[1:1] = _own_path(environment, cwd)
            if first := environment.get("WARM_FIRST"):  # a file, as a `sitecustomize` would be
                runpy.run_path(first)
            code = run(words, self.binaries)
        except BaseException:  # noqa: BLE001 - a fork must not go on as the server
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def _pass_on(self, client: socket.socket) -> None:
        process = next((number for number, each in self.running.items() if each is client), None)
        if process is None:  # it ended, and was buried, between the look and now
            return
        try:
            said = client.recv(1)
        except ConnectionResetError:
            said = b""
        if not said:  # whoever asked was killed
            self.selector.unregister(client)
        if said:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, said[0])
        else:
            _kill_all_of(process)

    def _bury(self) -> None:
        while self.running:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            client = self.running.pop(process)
            with contextlib.suppress(KeyError):
                self.selector.unregister(client)
            with contextlib.suppress(OSError):
                client.send(str(status).encode())
            client.close()

    def _end(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        Path(f"{self.folder}.lock").unlink(missing_ok=True)
        for process in self.running:
            _kill_all_of(process)


def _own_path(environment: dict[str, str], cwd: str) -> list[str]:
    """The folders of a PYTHONPATH, as an interpreter has them behind that of its script."""
    named = environment.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path(cwd, each)) for each in named if each]


def _has_imported_other(path: list[str]) -> bool:
    """Whether a new interpreter would find in these folders what this one has from elsewhere."""
    folders = [each for each in map(Path, path) if each.is_dir()]
    there = {
        entry.name.partition(".")[0]
        for each in folders
        for entry in each.iterdir()
        if entry.is_dir() or entry.suffix in (".py", ".pyc", ".so")  # dvc.yaml is no module
    }
    return not there.isdisjoint(sys.modules)


def _kill_all_of(process: int) -> None:
    """A fork, and what it started in its session's first group."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:  # it does not lead a group yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _draw_anew() -> None:
    """What is random differs from fork to fork, as it does from process to process."""
    if "numpy" not in sys.modules:  # Airflow's
        return
    import numpy as np

    np.random.seed()
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        import torch

        if torch.get_num_threads() != int(threads):
            torch.set_num_threads(int(threads))


def run(words: list[str], binaries: str) -> int:
    """Runs a command in this process, to what a new one would do when it ends."""
    import atexit
    import threading

    code: Any = None
    try:
        _call(words, binaries)
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except Exception:  # noqa: BLE001 - as an interpreter does at its end
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code if isinstance(code, int) else int(code is not None)


def _call(words: list[str], binaries: str) -> None:
    name, *others = words
    if others[:1] == ["-u"]:
        others = others[1:]
    safe = others[:1] == ["-P"]  # modules are not looked for where it runs
    others = others[safe:]
    if name == "python" and others[0] == "-m":
        sys.argv = others[1:]
        sys.path[0] = binaries if safe else str(Path.cwd())
        runpy.run_module(others[1], run_name="__main__", alter_sys=True)
    elif name == "python" and others[0] == "-c":
        sys.argv = ["-c", *others[2:]]
        sys.path[0] = binaries if safe else str(Path.cwd())
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(others[1], main.__dict__)
    elif name == "python":
        sys.argv = others
        sys.path[0] = binaries if safe else str(Path(others[0]).absolute().parent)
        runpy.run_path(others[0], run_name="__main__")
    else:
        sys.argv = [f"{binaries}/{name}", *others]
        sys.path[0] = binaries
        module = {"lethe": "lethe.cli.main", "dvc": "dvc.cli", "airflow": "airflow.__main__"}[name]
        sys.exit(importlib.import_module(module).main())


if __name__ == "__main__":
    main(*sys.argv[1:])
