"""What a sweep shows of its points."""

import dataclasses
from typing import Any

from lethe.config.params import Params
from lethe.sweep.grid import grid
from lethe.sweep.points import Point
from lethe.sweep.report import render_sweep, sweep_csv, sweep_report
from lethe.sweep.stand_in import generated
from tests import trained_run


def _report(aucs: list[float], reference: float | None, kind: str = "generated") -> dict[str, Any]:
    params = trained_run.params()
    tried = generated(params, people=100, auc=0.7, base_rate=0.3, seed=1)
    plans = grid(params, noise_multipliers=[8.0, 4.0, 2.0][: len(aucs)], clips=[1.0])
    runs = ("run",) if kind == "charged" else ()
    points = [Point(plan, (auc,), runs=runs) for plan, auc in zip(plans, aucs, strict=True)]
    return sweep_report(
        points, dataclasses.replace(tried, kind=kind), accountant="pld", reference=reference
    )


def test_the_cheapest_point_near_the_reference_is_enough() -> None:
    report = _report([0.60, 0.6961, 0.70], 0.70)
    assert report["enough"] == report["points"][1]
    assert report["charged"] is None
    text = render_sweep(report)
    assert text.count("<- enough") == 1
    assert "the same network without privacy (0.7000)" in text


def test_without_a_reference_the_best_point_is_the_measure() -> None:
    report = _report([0.60, 0.6949, 0.70], None)
    assert report["enough"] == report["points"][2]
    assert "of the best point" in render_sweep(report)


def test_where_nothing_is_near_nothing_is_called_enough() -> None:
    report = _report([0.5, 0.6], 0.70)
    assert report["enough"] is None
    assert "No point is within 0.005" in render_sweep(report)


def test_a_point_that_failed_is_listed_and_never_enough(params: Params) -> None:
    tried = generated(params, people=100, auc=0.7, base_rate=0.3, seed=1)
    (plan,) = grid(params, noise_multipliers=[8.0], clips=[1.0])
    point = Point(plan, (0.7,), problem="diverged")
    report = sweep_report([point], tried, accountant="pld", reference=0.7)
    assert report["enough"] is None
    assert "diverged" in render_sweep(report)
    assert sweep_csv(report).splitlines()[1].endswith(",diverged")


def test_numbers_of_people_are_marked_not_private_and_of_nobody_are_not() -> None:
    charged, free = _report([0.6], None, "charged"), _report([0.6], 0.6)
    assert charged["points"][0]["auc"]["private"] is False
    assert charged["data"]["private"] is False
    assert "auc_not_private,auc_lowest_not_private" in sweep_csv(charged)
    assert "(not private)" in render_sweep(charged)
    assert free["points"][0]["auc"]["private"] is True
    assert "not_private" not in sweep_csv(free)
