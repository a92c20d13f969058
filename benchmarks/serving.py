"""A registered model on a machine that has nothing but what the version itself asks for."""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import psutil
from safetensors.torch import save_file

from benchmarks.timing import Row
from lethe.config.params import load_params
from lethe.data.encoding import Encoder
from lethe.registration.facts import inputs_of
from lethe.registration.predicting import output_columns
from lethe.stores.registry.registry import NewVersion, Registry, quiet
from lethe.stores.registry.tags import RUN_ID
from lethe.training.description import DESCRIPTION, WEIGHTS, Architecture, Description
from lethe.training.models import build_model

PROJECT = Path(__file__).parents[1]
REQUESTS = 500
# What MLflow itself takes: a model that gives back what it is given.
_EMPTY = """
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
class Empty(PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input
set_model(Empty())
"""
RECORD = {
    "age": "[70-80)",
    "discharge_disposition_id": "1",
    "time_in_hospital": 3,
    "number_emergency": 0,
    "number_inpatient": 1,
    "number_diagnoses": 9,
    "diag_1": "250.8",
    "diag_2": "401",
    "metformin": "No",
    "insulin": "Up",
    "diabetesMed": "Yes",
}


def measure() -> list[Row]:
    """Registers the project's declared model, and serves it from an environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        served = _registered(root)
        python = _environment(root / "environment", served / "requirements.txt")
        listed = _run("uv", "pip", "list", "--python", str(python), "--format", "json")
        size = _run("du", "-sm", str(root / "environment")).split()[0]
        empty = _empty(root)
        # Once before, as on any machine that has served already: Python compiles its modules.
        with _serving(python, served), _serving(python, empty):
            pass
        with _serving(python, empty) as server:
            of_mlflow, floor = server, _requests(server)
        with _serving(python, served) as server:
            ours = _requests(server)
    return [
        ("packages that a served model needs", str(len(json.loads(listed))), "≤ 40"),
        ("their size on disk, MB", size, "≤ 1000"),
        ("mlflow models serve, to the first ping, s", f"{server.first_ping:.1f}", "≤ 4"),
        ("  of it processor time, s", f"{server.cpu:.1f}", ""),
        ("  the same of an empty model of MLflow's, s", f"{of_mlflow.cpu:.1f}", ""),
        ("one JSON request, median, ms", f"{1e3 * ours[0]:.1f}", "≤ 6"),
        ("  of it processor time of the server, ms", f"{1e3 * ours[1]:.1f}", ""),
        ("  the same of an empty model of MLflow's, ms", f"{1e3 * floor[1]:.1f}", ""),
    ]


def _empty(root: Path) -> Path:
    entry = root / "empty.py"
    entry.write_text(_EMPTY, encoding="utf-8")
    with quiet():
        mlflow.pyfunc.save_model(root / "empty", python_model=str(entry), pip_requirements=[])
    return root / "empty"


def _registered(root: Path) -> Path:
    """The folder of a registered version, as MLflow gives it to whoever serves it."""
    params = load_params(PROJECT / "params.yaml", root=root)
    encoder = Encoder.from_params(params)
    sizes = {"features": len(encoder.names), "outputs": encoder.outputs}
    architecture = Architecture.of(params.training, **sizes)
    model = root / "model"
    model.mkdir()
    save_file(build_model(architecture).state_dict(), model / WEIGHTS)
    described = Description(architecture, encoder.classes, encoder, {}, "run-1")
    (model / DESCRIPTION).write_bytes(described.to_bytes())
    registry = Registry.open(f"sqlite:///{root / 'mlflow.db'}")
    made = registry.register(
        NewVersion(
            name="served",
            folder=model,
            inputs=inputs_of(encoder),
            outputs=output_columns(encoder),
            network=params.training.model,
            hidden=tuple(params.training.hidden),
            tags={RUN_ID: "run-1"},
            root=root,
        )
    )
    mlflow.set_tracking_uri(registry.url)
    return Path(mlflow.artifacts.download_artifacts(f"models:/{made.logged_model}"))


def _environment(folder: Path, requirements: Path) -> Path:
    _run("uv", "venv", "--quiet", "--python", sys.executable, str(folder))
    python = folder / "bin" / "python"
    _run("uv", "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements))
    return python


@dataclass(frozen=True)
class _Server:
    """A server that answers; how long it took until then, by the clock and of processors."""

    port: int
    processes: list[psutil.Process]
    first_ping: float
    cpu: float


@contextmanager
def _serving(python: Path, model: Path) -> Iterator[_Server]:
    """A server on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("models", "serve", "-m", str(model), "-p", str(port), "--env-manager", "local")
    # With the environment's own commands, and nothing of whoever measures.
    path = os.pathsep.join([str(python.parent), "/usr/local/bin", "/usr/bin", "/bin"])
    kept = {"HOME": str(model), "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
    start = time.perf_counter()
    log = (model.parent / f"{port}.log").open("wb")
    server = subprocess.Popen(
        [str(python.parent / "mlflow"), *words], env=kept, stdout=log, stderr=log
    )
    try:
        while not _answers(port):
            if server.poll() is not None or time.perf_counter() - start > 300:
                raise RuntimeError(Path(log.name).read_text()[-2000:])
            time.sleep(0.02)
        first_ping = time.perf_counter() - start
        command = psutil.Process(server.pid)
        processes = [command, *command.children(recursive=True)]
        yield _Server(port, processes, first_ping, _cpu(processes))
    finally:
        server.terminate()
        server.wait()
        log.close()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(t.user + t.system for t in (each.cpu_times() for each in processes))


def _requests(server: _Server) -> tuple[float, float]:
    """Median of one, and the server's processor time for one, in seconds."""
    for _ in range(REQUESTS // 10):  # what is read or compiled at the first
        _request(server.port)
    before = _cpu(server.processes)
    seconds = [_request(server.port) for _ in range(REQUESTS)]
    return statistics.median(seconds), (_cpu(server.processes) - before) / REQUESTS


def _request(port: int) -> float:
    content = json.dumps({"dataframe_records": [RECORD]}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", content, {"Content-Type": "application/json"}
    )
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=30) as reply:
        reply.read()
    return time.perf_counter() - start


def _run(*words: str) -> str:
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return done.stdout
