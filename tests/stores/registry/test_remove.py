"""A retired version serves no more and leaves nothing; looked at with SQL and in the folders."""

import datetime as dt
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from lethe.core.errors import NotFound, RegistrationRefused
from lethe.core.outcomes import Traces
from lethe.registration.serving import input_columns, output_columns
from lethe.stores.registry import remove
from lethe.stores.registry.registry import NewVersion, Registry, Version
from lethe.stores.registry.remove import find_tombstone, find_tombstones, retire
from lethe.stores.registry.tags import RUN_ID
from lethe.stores.registry.verify import Wanted, verify_registries, verify_registry
from lethe.training.models import Description
from tests.postgres import postgres_server, postgres_url, postgres_urls
from tests.stores.registry.test_registry import URL, write_model
from tests.warm import warm_bin

__all__ = ["postgres_server", "postgres_url", "postgres_urls"]

NOW = dt.datetime(2026, 11, 24, 9, 30, tzinfo=dt.UTC)
FACTS = {
    RUN_ID: "run-1",
    "subjects": "812",
    "records": "1999",
    "epsilon_pld": "0.97",
    "delta": "1e-05",
    "manifest_md5": "a" * 32,
    "model_md5": f"{'b' * 32}.dir",
    "git_commit": "c" * 40,
    "gate": "open",
    "not_private": "records, subjects",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and an empty registry, whose tables take seconds to make."""
    root = tmp_path_factory.mktemp("registry")
    write_model(root / "model")
    Registry.open(f"sqlite:///{root / 'mlflow.db'}").versions()
    return root


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "here"
    shutil.copytree(prepared, root)
    monkeypatch.chdir(root)
    return root


def register(registry: Registry, **tags: str) -> Version:
    encoder = Description.read(Path("model")).encoder
    return registry.register(
        NewVersion(
            name="readmission",
            folder=Path("model"),
            inputs=input_columns(encoder),
            outputs=output_columns(encoder),
            network="logistic",
            hidden=(64,),
            tags={**FACTS, **tags},
            parameters={"steps": 20},
            metrics={"epsilon_pld": 0.97},
            files={"dvc.lock": b"stages: {}\n", "card.md": b"# Card of run-1\n"},
            description="# Card",
        )
    )


@pytest.fixture
def registry(here: Path) -> Registry:
    """Two versions, of which the first is champion and candidate."""
    registry = Registry.open(URL)
    first = register(registry)
    for alias in ("champion", "candidate"):
        registry.alias(first, alias)
    register(registry, run_id="run-2")
    return registry


def rows(root: Path, needle: str) -> set[str]:
    """Tables that have a text anywhere, read with no client of MLflow's."""
    found = set()
    with sqlite3.connect(root / "mlflow.db") as store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            for row in store.execute(f'SELECT * FROM "{table}"'):
                if any(needle in str(value) for value in row):
                    found.add(table)
    return found


def test_a_retired_version_leaves_nothing_but_its_tombstone(here: Path, registry: Registry) -> None:
    old = registry.find("readmission", "1")
    assert len(rows(here, old.run)) > 4
    assert [p for p in (here / "mlruns").rglob("*") if old.logged_model in p.name]
    outcome = retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    assert outcome.result == "erased"
    for ours in (old.run, old.logged_model):
        assert rows(here, ours) == {"registered_model_tags"}
        assert [path for path in (here / "mlruns").rglob("*") if ours in path.as_posix()] == []
    assert rows(here, "run-1") == {"registered_model_tags"}
    with pytest.raises(NotFound):
        registry.find("readmission", "1")
    assert [each.version for each in registry.versions("readmission")] == [2]
    with sqlite3.connect(here / "mlflow.db") as store:
        kept = store.execute("SELECT current_stage, run_id FROM model_versions WHERE version = 1")
        assert kept.fetchall() == [("Deleted_Internal", "REDACTED-RUN-ID")]
    new = registry.find("readmission", "2")
    assert rows(here, new.run)
    assert [path for path in (here / "mlruns").rglob("*.safetensors")]


def test_its_accountability_record_remains_and_says_what_replaced_it_and_when(
    registry: Registry,
) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert (tombstone.status, tombstone.replaced_by, tombstone.done) == ("retired", 2, True)
    assert tombstone.retired_at == "2026-11-24T09:30:00+00:00"
    kept = {name: value for name, value in FACTS.items() if name not in ("gate", "not_private")}
    assert tombstone.facts == kept
    assert dt.datetime.fromisoformat(tombstone.registered_at).tzinfo is not None
    assert find_tombstones(registry, "readmission") == [tombstone]
    assert find_tombstone(registry, "readmission", 2) is None
    assert find_tombstones(registry, "another") == []


def test_aliases_turn_to_the_replacement_before_anything_goes(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(remove, "_delete_version", cut)
    with pytest.raises(KeyboardInterrupt):
        retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    assert registry.find("readmission", "@champion").version == 2
    assert registry.find("readmission", "@candidate").version == 2
    assert registry.find("readmission", "1").run


def test_a_replacement_with_a_closed_gate_does_not_become_champion(registry: Registry) -> None:
    register(registry, run_id="run-3", gate="auc 0.51 is below 0.55")
    retire(registry, "readmission", 1, replaced_by=3, now=NOW)
    assert registry.find("readmission", "3").aliases == ("candidate",)
    with pytest.raises(NotFound):
        registry.find("readmission", "@champion")


@pytest.mark.parametrize("step", ["_describe", "_delete_version", "_collect", "_remove_artifacts"])
def test_cut_at_any_step_it_ends_the_same_when_done_again(
    here: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = registry.find("readmission", "1")
    with monkeypatch.context() as patch:
        whole = getattr(remove, step)

        def cut(*words: object) -> None:
            whole(*words)  # the step is done, its successor not begun
            raise KeyboardInterrupt

        patch.setattr(remove, step, cut)
        with pytest.raises(KeyboardInterrupt):
            retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    again = Registry.open(URL)
    retire(again, "readmission", 1, replaced_by=2, now=NOW + dt.timedelta(days=1))
    tombstone = find_tombstone(again, "readmission", 1)
    assert tombstone is not None
    assert tombstone.done
    for ours in (old.run, old.logged_model):
        assert rows(here, ours) == {"registered_model_tags"}
        assert [path for path in (here / "mlruns").rglob("*") if ours in path.as_posix()] == []


def test_retired_twice_changes_nothing(here: Path, registry: Registry) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    tombstone = find_tombstone(registry, "readmission", 1)
    again = retire(registry, "readmission", 1, replaced_by=2, now=NOW + dt.timedelta(days=9))
    assert again.result == "absent"
    assert find_tombstone(registry, "readmission", 1) == tombstone


def test_a_model_retired_for_none_is_replaced_by_nothing_and_says_why(
    here: Path, registry: Registry
) -> None:
    old = registry.find("readmission", "1")
    retire(
        registry,
        "readmission",
        1,
        replaced_by=None,
        reason="the budget allows no training",
        now=NOW,
    )
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert (tombstone.status, tombstone.replaced_by) == ("retired", None)
    assert tombstone.reason == "the budget allows no training"
    assert rows(here, old.run) == {"registered_model_tags"}
    for alias in ("@champion", "@candidate"):
        with pytest.raises(NotFound):
            registry.find("readmission", alias)


def test_its_number_is_never_given_again(registry: Registry) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    retire(registry, "readmission", 2, replaced_by=None, reason="another reason", now=NOW)
    assert register(registry, run_id="run-4").version == 3


def test_attempts_that_mlflow_only_marked_go_too(here: Path, registry: Registry) -> None:
    client = registry.client
    old = registry.find("readmission", "1")
    experiment = client.get_experiment_by_name("readmission").experiment_id
    attempt = client.create_run(experiment, tags={RUN_ID: "run-1"}).info.run_id
    client.log_text(attempt, "weights", "left.txt")
    client.delete_run(attempt)
    client.delete_logged_model(old.logged_model)
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    for ours in (attempt, old.logged_model):
        assert rows(here, ours) == {"registered_model_tags"}
    assert [path for path in (here / "mlruns").rglob("left.txt")] == []


def test_unknown_versions_and_self_replacement_are_refused(registry: Registry) -> None:
    with pytest.raises(RegistrationRefused, match="itself"):
        retire(registry, "readmission", 1, replaced_by=1, now=NOW)
    for version, other in ((1, 9), (9, 2)):
        with pytest.raises(NotFound):
            retire(registry, "readmission", version, replaced_by=other, now=NOW)
    assert registry.find("readmission", "1").aliases == ("candidate", "champion")


def test_the_fresh_look_sees_what_is_left_in_tables_and_folders(
    here: Path, registry: Registry
) -> None:
    shutil.copytree(here / "mlruns", here / "kept")
    with sqlite3.connect(here / "mlflow.db") as store:
        before = store.execute("SELECT * FROM tags").fetchall()
    old = registry.find("readmission", "1")
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert verify_registry(registry, [tombstone]).result == "absent"
    shutil.copytree(here / "kept", here / "mlruns", dirs_exist_ok=True)
    seen = verify_registry(registry, [tombstone])
    assert seen.result == "present"
    assert set(seen.places) == set(tombstone.artifacts)
    for place in tombstone.artifacts:
        folder = remove.local_folder(place)
        assert folder is not None
        shutil.rmtree(folder)
    row = next(each for each in before if old.run in each)
    with sqlite3.connect(here / "mlflow.db") as store:
        store.execute(f"INSERT INTO tags VALUES ({','.join('?' * len(row))})", row)
    assert verify_registry(registry, [tombstone]).places == ("tags.run_uuid",)


def test_the_fresh_look_sees_a_version_that_still_serves(registry: Registry) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    seen = verify_registry(registry, [replace(tombstone, version=2)])
    assert seen.places == ("model_versions readmission/2",)


ADA = Traces(key="P-0004711", token=12, identifiers=("Ada Quill",))


@pytest.mark.parametrize("where", ["tag", "artifact", "free page"])
def test_the_fresh_look_sees_a_person(here: Path, registry: Registry, where: str) -> None:
    assert verify_registry(registry, traces=ADA).result == "absent"
    version = registry.find("readmission", "2")
    if where == "artifact":
        registry.client.log_text(version.run, "asked by Ada Quill", "note.txt")
    else:
        registry.tag(version, "asked_by", "Ada Quill")
    if where == "free page":
        with sqlite3.connect(here / "mlflow.db") as store:
            store.execute("PRAGMA secure_delete = OFF")
            store.execute("DELETE FROM model_version_tags WHERE key = 'asked_by'")
        assert rows(here, "Ada") == set()
    seen = verify_registry(registry, traces=ADA)
    assert seen.result == "present"
    assert seen.count >= 1
    assert "Ada" not in f"{seen}"


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
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _until_it_answers(f"{url}/health", server)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def _until_it_answers(url: str, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 120
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
    urllib.request.urlopen(request, timeout=30).close()
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


def test_several_people_are_distinguished_and_what_stands_there_by_chance_is_nobody(
    registry: Registry,
) -> None:
    registry.tag(registry.find("readmission", "2"), "asked_by", "Ada Quill")
    chance = Traces(key="20", token=13, identifiers=("1999", "run-1"))  # steps, records, a run
    bo = Traces(key="P-0004712", token=14, identifiers=("Bo Lindqvist",))
    looked = verify_registries(registry, [Wanted((), each) for each in (bo, ADA, chance)])
    assert [outcome.count > 0 for outcome in looked] == [False, True, False]
    assert verify_registries(registry, []) == []


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
            ] == ["registered_model_tags"]
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert verify_registry(registry, [tombstone]).result == "absent"
    traces = Traces(key="P-0004711", token=12)
    registry.tag(registry.find("readmission", str(second.version)), "asked_by", traces.key)
    assert verify_registry(registry, traces=traces).places == ("model_version_tags.value",)
