"""`lethe check`, with all that it looks at before a run does."""

import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyroaring import BitMap
from ruamel.yaml import YAML
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.config.params import load_params, parse_params
from lethe.core.errors import BudgetExceeded, ParamsInvalid
from lethe.privacy.accounting import epsilon_rdp
from lethe.stores.opening import open_ledger
from lethe.training.trainers import trainer_of
from tests.library import DECLARED, NOW, build, rows


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    raw = copy.deepcopy(DECLARED)
    raw["source"]["url"] = build("sqlite", tmp_path, rows(), None)
    return raw


def check(raw: dict[str, Any]) -> str:
    with Path("params.yaml").open("w") as file:
        YAML().dump(raw, file)
    done = CliRunner().invoke(app, ["check"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_a_check_finds_what_would_end_a_run_late(declared: dict[str, Any]) -> None:
    assert "params.yaml is sound: 4 tables" in check(declared)
    declared["training"]["model"] = "net:build"
    with pytest.raises(ParamsInvalid, match="no module"):
        check(declared)
    declared["training"]["mechanism"]["epsilon"] = declared["budget"]["epsilon"]
    with pytest.raises(BudgetExceeded, match="nobody can pay"):
        check(declared)
    Path("model").touch()
    with pytest.raises(ParamsInvalid, match="model is not a folder"):
        check(declared)


def test_a_check_counts_the_figures_in(declared: dict[str, Any]) -> None:
    """A training alone would be within the budget; with its figures nobody can pay for it."""
    alone = parse_params(declared)
    plan = trainer_of(alone.training).plan(alone)
    need = epsilon_rdp([plan.event], alone.budget.delta)
    declared["budget"]["epsilon"] = round(need + 0.05, 4)
    declared["reporting"] = {"epsilon": 0.0}
    assert "is sound" in check(declared)
    declared["reporting"] = {"epsilon": 0.5}
    with pytest.raises(BudgetExceeded, match=r"its figures included; .* nobody can pay"):
        check(declared)


def test_a_check_says_who_has_no_budget_left_where_there_is_a_ledger(
    declared: dict[str, Any],
) -> None:
    declared["budget"]["epsilon"] = 1.5  # a run costs one
    assert "budget is used up" not in check(declared)
    assert not Path("ledger.db").exists(), "a check makes none"
    params = load_params(Path("params.yaml"))
    plan = trainer_of(params.training).plan(params)
    with open_ledger(params) as ledger:
        ledger.reserve(plan.release(BitMap([1, 2])), budget=params.budget, request="r", now=NOW)
    assert "fewer than 100 people who were charged before could not be in another run" in check(
        declared
    )
    Path("data/shards").mkdir(parents=True)
    shard = Path("data/shards/shard-0.parquet")
    pq.write_table(pa.table({"token": [2, 3], "held_out": [False, False]}), shard)
    with pytest.raises(BudgetExceeded, match="fewer than 100 subjects have"):
        check(declared)
    declared["budget"]["over_budget"] = "leave_out"
    assert "fewer than 100 people who were charged before will be left out" in check(declared)
    pq.write_table(pa.table({"token": [1, 2], "held_out": [False, False]}), shard)
    with pytest.raises(BudgetExceeded, match="fewer than 100 subjects have"):
        check(declared)
    declared["budget"]["epsilon"] = 4.0
    assert "budget is used up" not in check(declared)
