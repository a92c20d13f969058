"""Every store that an erasure goes through keeps to the contract of stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroaring import BitMap

from lethe.core.outcomes import Traces
from lethe.people.references import reference_from_bytes, traces_to_bytes
from lethe.stores.dvc.store import DvcStore
from lethe.stores.registry.registry import Registry
from lethe.stores.registry.store import RegistryStore
from lethe.stores.requests.requests import Requests
from lethe.stores.requests.store import RequestsStore
from lethe.stores.source.identifiers import traces
from lethe.stores.source.store import SourceStore
from lethe.stores.store import Ending, Person
from lethe.stores.vault.store import VaultStore
from lethe.stores.vault.vault import Vault
from tests import past_pipeline as history
from tests.library import NOW, build, declare, rows
from tests.past_pipeline import past, past_template
from tests.stores.registry.retired import here, prepared, registry
from tests.stores.store_contract import Made, StoreContract

__all__ = ["here", "past", "past_template", "prepared", "registry"]


class TestSource(StoreContract):
    @pytest.fixture(params=["sqlite", "csv"])
    def made(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Made:
        monkeypatch.chdir(tmp_path)
        params = declare(build(request.param, tmp_path, rows(), None))
        place = tmp_path / ("library.db" if request.param == "sqlite" else "csv")

        def person(key: str) -> Person:
            return Person(traces(params, key))

        return Made(
            SourceStore(params, clock=lambda: NOW),
            person("7"),
            person("8"),
            Person(Traces("4711", None)),
            away=lambda: place.rename(tmp_path / "away") and None,
        )


class TestVault(StoreContract):
    @pytest.fixture
    def made(self, tmp_path: Path) -> Iterator[Made]:
        url = f"sqlite:///{tmp_path / 'vault.db'}"
        with Vault.open(url, b"k" * 32) as vault:
            ada, bo = vault.tokens(["ada", "bo"]).tolist()
            yield Made(
                VaultStore(vault, url),
                Person(Traces("ada", ada)),
                Person(Traces("bo", bo)),
                Person(Traces("nobody", None)),
                away=lambda: _damage(tmp_path / "vault.db"),
            )


class TestRequests(StoreContract):
    @pytest.fixture
    def made(self, tmp_path: Path) -> Iterator[Made]:
        with Requests.open(f"sqlite:///{tmp_path / 'ledger.db'}") as requests:
            for key in ("ada", "bo"):
                requests.receive(
                    f"request-of-{len(key)}",
                    kind="erase",
                    purpose=None,
                    reference=key.encode(),
                    encrypted=traces_to_bytes(Traces(key, None)),
                    received_at=NOW,
                    due_at=NOW,
                )
            yield Made(
                RequestsStore(requests, lambda r: _key(r.encrypted)),
                Person(Traces("ada", None)),
                Person(Traces("bo", None)),
                Person(Traces("nobody", None)),
                away=lambda: _damage(tmp_path / "ledger.db"),
                keeps=True,
            )


class NoModels:
    def model_hashes(self, versions: object) -> set[str]:
        return set()

    def ended_hashes(self, versions: object) -> set[str]:
        return set()

    def manifest_became(self, versions: object, *, model: str, manifest: str) -> None:
        pass


class TestDvc(StoreContract):
    @pytest.fixture
    def made(self, past: Path) -> Made:
        history.forget_source(past)

        def away() -> None:
            (past / "remote").rename(past.parent / "away")
            (past / "remote").write_text("a file, where a folder is expected")

        return Made(
            DvcStore(past, NoModels(), known=lambda: BitMap(history.WARDS), skip=lambda: []),
            Person(Traces("ada-1", history.ADA)),  # no part of a hash in hex
            Person(Traces("bo-1", history.BO)),
            Person(Traces("nobody", 4711)),
            away=away,
        )


class TestRegistry(StoreContract):
    @pytest.fixture
    def made(self, here: Path, registry: Registry) -> Made:
        charged = {"run-1": BitMap([1]), "run-2": BitMap([2])}

        def person(key: str, token: int, version: str) -> Person:
            return Person(Traces(key, token), models=(version,), ended={version: Ending()})

        return Made(
            RegistryStore(registry, lambda: charged, clock=lambda: NOW),
            person("ada-1", 1, "readmission/1"),
            person("bo-1", 2, "readmission/2"),
            Person(Traces("zoe-3", 3)),
            away=lambda: _damage(here / "mlflow.db"),
        )


def _damage(database: Path) -> None:
    database.write_bytes(b"no database " * 4096)


def _key(encrypted: bytes | None) -> str | None:
    found = reference_from_bytes(encrypted) if encrypted else None
    return found.key if isinstance(found, Traces) else None
