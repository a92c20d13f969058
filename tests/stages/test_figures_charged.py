"""Figures are reserved beside their training: both are paid for, or neither is drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyroaring import BitMap

from lethe.config import private_reports, workspace
from lethe.config.params import Params
from lethe.core.errors import BudgetExceeded
from lethe.core.files import read_json
from lethe.data.shards import eligible_people, held_out_people, shard_paths
from lethe.ledger.book import RunRecord
from lethe.ledger.ledger import Ledger
from lethe.privacy.accounting import epsilon_rdp
from lethe.privacy.figures import figures_plan
from lethe.stages import budget, train
from lethe.training import dpsgd_fit, figured
from tests import trained_run

NOW = trained_run.NOW


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    made = trained_run.params()
    trained_run.write_people(made)
    budget.run(made, now=NOW)
    return made


def charged(params: Params) -> list[RunRecord]:
    with Ledger.open(params.stores.ledger) as ledger:
        return ledger.runs()


def runs(params: Params) -> list[tuple[str | None, str]]:
    return [(run.mechanism, run.state) for run in charged(params)]


def people() -> tuple[BitMap, BitMap]:
    paths = shard_paths(workspace.SHARDS)
    return eligible_people(paths), held_out_people(paths)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("something was drawn")


def spent(params: Params, tokens: BitMap, *, leave: float) -> None:
    """Charges `tokens` until they have less than `leave` left at this budget."""
    figures = figures_plan(params, records_per_person=3, outputs=1)
    assert figures is not None
    dear = replace(figures, noise_multiplier=0.35)
    at = epsilon_rdp([dear.event], params.budget.delta)
    assert params.budget.epsilon - leave < at <= params.budget.epsilon
    with Ledger.open(params.stores.ledger) as ledger:
        ledger.reserve(dear.release(tokens), budget=params.budget, request="earlier", now=NOW)


def test_everybody_who_moves_a_figure_pays_for_it(params: Params) -> None:
    report = train.run(params, now=NOW)
    trained, held_out = people()
    with Ledger.open(params.stores.ledger) as ledger:
        training, figures = ledger.runs()
    assert (training.mechanism, training.eligible) == ("dp-sgd", trained)
    assert (figures.mechanism, figures.eligible) == ("figures", trained | held_out)
    assert report["figures"]["run_id"] == figures.run_id
    plan = figures_plan(params, records_per_person=3, outputs=1)
    assert plan is not None and figures.event == plan.event


def _tight(params: Params) -> Params:
    """A budget that one earlier release all but uses up."""
    figures = figures_plan(params, records_per_person=3, outputs=1)
    assert figures is not None
    dear = replace(figures, noise_multiplier=0.35)
    limit = epsilon_rdp([dear.event], params.budget.delta) * (1 + 1e-9)
    return replace(params, budget=replace(params.budget, epsilon=limit))


@pytest.mark.parametrize("stage", [budget, train], ids=["budget", "train"])
def test_a_held_out_person_who_cannot_pay_stops_it_before_anything_is_drawn(
    params: Params, monkeypatch: pytest.MonkeyPatch, stage: Any
) -> None:
    tight = _tight(params)
    _, held_out = people()
    spent(tight, BitMap([held_out[0]]), leave=1e-3)
    monkeypatch.setattr(dpsgd_fit, "train", never)
    monkeypatch.setattr(figured, "release", never)
    with pytest.raises(BudgetExceeded, match="fewer than 100 subjects"):
        stage.run(tight, now=NOW)
    states = dict(runs(tight)[1:])
    assert states == ({} if stage is budget else {"dp-sgd": "void"})
    assert not workspace.report_path("train").exists()


def test_who_cannot_pay_for_figures_is_in_none_where_they_may_be_left_out(params: Params) -> None:
    tight = _tight(params)
    tight = replace(tight, budget=replace(tight.budget, over_budget="leave_out"))
    _, held_out = people()
    poor = BitMap(list(held_out)[:7])
    spent(tight, poor, leave=1e-3)
    train.run(tight, now=NOW)
    with Ledger.open(tight.stores.ledger) as ledger:
        figures = ledger.runs()[-1]
    assert (figures.mechanism, figures.state) == ("figures", "settled")
    assert not figures.eligible & poor


def test_what_is_counted_are_the_people_who_paid(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = _tight(params)
    tight = replace(tight, budget=replace(tight.budget, over_budget="leave_out"))
    trained, held_out = people()
    poor = BitMap(list(held_out)[:7])
    spent(tight, poor, leave=1e-3)
    exact: list[Any] = []
    monkeypatch.setattr(figured, "release", lambda counts, _: exact.append(counts) or counts)
    train.run(tight, now=NOW)
    plan = figures_plan(tight, records_per_person=3, outputs=1)
    assert plan is not None
    assert exact[0].held_out == plan.unit * (len(held_out) - 7)
    assert exact[0].subjects == plan.unit * len(trained)


def test_without_a_price_no_figure_leaves(params: Params) -> None:
    silent = replace(params, reporting=replace(params.reporting, epsilon=0.0))
    report = train.run(silent, now=NOW)
    assert (report["metrics"], report["figures"]) == ({}, "none: reporting.epsilon is 0")
    assert [mechanism for mechanism, _ in runs(silent)] == ["dp-sgd"]
    assert pd.read_csv(workspace.PLOTS / "roc.csv").empty
    exact = private_reports.read(silent.root, "train")
    assert exact["subjects"] == trained_run.PEOPLE and "auc" in exact["metrics"]
    assert str(exact["metrics"]["auc"]) not in workspace.report_path("train").read_text()


def test_a_run_that_was_killed_says_its_figures_once(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(train, "_publish", never)
        with pytest.raises(AssertionError):
            train.run(params, now=NOW)
    staged = read_json(next(params.at_home(train.STAGING).glob("*/report.json")))
    assert train.run(params, now=NOW) == staged
    assert runs(params) == [("dp-sgd", "settled"), ("figures", "settled")]


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_another_price_of_figures_is_another_run(
    params: Params, monkeypatch: pytest.MonkeyPatch, epsilon: float
) -> None:
    """What was killed before it was published is no other declaration's to publish."""
    with monkeypatch.context() as killed:
        killed.setattr(train, "_publish", never)
        with pytest.raises(AssertionError):
            train.run(params, now=NOW)
    staged = read_json(next(params.at_home(train.STAGING).glob("*/report.json")))
    other = replace(params, reporting=replace(params.reporting, epsilon=epsilon))
    report = train.run(other, now=NOW)
    assert report["run_id"] != staged["run_id"]
    plan = figures_plan(other, records_per_person=3, outputs=1)
    before = {staged["run_id"], staged["figures"]["run_id"]}
    _, *figures = [run.event for run in charged(other) if run.run_id not in before]
    assert figures == ([] if plan is None else [plan.event])
    if plan is None:
        assert report["metrics"] == {}
    else:
        assert report["figures"]["noise_multiplier"] == plan.noise_multiplier
