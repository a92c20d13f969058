"""Which plans a sweep tries."""

from typing import Any

import pytest

from lethe.config.params import Params, parse_params
from lethe.core.errors import (
    ParamsInvalid,
)
from lethe.privacy.accounting import epsilon_pld
from lethe.privacy.planning import plan_from
from lethe.sweep.grid import grid, numbers
from tests import trained_run


def test_targets_are_solved_for_and_the_cheapest_point_comes_first(params: Params) -> None:
    plans = grid(params, epsilons=[2.0, 0.5], clips=[0.3, 1.2])
    prices = [epsilon_pld([plan.event], 1e-5) for plan in plans]
    assert prices == sorted(prices)
    assert prices[0] == prices[1] <= 0.5 < prices[2] == prices[3] <= 2.0
    assert min(prices[0] / 0.5, prices[2] / 2.0) > 0.99
    assert [plan.clip_norm for plan in plans] == [0.3, 1.2, 0.3, 1.2]
    assert {plan.records_per_person for plan in plans} == {3}


def test_all_else_of_a_point_is_as_declared(params: Params) -> None:
    (plan,) = grid(params, noise_multipliers=[1.5], clips=[0.7])
    assert plan == trained_run.plan_of(params)


ADAPTIVE = {"quantile": 0.4, "learning_rate": 0.1}


def _declaring(**mechanism: Any) -> Params:
    raw = trained_run.raw()
    raw["training"]["mechanism"].update(mechanism)
    return parse_params(raw)


@pytest.mark.parametrize(
    "declared",
    [
        {"noise": "discrete"},
        {"adaptive": ADAPTIVE},
        {"adaptive": ADAPTIVE | {"count_noise": 9.0}},
        {"records_per_person": 7, "sample_rate": 0.3, "steps": 33},
    ],
)
def test_a_point_runs_the_declared_mechanism_whatever_it_is(declared: dict[str, Any]) -> None:
    """Else a sweep would choose an epsilon for another training than the one that then runs."""
    ready = _declaring(**declared)
    (point,) = grid(ready, noise_multipliers=[1.5], clips=[0.7])
    assert point == plan_from(ready)
    (scaled,) = grid(ready, noise_multipliers=[1.5], clips=[0.7], people=4500)
    batch = ready.training.mechanism.sample_rate * 4500
    assert scaled.expected_batch_size == pytest.approx(batch)
    if declared.get("adaptive") == ADAPTIVE:  # a twentieth of the batch that is expected
        assert scaled.adaptive is not None
        assert scaled.adaptive.count_noise == pytest.approx(batch / 20)


def test_a_clip_that_cannot_be_paid_at_a_point_is_refused_before_anything_runs() -> None:
    ready = _declaring(adaptive=ADAPTIVE | {"count_noise": 1.0})
    with pytest.raises(ParamsInvalid, match="Raise count_noise"):
        grid(ready, noise_multipliers=[1.5, 2.5], clips=[0.7])


def test_one_price_decides_the_other(params: Params) -> None:
    with pytest.raises(ParamsInvalid, match="either --epsilon or --noise-multiplier"):
        grid(params, epsilons=[1.0], noise_multipliers=[1.0])


def test_a_grid_has_an_end(params: Params) -> None:
    with pytest.raises(ParamsInvalid, match="more than 200"):
        grid(params, noise_multipliers=range(1, 203), clips=[1.0])


@pytest.mark.parametrize("text", ["", "1,", "a", "0", "-1", "nan", "inf,1", "1;2"])
def test_lists_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ParamsInvalid, match="--clip takes numbers above 0"):
        numbers(text, option="--clip")


def test_lists_are_rising_and_have_each_once() -> None:
    assert numbers("2,0.5, 2", option="--clip") == (0.5, 2.0)
