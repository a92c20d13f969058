"""The last look of an erasure goes into MLflow itself, not by what the ledger says of it."""

from pathlib import Path
from typing import Any

import pytest

from lethe.config.keys import load_key
from lethe.core.outcomes import Traces
from lethe.rights.workspace_stores import WorkspaceStores
from lethe.stores.registry.registry import Registry
from lethe.stores.registry.remove import retire
from lethe.stores.registry.tombstones import find_tombstone
from lethe.stores.requests.requests import Requests
from lethe.stores.store import Person
from lethe.stores.vault.vault import Vault
from tests.stages.test_register import NOW, Audited, audited, here, prepared

__all__ = ["audited", "here", "prepared"]
ADA = Traces("P-0004711", None, ("ada@example.org",))
BO = Traces("P-0004712", None, ("bo@example.org",))


@pytest.fixture
def found(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a look into the registry says, for people and the versions that must be gone."""
    audited.run()
    monkeypatch.setattr(audited.ledger, "runs", lambda: [], raising=False)
    with (
        Vault.open(audited.params.stores.vault, load_key(audited.params.stores, Path())) as vault,
        Requests.open("sqlite://") as requests,
    ):
        stores = WorkspaceStores(audited.params, vault, requests, Path.cwd(), clock=lambda: NOW)
        yield lambda *people: [seen for (seen,) in stores.registry.look(people)]


def test_nobody_is_in_the_registry_of_a_run(found: Any) -> None:
    assert [each.result for each in found(Person(ADA))] == ["absent"]


def test_who_was_written_into_mlflow_is_found_and_distinguished(
    audited: Audited, found: Any
) -> None:
    registry = Registry.open(audited.params.stores.registry)
    registry.tag(registry.find("readmission", "1"), "asked_by", "Ada@example.org")
    ada, bo, leaves = found(Person(ADA), Person(BO), Person(ADA, keeps_records=True))
    assert (ada.result, bo.result, leaves.result) == (
        "present",
        "absent",
        "absent",
    )
    assert "model_version_tags.value" in ada.places


def test_a_version_that_came_back_is_found_for_whom_it_had_to_go(
    audited: Audited, found: Any
) -> None:
    registry = Registry.open(audited.params.stores.registry)
    retire(registry, "readmission", 1, replaced_by=None, reason="somebody was erased", now=NOW)
    gone = ("readmission/1",)
    assert found(Person(ADA, models=gone))[0].result == "absent"
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    Path(tombstone.artifacts[0].removeprefix("file://")).mkdir(parents=True)
    ada, bo = found(Person(ADA, models=gone), Person(BO))
    assert ada.places == (tombstone.artifacts[0],)
    assert bo.result == "absent"
