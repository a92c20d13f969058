"""A whole `lethe erase run` while a server takes connections and never answers, or stops to."""

import copy
import datetime as dt
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from lethe.config.params import Params, load_params
from lethe.core import silence, sql, waiting
from lethe.core.errors import LetheError
from lethe.people.references import refer
from lethe.rights import case, erasure_service, intake
from lethe.rights.erasure import ERASE
from lethe.stores.opening import open_requests, open_vault
from lethe.stores.requests.requests import OPEN
from lethe.stores.search import postgres
from lethe.stores.source import connect
from lethe.stores.source.store import SourceStore
from tests.conftest import Workspace
from tests.freezing import Freezing, freezing
from tests.postgres import Server, postgres_server, postgres_urls
from tests.traps import DECLARED, Parish

__all__ = ["postgres_server", "postgres_urls"]

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
STORES = ("source", "vault", "ledger", "registry")


class _NoModels(http.server.BaseHTTPRequestHandler):
    """A registry over HTTP that has nothing registered."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815 - the server's name for it

    def log_message(self, *_: object) -> None: ...


@dataclass
class Desk:
    """A workspace whose every server is behind one that can be frozen."""

    params: Params
    servers: dict[str, Freezing]
    parish: Parish

    def ask(self, person: str) -> str:
        return intake.receive(
            self.params, [refer(self.params, None, person)], kind=ERASE.kind, now=NOW
        )[0].request_id

    def gone(self) -> set[str]:
        """The stores that have nothing of Ada any more."""
        with open_vault(self.params) as vault:
            token = int(vault.lookup(["1"])[0])
        rows = [row for row in self.parish.rows("people") if row[0] == 1]
        return {name for name, left in (("vault", token >= 0), ("source", rows)) if not left}

    def problem(self, request_id: str) -> str | None:
        for each in self.servers.values():
            each.thaw()
        with open_requests(self.params) as requests:
            found = requests.find(request_id)
            assert (found.state, requests.receipts()) == (OPEN, [])
        return found.problem


@pytest.fixture
def desk(
    workspace: Workspace,
    postgres_server: Server,
    postgres_urls: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Desk]:
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(silence, "ASK_AGAIN_S", 0.4)
    monkeypatch.setattr(silence, "ASK_TIMES", 2)  # a late answer is none
    monkeypatch.setattr(waiting, "SILENCE_S", 0.2)
    for module in (silence, sql, postgres):
        monkeypatch.setattr(module, "CONNECT_S", 2)
    monkeypatch.setattr(connect, "WAIT_SECONDS", 2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ExitStack() as held:
        models = held.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), _NoModels))
        threading.Thread(target=models.serve_forever, daemon=True).start()
        held.callback(models.shutdown)
        ports = dict.fromkeys(STORES, postgres_server.port) | {"registry": models.server_port}
        servers = {name: held.enter_context(freezing(port)) for name, port in ports.items()}
        urls = {"registry": f"http://127.0.0.1:{servers['registry'].port}"}
        plain = postgres_urls()
        urls["source"] = plain.replace(f":{postgres_server.port}/", f":{servers['source'].port}/")
        for name in ("vault", "ledger"):
            behind = postgres_urls().replace(f":{postgres_server.port}/", f":{servers[name].port}/")
            urls[name] = behind.replace("postgresql:", "postgresql+psycopg:")

        def declare(raw: dict[str, Any]) -> None:
            raw.clear()
            raw.update(copy.deepcopy(DECLARED))
            raw["source"]["url"] = urls["source"]
            raw["stores"] = {each: urls[each] for each in ("vault", "ledger", "registry")}

        parish = Parish.build(plain)
        workspace.edit_params(declare)
        workspace.lethe("key")
        params = load_params()
        with open_vault(params) as vault:
            vault.tokens(["1"])
        yield Desk(params, servers, parish)


@pytest.mark.parametrize(
    ("store", "step", "elsewhere"),
    [
        ("source", None, set()),  # whose it is cannot be looked up
        ("source", "suppressed", {"vault"}),
        ("vault", "source", {"source"}),
        ("registry", None, {"source", "vault"}),
        ("registry", "vault", {"source", "vault"}),
    ],
)
def test_the_others_go_on_and_the_reason_stands_in_the_status(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    store: str,
    step: str | None,
    elsewhere: set[str],
) -> None:
    asked = desk.ask("1")
    mark = case.Case.mark

    def marked(self: Any, request: Any, name: str, *words: Any, **options: Any) -> None:
        mark(self, request, name, *words, **options)
        if name == step:
            desk.servers[store].freeze()

    if step is None:
        desk.servers[store].freeze()
    monkeypatch.setattr(case.Case, "mark", marked)
    begun = time.monotonic()
    summary = erasure_service.run(desk.params, clock=lambda: NOW, report=lambda _: None)
    took = time.monotonic() - begun
    said = summary.problems[asked]
    assert (
        "answer" in said
        and {"source": "source", "vault": "vault", "registry": "registry"}[store] in said
    )
    assert "Waiting for the" in capsys.readouterr().err
    assert desk.problem(asked) == said
    assert desk.gone() == elsewhere, said
    assert took < 240
    monkeypatch.undo()
    again = erasure_service.run(desk.params, clock=lambda: NOW, report=lambda _: None)
    assert set(again.closed) == {asked}


def test_a_ledger_that_freezes_ends_the_run_by_name_and_the_next_one_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests are in its database: without it no step could be remembered."""
    asked = desk.ask("1")
    erased = SourceStore.forget

    def forget(self: SourceStore, people: Any) -> Any:
        for outcomes in erased(self, people):
            desk.servers["ledger"].freeze()
            yield outcomes

    monkeypatch.setattr(SourceStore, "forget", forget)
    with pytest.raises(LetheError, match="ledger"):
        erasure_service.run(desk.params, clock=lambda: NOW, report=lambda _: None)
    assert all(row[0] != 1 for row in desk.parish.rows("people"))
    desk.servers["ledger"].thaw()
    monkeypatch.undo()
    again = erasure_service.run(desk.params, clock=lambda: NOW, report=lambda _: None)
    assert set(again.closed) == {asked}
