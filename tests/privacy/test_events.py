"""Events survive the ledger as data, and nothing else does."""

import json
from collections import Counter
from typing import Any

import dp_accounting as dp
import pytest
from dp_accounting import dp_event

from lethe.core.errors import LedgerInvalid
from lethe.privacy.events import Leaf, event_from_data, event_to_data, leaves

EVENTS = [
    dp_event.NoOpDpEvent(),
    dp.GaussianDpEvent(1.5),
    dp.LaplaceDpEvent(2.0),
    dp_event.DiscreteLaplaceDpEvent(0.5, 3),
    dp.RandomizedResponseDpEvent(0.25, 4),
    dp.PoissonSampledDpEvent(0.01, dp.GaussianDpEvent(1.0)),
    dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.1, dp.LaplaceDpEvent(1.0)), 300),
    dp.ComposedDpEvent([dp.GaussianDpEvent(1.0), dp.ComposedDpEvent([dp.LaplaceDpEvent(3.0)])]),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_event_comes_back_from_json_as_it_was(event: dp.DpEvent) -> None:
    assert event_from_data(json.loads(json.dumps(event_to_data(event)))) == event


@pytest.mark.parametrize(
    "event",
    [
        dp.NonPrivateDpEvent(),
        dp.UnsupportedDpEvent(),
        dp_event.ZCDpEvent(1.0),
        dp.SampledWithoutReplacementDpEvent(100, 10, dp.GaussianDpEvent(1.0)),
        dp.SelfComposedDpEvent(dp.NonPrivateDpEvent(), 2),
    ],
    ids=lambda event: type(event).__name__,
)
def test_event_of_an_unknown_kind_is_refused(event: dp.DpEvent) -> None:
    with pytest.raises(LedgerInvalid, match="no known kind"):
        event_to_data(event)
    with pytest.raises(LedgerInvalid, match="no known kind"):
        leaves([event])


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"kind": "os.system", "command": "true"},
        {"kind": ["gaussian"], "noise_multiplier": 1.0},
        {"kind": "gaussian"},
        {"kind": "gaussian", "noise_multiplier": 1.0, "module_name": "os"},
        {"kind": "gaussian", "noise_multiplier": "1.0"},
        {"kind": "gaussian", "noise_multiplier": True},
        {"kind": "gaussian", "noise_multiplier": 0.0},
        {"kind": "gaussian", "noise_multiplier": -1.0},
        {"kind": "gaussian", "noise_multiplier": float("nan")},
        {"kind": "gaussian", "noise_multiplier": float("inf")},
        {"kind": "poisson_sampled", "sampling_probability": 1.5, "event": {"kind": "no_op"}},
        {"kind": "self_composed", "count": 0, "event": {"kind": "no_op"}},
        {"kind": "self_composed", "count": 1.5, "event": {"kind": "no_op"}},
        {"kind": "composed", "events": {"kind": "no_op"}},
    ],
)
def test_data_that_is_no_event_is_refused(data: Any) -> None:
    with pytest.raises(LedgerInvalid):
        event_from_data(data)


def test_data_that_nests_without_end_is_refused() -> None:
    data: dict[str, Any] = {"kind": "no_op"}
    for _ in range(50):
        data = {"kind": "self_composed", "count": 2, "event": data}
    with pytest.raises(LedgerInvalid, match="nests"):
        event_from_data(data)


def test_history_does_not_depend_on_how_it_was_composed() -> None:
    step = dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(2.0))
    laplace = dp.LaplaceDpEvent(4.0)
    nested = dp.SelfComposedDpEvent(
        dp.ComposedDpEvent([dp.SelfComposedDpEvent(step, 10), laplace]), 3
    )
    flat = [laplace, *[step] * 30, laplace, laplace]

    expected = Counter({Leaf("gaussian", 2.0, 1, 0.1): 30, Leaf("laplace", 4.0): 3})
    assert leaves([nested]) == leaves(flat) == expected


def test_what_costs_nothing_is_no_part_of_a_history() -> None:
    free = [
        dp_event.NoOpDpEvent(),
        dp.PoissonSampledDpEvent(0.0, dp.GaussianDpEvent(1.0)),
        dp.RandomizedResponseDpEvent(1.0, 2),
        dp.RandomizedResponseDpEvent(0.1, 1),
        dp.ComposedDpEvent([]),
    ]
    assert leaves(free) == Counter()


def test_sampling_at_rate_one_is_no_sampling() -> None:
    event = dp.PoissonSampledDpEvent(1.0, dp.GaussianDpEvent(3.0))
    assert leaves([event]) == Counter({Leaf("gaussian", 3.0): 1})


def test_gaussians_on_one_sample_are_one_gaussian() -> None:
    # Two with noise sigma on the same draw move like one with noise sigma / sqrt(2).
    inner = dp.SelfComposedDpEvent(dp.GaussianDpEvent(2.0), 4)
    (leaf,) = leaves([dp.PoissonSampledDpEvent(0.5, inner)])
    assert leaf == Leaf("gaussian", pytest.approx(1.0), 1, 0.5)  # type: ignore[arg-type]


def test_different_mechanisms_on_one_sample_are_refused() -> None:
    inner = dp.ComposedDpEvent([dp.GaussianDpEvent(2.0), dp.LaplaceDpEvent(1.0)])
    with pytest.raises(LedgerInvalid, match="one mechanism"):
        leaves([dp.PoissonSampledDpEvent(0.5, inner)])
