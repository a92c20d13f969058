"""A retired version leaves nothing on MLflow's server, in a bucket and on PostgreSQL either."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from lethe.core.outcomes import Traces
from lethe.stores.registry.registry import Registry
from lethe.stores.registry.remove import retire
from lethe.stores.registry.tombstones import find_tombstone
from lethe.stores.registry.verify import verify_registry
from tests.postgres import postgres_server, postgres_url, postgres_urls
from tests.stores.registry.retired import ADA, NOW, here, prepared, register
from tests.stores.registry.test_registry import URL
from tests.warm import warm_bin

__all__ = ["here", "postgres_server", "postgres_url", "postgres_urls", "prepared"]


def test_a_server_that_does_not_answer_is_not_called_clean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = Registry.open("http://127.0.0.1:1")
    seen = verify_registry(server, traces=ADA)
    assert seen.result == "unreachable"
    assert "does not answer" in str(seen.reason)


@pytest.fixture
def served(here: Path) -> Iterator[str]:
    """MLflow's own server on the loopback, with its database and its artifacts in `served/`."""
    (here / "served").mkdir()
    shutil.copy(here / "mlflow.db", here / "served" / "mlflow.db")  # its tables, which are empty
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{here}/served/mlflow.db"),
            *("--artifacts-destination", f"{here}/served/artifacts"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ
        | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, for jobs of LLMs
        },
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _until_it_answers(f"{url}/health", server)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=300)


def _until_it_answers(url: str, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 600
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.2)


def test_on_a_server_a_version_is_gone_once_its_garbage_collector_ran(
    here: Path, served: str
) -> None:
    registry = Registry.open(served)
    first, second = register(registry), register(registry, run_id="run-2")
    registry.alias(first, "champion")
    artifacts = here / "served" / "artifacts"
    assert [path for path in artifacts.rglob("*") if first.logged_model in str(path)]
    done = retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    assert done.result == "present"
    assert registry.find("readmission", "@champion").version == 2
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert verify_registry(registry, [tombstone]).places == (first.run,)
    assert not [
        path
        for path in artifacts.rglob("*")
        if path.is_file() and {first.run, first.logged_model} & set(path.parts)
    ], "files are removed at once; what waits for the collector is rows"
    message = str(done.reason).partition("run: mlflow ")[2].split()
    subprocess.run(
        [
            *(str(warm_bin() / "python"), "-m", "mlflow", *message),
            *("--backend-store-uri", f"sqlite:///{here}/served/mlflow.db"),
            *("--artifacts-destination", f"{here}/served/artifacts"),
        ],
        check=True,
        capture_output=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": served},
    )
    assert retire(registry, "readmission", 1, replaced_by=2, now=NOW).result == "erased"
    seen = verify_registry(registry, [tombstone], traces=ADA)
    assert (seen.result, seen.reason) == (
        "absent",
        "as MLflow's server says; its files were not opened",
    )
    registry.tag(registry.find("readmission", str(second.version)), "asked_by", "Ada Quill")
    assert verify_registry(registry, traces=ADA).places == ("readmission/2 tag asked_by",)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket for artifacts in a real S3 API on this machine (moto's server)."""
    moto = pytest.importorskip("moto.server", reason="S3 needs moto")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    request = urllib.request.Request(f"http://{host}:{port}/models", method="PUT")
    urllib.request.urlopen(request, timeout=300).close()
    yield "s3://models/artifacts"
    server.stop()


def test_artifacts_in_a_bucket_go_too_and_are_looked_for_there(
    here: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.open(URL)
    registry.client.create_experiment("readmission", artifact_location=bucket)
    register(registry), register(registry, run_id="run-2")
    assert retire(registry, "readmission", 1, replaced_by=2, now=NOW).result == "erased"
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert all(place.startswith(bucket) for place in tombstone.artifacts)
    seen = verify_registry(registry, [tombstone], traces=ADA)
    assert (seen.result, seen.reason) == (
        "absent",
        "files of models that stay are beyond this machine and were not opened",
    )
    left = tombstone.artifacts[0]
    get_artifact_repository(left).log_artifact(str(here / "model" / "model.json"))
    assert verify_registry(registry, [tombstone]).places == (left,)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "does not answer" in str(verify_registry(registry, [tombstone]).reason)


def test_on_postgresql_a_retired_version_leaves_nothing_too(here: Path, postgres_url: str) -> None:
    registry = Registry.open(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    first, second = register(registry), register(registry, run_id="run-2")
    registry.alias(first, "champion")
    assert retire(registry, "readmission", 1, replaced_by=2, now=NOW).result == "erased"
    assert registry.find("readmission", "@champion") == registry.find("readmission", "2")
    with psycopg.connect(postgres_url) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        for ours in (first.run, first.logged_model):
            assert [
                name
                for (name,) in names
                if any(
                    ours in str(row)
                    for row in connection.execute(f'SELECT * FROM "{name}"').fetchall()
                )
            ] == []
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert verify_registry(registry, [tombstone]).result == "absent"
    traces = Traces(key="P-0004711", token=12)
    registry.tag(registry.find("readmission", str(second.version)), "asked_by", traces.key)
    assert verify_registry(registry, traces=traces).places == ("model_version_tags.value",)
