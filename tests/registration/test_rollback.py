"""A ledger that forgot a registered model's training is refused before it can be charged again."""

import datetime as dt
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.params import Params
from lethe.config.sections import Stores
from lethe.core.errors import LedgerInvalid
from lethe.ledger.ledger import Ledger
from lethe.registration.rollback import refuse_rolled_back
from lethe.registration.spending import spending
from lethe.stages import train
from lethe.stores.registry import registry as registries
from tests import trained_run
from tests.asked import ask

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Version:
    tags: dict[str, str]


class FakeRegistry:
    """What MLflow would answer; its own test is the registry's."""

    def __init__(self) -> None:
        self.tags: list[dict[str, str]] = []
        self.asked: list[str | None] = []

    def versions(self, name: str | None = None) -> list[Version]:
        self.asked.append(name)
        return [Version(tags) for tags in self.tags]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    declared = trained_run.params()
    ledger = Ledger.open(declared.stores.ledger)
    run_id = charge(declared, ledger, "first")
    shutil.copy(".lethe/ledger.db", "older.db")
    charge(declared, ledger, "second")
    registry = FakeRegistry()
    rows, head = ledger.head()
    registry.tags = [
        {"ledger_rows": str(rows), "ledger_head": head, "run_id": run_id},
        {"note": "of another tool: records nothing of a ledger"},
    ]
    monkeypatch.setattr(registries, "exists", lambda url: True)
    monkeypatch.setattr(registries.Registry, "open", classmethod(lambda cls, url: registry))
    return declared


def charge(params: Params, ledger: Ledger, request: str) -> str:
    plan = trained_run.plan_of(params)
    reserved = ledger.reserve(
        plan.release(BitMap([1])), budget=params.budget, request=request, now=NOW
    )
    ledger.settle(reserved.run_id, now=NOW)
    return reserved.run_id


def roll_back() -> None:
    shutil.copy("older.db", ".lethe/ledger.db")


def test_a_ledger_that_has_everything_passes_and_may_grow(params: Params) -> None:
    with Ledger.open(params.stores.ledger) as ledger:
        refuse_rolled_back(params, ledger)
        charge(params, ledger, "third")
        refuse_rolled_back(params, ledger)


def test_only_models_of_this_name_are_asked_for(params: Params) -> None:
    registry: Any = FakeRegistry()
    with Ledger.open(params.stores.ledger) as ledger:
        refuse_rolled_back(params, ledger, registry)
    assert registry.asked == ["return"]


def test_nothing_trains_or_is_charged_on_a_rolled_back_ledger(params: Params) -> None:
    trained_run.write_people(params)
    roll_back()
    with pytest.raises(LedgerInvalid, match="rolled back"):
        train.run(params, now=NOW)
    with Ledger.open(params.stores.ledger) as ledger:
        assert len(ledger.runs()) == 1
    assert not workspace.MODEL.exists()


def test_spending_of_a_rolled_back_ledger_is_not_shown(params: Params) -> None:
    ask(spending, params)
    roll_back()
    with pytest.raises(LedgerInvalid, match="rolled back"):
        ask(spending, params)
    Path(".lethe/ledger.db").unlink()
    with pytest.raises(LedgerInvalid, match="it is not here"):
        ask(spending, params)


def test_without_a_registry_there_is_nothing_to_compare_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = replace(trained_run.params(), stores=Stores(registry="sqlite:///none/mlflow.db"))
    with Ledger.open("sqlite://") as ledger:
        refuse_rolled_back(elsewhere, ledger)
    assert not Path("none").exists()
