"""An identifier that nobody has, whose value is somebody else's key, in either database."""

import base64
import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lethe.config.params import Params
from lethe.core.outcomes import Traces
from lethe.people.consents import decisions_now
from lethe.people.references import Reference, refer
from lethe.people.suppression import standing
from lethe.rights.erasure import ASKED
from lethe.rights.intake import receive
from lethe.rights.lookup import LookUp
from lethe.stores.opening import open_requests, open_vault
from lethe.stores.requests.requests import OPEN
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.find_people import keys_spelled, subjects_by
from lethe.stores.source.store import SourceStore
from lethe.stores.source.verify import verify_source
from lethe.stores.vault.store import VaultStore
from lethe.stores.vault.vault import Vault
from tests import studio
from tests.library import NOW, build, declare, rows
from tests.postgres import postgres_server, postgres_urls

__all__ = ["postgres_server", "postgres_urls"]


class Services:
    """As much of a workspace as looking people up needs: its source and its vault."""

    def __init__(self, params: Params, vault: Vault) -> None:
        self._params = params
        self._vault = vault
        self.stores = [
            SourceStore(params, clock=lambda: NOW),
            VaultStore(vault, params.address(params.stores.vault)),
        ]
        self.encrypt, self.decrypt = vault.encrypt, vault.decrypt

    def entry(self, key: str, *, purpose: str | None) -> bytes:
        return self._vault.entries([key], purpose=purpose)[0]

    def people(self, references: Sequence[Reference]) -> list[list[str]]:
        return [
            keys_spelled(self._params, [each.value])[each.value]
            if each.column is None
            else subjects_by(self._params, each.column, [each.value])[each.value]
            for each in references
        ]


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_KEY", base64.urlsafe_b64encode(b"k" * 32).decode())
    yield request.param


def found(params: Params, reference: Reference, kind: str) -> Traces:
    """Whom a request is about once it was looked up; it is suppressed then."""
    (request,) = receive(params, [reference], kind=kind, now=NOW)
    with ExitStack() as stack:
        vault = stack.enter_context(open_vault(params))
        requests = stack.enter_context(open_requests(params))
        services: Any = Services(params, vault)
        look = LookUp(services, requests, ASKED, clock=lambda: NOW)
        known = look.who(requests.all(state=OPEN)).people[request.request_id]
        entry = requests.find(request.request_id).entry
        assert entry is not None
        vault.suppress_entries({entry: NOW + dt.timedelta(days=1)})
    return known


@pytest.mark.parametrize("right", ["erase", "withdraw"])
def test_whose_key_it_is_stays(
    kind: str, right: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = "sqlite" if kind == "SQLite" else "postgres"
    urls = request.getfixturevalue("postgres_urls") if database == "postgres" else None
    params = declare(build(database, tmp_path, rows(), urls))
    before = standing(params, decisions_now(params, NOW)).allowed.tolist()
    assert before == ["7"]
    known = found(params, refer(params, "email", "7"), right)
    assert known.identifiers == ("7",)
    assert known.token is None
    assert erase_from_source(params, known, now=NOW).result == "absent"
    assert standing(params, decisions_now(params, NOW)).allowed.tolist() == before
    with open_vault(params) as vault:
        assert not vault.suppressed(before, purpose=params.purpose).any()


@pytest.mark.parametrize("value", ['("1","12")', "[1, 12]", "12"])
def test_whose_key_of_several_columns_it_is_stays(
    kind: str, value: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'studio.db'}"
    if kind == "PostgreSQL":
        url = request.getfixturevalue("postgres_urls")()
    run = studio.build(url)
    params = studio.declare(url)
    known = found(params, refer(params, "email", value), "erase")
    assert erase_from_source(params, known, now=NOW).result == "absent"
    assert verify_source(params, known).result == "absent"
    assert run("SELECT count(*) FROM members") == [(4,)]
    with open_vault(params) as vault:
        assert not vault.suppressed(['("1","12")', "[1, 12]", "12"]).any()


def test_what_stands_for_nobody_can_be_asked_of_every_type(
    postgres_urls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no value of an enum, a date or a uuid, and an erasure of nobody ends well."""
    monkeypatch.chdir(tmp_path)
    types = {
        "date": "2020-01-01",
        "uuid": "8c1b8bb8-3b0f-4a38-93c1-8a5bd7fb1d3a",
        "boolean": "true",
        "mood": "sad",
    }
    for number, (each, value) in enumerate(types.items()):
        url = postgres_urls()
        before = "CREATE TYPE mood AS ENUM ('sad', 'glad')"
        studio.build(url, [(value, "1"), (value, "2")], studio=each, before=before)
        params = studio.declare(url)
        known = Traces(f"nobody-{number:064x}", None, (value,))
        assert erase_from_source(params, known, now=NOW).result == "absent"
