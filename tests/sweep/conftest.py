"""A folder of its own for each test of a sweep, and what is declared there."""

from pathlib import Path

import pytest

from lethe.config.params import Params
from lethe.ledger.ledger import Ledger
from tests import trained_run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def params() -> Params:
    return trained_run.params()


@pytest.fixture
def ledger(params: Params) -> Ledger:
    trained_run.write_people(params)
    return Ledger.open(params.stores.ledger)
