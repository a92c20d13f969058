"""budget: the plan and its price, before anything is drawn or reserved."""

import csv
import datetime as dt
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dp_accounting as dp
import pandas as pd
import pytest
from pyroaring import BitMap

from lethe.config import private_reports, workspace
from lethe.config.params import Params, load_params
from lethe.config.private_reports import REPORTS as PRIVATE
from lethe.core.errors import (
    AuditContradiction,
    BudgetExceeded,
    NotFound,
    TooFewSubjects,
    TrainingRefused,
)
from lethe.core.files import read_json
from lethe.ledger.classes import ClassPrice
from lethe.ledger.ledger import Ledger
from lethe.privacy import claim
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.privacy.plan import Plan
from lethe.privacy.planning import plan_from
from lethe.stages import budget
from lethe.stores.dvc.graph import outputs
from tests.conftest import PROJECT, YAML, Workspace

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
LEDGER = "sqlite:///.lethe/ledger.db"


def declared(folder: Path, **changes: Any) -> Params:
    raw = YAML(typ="safe", pure=True).load((PROJECT / "params.yaml").read_text())
    raw["subject"]["minimum"] = 4
    raw["stores"]["ledger"] = LEDGER
    raw["budget"].update(epsilon=2.0, delta=1e-5, over_budget="refuse")
    mechanism = raw["training"]["mechanism"]
    mechanism.update(expected_subjects=1000, sample_rate=0.1, steps=100)
    target = changes.pop("target", None)
    if target is None:
        del mechanism["epsilon"]
        mechanism["noise_multiplier"] = 4.0
    else:
        mechanism["epsilon"] = target
    for name, value in changes.items():
        where = raw["budget"] if name in raw["budget"] else mechanism
        where[name] = value
    path = folder / "params.yaml"
    with path.open("w") as file:
        YAML().dump(raw, file)
    return load_params(path)


