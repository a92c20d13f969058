"""A registry that does not answer, never or from some call on: soon, in one sentence, for all."""

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from pyroaring import BitMap

from lethe.core import waiting
from lethe.core.errors import StoreUnavailable
from lethe.core.outcomes import Result, Traces
from lethe.stores.registry.registry import Registry
from lethe.stores.registry.remove import retire
from lethe.stores.registry.store import RegistryStore
from lethe.stores.registry.tombstones import find_tombstone, find_tombstones
from lethe.stores.registry.verify import verify_registry
from lethe.stores.store import Ending, Person
from tests.library import NOW

PERSON = Person(Traces("ada-1", 1), models=("readmission/1",))


@contextmanager
def silent() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def closed() -> Iterator[str]:
    with socket.socket() as free:  # bound, and not listening
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def saying(status: int, body: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    for method in ("GET", "POST"):
        setattr(Handler, f"do_{method}", Handler.answer)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


WAYS = {
    "nobody listens": closed,
    "never a word": silent,
    "an error": lambda: saying(500, b"{}"),
    "another service": lambda: saying(200, b"<html>intranet</html>"),
    "too many": lambda: saying(429, b"slow down"),
}
ASKED: dict[str, Callable[[RegistryStore, Registry], object]] = {
    "versions": lambda store, _: store.versions(),
    "models of": lambda store, _: store.models_of([PERSON.traces]),
    "hashes": lambda store, _: store.model_hashes(["readmission/1"]),
    "ended hashes": lambda store, _: store.ended_hashes(["readmission/1"]),
    "end": lambda store, _: store.end("readmission/1", Ending()),
    "tombstones": lambda _, registry: find_tombstones(registry, "readmission"),
    "alias": lambda _, registry: registry.find("readmission", "@champion"),
    "retire": lambda _, registry: retire(registry, "readmission", 1, replaced_by=None, now=NOW),
}


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def opened(url: str) -> tuple[RegistryStore, Registry]:
    registry = Registry.open(url)
    return RegistryStore(registry, lambda: {"run-1": BitMap([1])}, clock=lambda: NOW), registry


@pytest.mark.parametrize("way", WAYS)
def test_whatever_is_asked_of_one_that_is_away_fails_alike(way: str, patience: None) -> None:
    with WAYS[way]() as url:
        for name, ask in ASKED.items():
            with pytest.raises(StoreUnavailable, match="registry does not answer") as said:
                ask(*opened(url))
            assert "http" not in str(said.value), name
            if way == "never a word":
                break  # each of them waits for a second


@pytest.mark.parametrize("way", WAYS)
def test_a_look_into_one_that_is_away_is_no_answer(way: str, patience: None) -> None:
    with WAYS[way]() as url:
        seen = verify_registry(Registry.open(url), traces=PERSON.traces)
    assert (seen.result, seen.count) == (Result.UNREACHABLE, 0)


def test_one_that_did_not_answer_is_not_waited_for_again_by_each_who_asks(patience: None) -> None:
    with silent() as url:
        store, _ = opened(url)
        with pytest.raises(StoreUnavailable):
            store.versions()
        begun = time.monotonic()
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                store.look([PERSON])
        assert time.monotonic() - begun < 0.5


def test_mlflows_own_patience_is_cut_by_what_lethe_sets() -> None:
    from mlflow.environment_variables import (
        MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR,
        MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        MLFLOW_HTTP_REQUEST_TIMEOUT,
    )

    waits = MLFLOW_HTTP_REQUEST_TIMEOUT.get() * (1 + MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())
    assert waits <= 20
    assert MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get() <= 1


def test_from_some_call_on_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database goes away under a registry that answered."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    store, registry = opened("sqlite://")

    class Client:
        def search_model_versions(self, *_: object, **__: object) -> None:
            raise MlflowException("SELECT secret", error_code=TEMPORARILY_UNAVAILABLE)

        def get_registered_model(self, *_: object) -> None:
            raise OSError("connection reset")

    registry.__dict__["_client"] = Client()
    with pytest.raises(StoreUnavailable, match="TEMPORARILY_UNAVAILABLE") as said:
        store.versions()
    assert "secret" not in str(said.value)
    with pytest.raises(StoreUnavailable, match="OSError"):
        find_tombstone(registry, "readmission", 1)


def test_a_database_that_nobody_serves_is_given_up_at_once() -> None:
    store, _ = opened("postgresql://lethe:hidden-word@127.0.0.1:1/mlflow")
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="does not answer") as said:
        store.versions()
    assert time.monotonic() - begun < 10
    assert "hidden-word" not in str(said.value)


def test_a_long_wait_says_for_what(
    patience: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "SILENCE_S", 0.1)
    with silent() as url, pytest.raises(StoreUnavailable):
        opened(url)[0].versions()
    assert "Waiting for the model registry (stores.registry)" in capsys.readouterr().err
