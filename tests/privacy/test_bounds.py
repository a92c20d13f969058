"""Bounds from below of what a plan costs: never above the truth, and close to it."""

import math

import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant, privacy_loss_distribution
from scipy import integrate, special

from lethe.privacy import bounds
from lethe.privacy.accounting import dp_sgd_event, epsilon_pld, epsilon_rdp
from lethe.privacy.bounds import epsilon_at_least, epsilon_of_renyi

TUTORIAL = (32 / 60_000, 131_250, 2.0, 1e-5)
HALF = (0.5, 20, 1.0, 1e-3)


def plans(count: int) -> list[tuple[float, int, float, float]]:
    """Plans all over what may be declared; the same ones every time."""
    draw = np.random.default_rng(20)
    return [
        (
            1.0 if draw.random() < 0.05 else float(10 ** draw.uniform(-7, 0)),
            int(10 ** draw.uniform(0, 6)),
            float(10 ** draw.uniform(-1, 3)),
            float(10 ** draw.uniform(-12, -1)),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("part", range(5))
def test_no_honest_plan_is_contradicted(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a coarse grid, which is quick: a bound holds on any."""
    monkeypatch.setattr(bounds, "_MOST_CELLS", 1 << 14)
    for plan in plans(150)[part::5]:
        assert_passes(plan)


def test_no_honest_plan_is_contradicted_on_the_grid_of_an_audit() -> None:
    for plan in plans(158)[150:]:
        assert_passes(plan)


@pytest.mark.parametrize(
    "plan",
    [
        (1.69e-5, 39, 0.674, 2.0e-13),
        (1.34e-6, 7, 0.788, 4.5e-13),
        (3.7e-7, 4222, 0.22, 3.4e-13),
        (1.3e-7, 1255, 0.076, 2.0e-12),
    ],
)
def test_no_honest_plan_is_contradicted_by_rounding(plan: tuple[float, int, float, float]) -> None:
    """At a delta as small as what a transform of a million cells rounds."""
    assert_passes(plan)


def assert_passes(plan: tuple[float, int, float, float]) -> None:
    q, steps, sigma, delta = plan
    event = [dp_sgd_event(q, steps, sigma)]
    rdp, pld = epsilon_rdp(event, delta), epsilon_pld(event, delta)
    assert epsilon_of_renyi(*plan) <= rdp * (1 + 1e-6), plan
    assert epsilon_at_least(*plan, near=pld) <= pld <= rdp, plan


@pytest.mark.parametrize("plan", [TUTORIAL, HALF, (0.01, 1000, 1.0, 1e-5), (0.1, 300, 6.0, 1e-5)])
def test_a_claim_that_is_one_percent_too_small_is_seen(
    plan: tuple[float, int, float, float],
) -> None:
    event, delta = [dp_sgd_event(*plan[:3])], plan[3]
    assert epsilon_of_renyi(*plan) > 0.99 * epsilon_rdp(event, delta)
    pld = 0.99 * epsilon_pld(event, delta)
    assert epsilon_at_least(*plan, near=pld) > pld


def test_an_honest_plan_that_the_default_grid_of_others_contradicts_passes() -> None:
    """The example of a much read tutorial, and a short training at half of everybody."""
    q, steps, sigma, delta = TUTORIAL
    others = PLDAccountant().compose(dp_sgd_event(q, steps, sigma)).get_epsilon(delta)
    assert others > 1.002 * epsilon_pld([dp_sgd_event(q, steps, sigma)], delta)
    q, steps, sigma, delta = HALF
    # Of quadrature at the best order, with 30 digits by mpmath.
    priced = epsilon_rdp([dp_sgd_event(q, steps, sigma)], delta)
    assert epsilon_of_renyi(*HALF) == pytest.approx(priced, rel=1e-9)


def exact_gaussian(sigma: float, steps: int, delta: float) -> float:
    """Balle & Wang (2018), arXiv:1805.06530, theorem 8; steps compose to one of less noise."""
    one = sigma / math.sqrt(steps)
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        lost = special.ndtr(0.5 / one - middle * one) - math.exp(min(middle, 700.0)) * special.ndtr(
            -0.5 / one - middle * one
        )
        low, high = (middle, high) if lost > delta else (low, middle)
    return high


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (10.0, 100), (50.0, 1000), (400.0, 7)])
def test_on_everybody_the_bound_is_just_below_the_exact_epsilon(
    sigma: float, steps: int, delta: float
) -> None:
    exact = exact_gaussian(sigma, steps, delta)
    found = epsilon_at_least(1.0, steps, sigma, delta, near=exact)
    assert 0.994 * exact <= found <= exact


@pytest.mark.parametrize("plan", [(0.01, 1000, 1.0, 1e-5), (0.2, 100, 2.0, 1e-6), HALF])
def test_the_bound_is_below_a_fine_grid_of_others_and_above_their_optimistic_one(
    plan: tuple[float, int, float, float],
) -> None:
    q, steps, sigma, delta = plan
    found = epsilon_at_least(*plan, near=epsilon_pld([dp_sgd_event(q, steps, sigma)], delta))
    fine, coarse = (
        privacy_loss_distribution.from_gaussian_mechanism(
            sigma,
            sampling_prob=q,
            value_discretization_interval=1e-5,
            pessimistic_estimate=pessimistic,
            use_connect_dots=pessimistic,
        )
        .self_compose(steps)
        .get_epsilon_for_delta(delta)
        for pessimistic in (True, False)
    )
    assert 0.998 * coarse <= found <= fine


@pytest.mark.parametrize(
    ("q", "sigma", "order"), [(0.5, 1.0, 3.7), (0.01, 0.6, 1.9), (0.2, 4.0, 21)]
)
def test_the_moment_is_the_integral(q: float, sigma: float, order: float) -> None:
    def integrand(z: float) -> float:
        ratio = 1 - q + q * math.exp((2 * z - 1) / (2 * sigma**2))
        return ratio**order * math.exp(-(z**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    ends = (-12 * sigma, order + 12 * sigma)
    moment, _ = integrate.quad(integrand, *ends, points=[0.0, order], limit=500, epsrel=1e-11)
    assert bounds._log_moment(q, sigma, order) == pytest.approx(math.log(moment), rel=1e-8)