def write_shards(*people: Sequence[tuple[int, bool]]) -> None:
    """One shard a sequence of (token, held out); everybody has two records."""
    workspace.SHARDS.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(people):
        rows = [(token, out, rank) for token, out in shard for rank in (0, 1)]
        frame = pd.DataFrame(rows, columns=["token", "held_out", "rank"])
        frame = frame.astype({"token": "uint32", "held_out": "bool", "rank": "int32"})
        frame.to_parquet(workspace.SHARDS / workspace.shard_name(number), index=False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_shards([(7, False), (8, False), (9, True)], [], [(70, False), (80, False)])
    return tmp_path


def spend(params: Params, *tokens: int, request: str = "earlier") -> str:
    with Ledger.open(LEDGER) as ledger:
        reserved = ledger.reserve(
            plan_from(params).release(BitMap(tokens)),
            budget=params.budget,
            request=request,
            now=NOW,
        )
        return reserved.run_id


def test_report_prices_the_run_for_everybody_who_may_train(folder: Path) -> None:
    params = declared(folder)
    report = budget.run(params, now=NOW)
    plan = plan_from(params)
    figures = dp.GaussianDpEvent(report["figures"]["noise_multiplier"])

    assert report["subjects"] == 4  # 9 is held out
    assert report["left_out"] == 0
    assert report["epsilon_rdp"] == epsilon_rdp([plan.event], 1e-5)
    assert report["epsilon_pld"] == epsilon_pld([plan.event], 1e-5)
    assert report["plan"] == plan.to_data() == read_json(workspace.PLAN)
    assert report["plan_digest"] == plan.digest
    assert report["classes"] == [
        {
            "subjects": 4,
            "runs": 0,
            "epsilon_rdp_before": 0.0,
            "epsilon_pld_before": 0.0,
            "epsilon_rdp_after": epsilon_rdp([plan.event, figures], 1e-5),
            "epsilon_pld_after": epsilon_pld([plan.event, figures], 1e-5),
            "remaining": 2.0,
        }
    ]
    public = read_json(workspace.report_path("budget"))
    assert not {"classes", "left_out", "remaining", "subjects"} & set(public)
    assert report == private_reports.read(params.root, "budget") | public


def test_plan_file_is_a_plan(folder: Path) -> None:
    params = declared(folder)
    budget.run(params, now=NOW)
    assert Plan.from_data(read_json(workspace.PLAN)) == plan_from(params)


def test_people_with_different_histories_are_different_classes(folder: Path) -> None:
    params = declared(folder)
    spend(params, 7, 9, 500)
    report = budget.run(params, now=NOW)

    assert [(c["subjects"], c["runs"]) for c in report["classes"]] == [(3, 0), (1, 1)]
    once, twice = report["classes"][0]["epsilon_rdp_after"], report["classes"][1]
    assert twice["epsilon_rdp_before"] == once
    assert once < twice["epsilon_rdp_after"] < 2 * once  # composed, not added
    assert report["remaining"] == twice["remaining"] == 2.0 - once


def test_nothing_is_reserved(folder: Path) -> None:
    budget.run(declared(folder), now=NOW)
    budget.run(declared(folder), now=NOW)
    with Ledger.open(LEDGER) as ledger:
        assert ledger.head()[0] == 0


def test_second_run_writes_the_same_bytes(folder: Path) -> None:
    written = []
    for _ in range(2):
        budget.run(declared(folder), now=NOW)
        files = (workspace.PLAN, workspace.report_path("budget"), PRIVATE / "budget.csv")
        written.append([path.read_bytes() for path in files])
    assert written[0] == written[1]


def test_plot_has_each_class_before_and_after(folder: Path) -> None:
    params = declared(folder)
    spend(params, 7)
    report = budget.run(params, now=NOW)
    with (PRIVATE / "budget.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["class"], r["subjects"], r["when"]) for r in rows] == [
        ("1", "3", "before"),
        ("1", "3", "after"),
        ("2", "1", "before"),
        ("2", "1", "after"),
    ]
    assert float(rows[3]["epsilon_rdp"]) == pytest.approx(
        report["classes"][1]["epsilon_rdp_after"], abs=1e-6
    )


def test_run_over_budget_is_refused_before_it_trains(folder: Path) -> None:
    params = declared(folder)
    spend(params, 7, request="one")
    spend(params, 7, request="two")
    spend(params, 7, request="three")
    with pytest.raises(
        BudgetExceeded, match=r"needs epsilon=1\.0\d; fewer than 100 subjects have 0\.\d\d left"
    ):
        budget.run(params, now=NOW)
    assert not workspace.PLAN.exists()
    assert not workspace.report_path("budget").exists()


def test_people_over_budget_are_left_out_where_that_is_declared(folder: Path) -> None:
    params = declared(folder, over_budget="leave_out")
    for request in ("one", "two", "three"):
        spend(params, 7, request=request)
    assert budget.run(params, now=NOW)["left_out"] == 1


def test_run_that_would_leave_out_everybody_is_refused(folder: Path) -> None:
    params = declared(folder, over_budget="leave_out", epsilon=0.5)
    with pytest.raises(BudgetExceeded, match="fewer than 100 subjects"):
        budget.run(params, now=NOW)


def test_too_few_people_are_refused(folder: Path) -> None:
    params = declared(folder)
    write_shards([(7, False)], [(9, True)], [(70, False)])
    with pytest.raises(TooFewSubjects, match="fewer than 100 people may train"):
        budget.run(params, now=NOW)


def test_delta_must_be_below_one_over_the_people_there_are(folder: Path) -> None:
    plan = plan_from(declared(folder))
    budget.check_subjects(plan.release(BitMap(range(99_999))), minimum=1)
    with pytest.raises(TrainingRefused, match="one over the number of people"):
        budget.check_subjects(plan.release(BitMap(range(100_000))), minimum=1)


@pytest.mark.parametrize("accountant", ["epsilon_rdp", "epsilon_pld"])
def test_a_price_below_the_cost_is_refused_before_anything_is_paid(
    folder: Path, monkeypatch: pytest.MonkeyPatch, accountant: str
) -> None:
    honest = getattr(claim, accountant)
    monkeypatch.setattr(claim, accountant, lambda *words: 0.99 * honest(*words))
    with pytest.raises(AuditContradiction, match="Nothing was trained or charged"):
        budget.run(declared(folder), now=NOW)
    assert not workspace.PLAN.exists()


def test_without_shards_the_stage_says_what_to_run(folder: Path) -> None:
    for path in workspace.SHARDS.iterdir():
        path.unlink()
    with pytest.raises(NotFound, match="lethe pseudonymize"):
        budget.run(declared(folder), now=NOW)


def test_many_classes_are_summed_up_by_their_worst() -> None:
    prices = [
        ClassPrice(
            subjects=1000 - n,
            runs=n,
            epsilon_rdp_before=n / 100,
            epsilon_pld_before=n / 200,
            epsilon_rdp_after=1 + n / 100,
            epsilon_pld_after=1 + n / 200,
            remaining=10 - n / 100,
        )
        for n in range(150)
    ]
    summed = budget._summed_up(prices)
    assert len(summed) == 101
    assert sum(price.subjects for price in summed) == sum(price.subjects for price in prices)
    assert (summed[-1].runs, summed[-1].epsilon_rdp_after) == (149, 2.49)
    assert (summed[-1].epsilon_pld_before, summed[-1].remaining) == (0.745, 8.51)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_declared_epsilon_is_solved_for_and_kept(folder: Path, accountant: str) -> None:
    params = declared(folder, target=1.0, accountant=accountant)
    plan = plan_from(params)
    price = {"rdp": epsilon_rdp, "pld": epsilon_pld}[accountant]
    assert 0.999 < price([plan.event], plan.delta) <= 1.0
    assert plan == plan_from(params)


def test_torch_is_not_needed() -> None:
    code = "import sys, lethe.stages.budget; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=os.environ).returncode == 0


@pytest.mark.parametrize("name", ["method", "hidden"])
def test_a_change_of_how_is_trained_plans_anew(workspace: Workspace, name: str) -> None:
    """By DVC, with the stage as `dvc.yaml` has it; in place of its command, one that counts."""
    pipeline = YAML(typ="safe", pure=True).load((workspace.root / "dvc.yaml").read_text())
    stage = pipeline["stages"]["budget"]
    outs = outputs(stage)
    (workspace.root / "plans.py").write_text(
        f"""
import pathlib
with open("planned", "a") as said: said.write("x")
for path in map(pathlib.Path, {outs}):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
"""
    )
    stage.update(cmd="python plans.py", deps=[])
    with (workspace.root / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": {"budget": stage}}, file)
    for change in ({}, {}, {name: {"method": "pate", "hidden": [3]}[name]}):
        workspace.edit_params(lambda raw, change=change: raw["training"].update(change))
        workspace.run("dvc", "repro", "budget")
    assert (workspace.root / "planned").read_text() == "xx"
