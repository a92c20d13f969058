"""The accountants against published values, closed forms, and another implementation."""

import itertools
import math

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy import special, stats

from lethe.core.errors import LedgerInvalid, ParamsInvalid
from lethe.privacy import accounting, renyi
from lethe.privacy.accounting import (
    dp_sgd_event,
    epsilon_pld,
    epsilon_pld_of_group,
    epsilon_rdp,
    solve_noise_multiplier,
)
from lethe.privacy.bounds import epsilon_at_least
from lethe.privacy.events import Leaf
from lethe.privacy.pld import epsilon_of_losses
from lethe.privacy.renyi import ORDERS, rdp_vector

TFP = "tensorflow/privacy, compute_dp_sgd_privacy_lib_test.py"
OPACUS = "pytorch/opacus, tests/accountants_test.py"
ABADI = "Abadi et al. (2016), arXiv:1607.00133, figure 2 (1.26 by the moments accountant)"
TUTORIAL = "tensorflow/privacy, MNIST tutorial table (published there by an older, looser bound)"


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "delta", "rdp", "pld", "tolerance", "source"),
    [
        (256 / 60_000, 1.1, 14_063, 1e-5, 2.597, 2.382, 1e-3, TUTORIAL),
        (250 / 60_000, 1.3, 3_600, 1e-5, 0.942, 0.853, 1e-3, TUTORIAL),
        (0.04, 1.5, 2_250, 1e-5, 7.32911117143, 6.769, 1e-3, OPACUS),
        (0.01, 4.0, 10_000, 1e-5, 1.035, 0.947, 1e-3, ABADI),
        (150 / 60_000, 1.3, 6_000, 1e-5, 0.7242234026109595, None, 1e-9, TFP),
        (100 / 100_000, 1.0, 30_000, 1e-7, 1.4154988495444845, None, 1e-9, TFP),
        (0.01, 0.7, 120, 1e-5, 3.2391922, 2.4612381, 1e-4, TFP),
        (1.0, 0.7, 2, 1e-5, 10.8602036, 10.1224946, 5e-4, TFP),
        (64 / 10_000, 1.0, 782, 1e-6, 1.616, 1.199, 1e-3, TFP + ", the printed statement"),
        # From there too: noise chosen to make exactly (1, 1e-6) by RDP.
        (1.0, 4.530877117, 1, 1e-6, 1.0, None, 1e-6, "google/differential-privacy, rdp test"),
    ],
)
def test_published_values_are_reproduced(
    q: float,
    sigma: float,
    steps: int,
    delta: float,
    rdp: float,
    pld: float | None,
    tolerance: float,
    source: str,
) -> None:
    event = dp_sgd_event(q, steps, sigma)
    assert epsilon_rdp([event], delta) == pytest.approx(rdp, abs=tolerance), source
    if pld is not None:
        assert epsilon_pld([event], delta) == pytest.approx(pld, abs=tolerance), source


def test_noise_for_a_target_is_the_published_one() -> None:
    # pytorch/opacus, tests/accountants_test.py: epsilon 8 at 1e-5, q=0.04, 90 epochs.
    assert solve_noise_multiplier(0.04, 2250, 8.0, 1e-5, "rdp") == pytest.approx(1.416, abs=1e-3)
    # There 1.3477 by PRV, which stops within 0.01 of the target epsilon.
    assert solve_noise_multiplier(0.04, 2250, 8.0, 1e-5, "pld") == pytest.approx(1.3477, abs=3e-3)


@pytest.mark.parametrize(
    ("records", "expected"), [(1, 1.83), (2, 3.98), (3, 6.34), (5, 11.64), (10, 27.9)]
)
def test_records_of_one_person_drawn_apart_cost_as_a_mixture(records: int, expected: float) -> None:
    # By dp_accounting's mixture-of-Gaussians PLD: q=0.01, sigma=1, 1000 steps, delta 1e-5.
    found = epsilon_pld_of_group(0.01, 1000, 1.0, 1e-5, records=records)
    assert found == pytest.approx(expected, abs=0.005)


# --- closed forms


def exact_gaussian_delta(epsilon: float, sigma: float) -> float:
    """Balle & Wang (2018), arXiv:1805.06530, theorem 8."""
    below = special.ndtr(0.5 / sigma - epsilon * sigma)
    return float(below - math.exp(epsilon) * special.ndtr(-0.5 / sigma - epsilon * sigma))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_gaussian_pld_is_just_above_the_exact_epsilon(sigma: float, delta: float) -> None:
    found = epsilon_pld([dp.GaussianDpEvent(sigma)], delta)
    assert exact_gaussian_delta(found, sigma) <= delta * (1 + 1e-9)
    assert exact_gaussian_delta(found * (1 - 2e-4) - 1e-6, sigma) >= delta


@pytest.mark.parametrize(
    ("q", "sigma", "delta"), [(0.1, 1.0, 1e-5), (0.5, 0.6, 1e-6), (0.01, 0.5, 1e-4)]
)
def test_one_sampled_gaussian_step_is_just_above_the_exact_epsilon(
    q: float, sigma: float, delta: float
) -> None:
    # Amplification by Poisson sampling (remove): delta_q(log(1 + q (e^e - 1))) = q delta(e).
    inner = next(
        e for e in np.linspace(0, 60, 600_001) if exact_gaussian_delta(e, sigma) <= delta / q
    )
    exact = math.log1p(q * math.expm1(inner))
    found = epsilon_pld([dp_sgd_event(q, 1, sigma)], delta)
    assert exact - 2e-4 <= found <= exact + 2e-3


def test_pure_laplace_composes_to_the_sum_where_delta_is_tiny() -> None:
    event = dp.SelfComposedDpEvent(dp.LaplaceDpEvent(2.0), 4)  # four times epsilon 0.5
    assert epsilon_pld([event], 1e-12) == pytest.approx(2.0, abs=1e-6)
    assert epsilon_pld([event], 1e-12) <= 2.0 + 1e-9
    assert epsilon_rdp([event], 1e-12) >= 1.9


def test_one_laplace_is_exact() -> None:
    # P(loss > e) gives delta(e) = 1 - exp((e - 1/b) / 2) for 0 <= e <= 1/b.
    exact = 1.0 + 2 * math.log1p(-1e-3)
    assert epsilon_pld([dp.LaplaceDpEvent(1.0)], 1e-3) == pytest.approx(exact, abs=1e-5)


def response(epsilon: float) -> dp.DpEvent:
    """Binary randomized response at that epsilon: answers truly with odds e^epsilon."""
    return dp.RandomizedResponseDpEvent(2 / (math.exp(epsilon) + 1), 2)


def test_randomized_response_costs_the_logarithm_of_its_odds() -> None:
    assert epsilon_pld([response(1.0)], 1e-12) == pytest.approx(1.0, abs=1e-9)
    # Of k buckets: ln((1 - p + p/k) / (p/k)).
    event = dp.RandomizedResponseDpEvent(0.4, 5)
    assert epsilon_pld([event], 1e-12) == pytest.approx(math.log(0.68 / 0.08), abs=1e-9)


@pytest.mark.parametrize("composed", ["by count", "as list", "nested"])
def test_ten_randomized_responses_cost_ten_times_one(composed: str) -> None:
    # dp_accounting 0.6's PLD accountant ignores the count and says 1.0.
    one = response(1.0)
    event = {
        "by count": dp.SelfComposedDpEvent(one, 10),
        "as list": dp.ComposedDpEvent([one] * 10),
        "nested": dp.SelfComposedDpEvent(dp.SelfComposedDpEvent(one, 5), 2),
    }[composed]
    assert epsilon_pld([event], 1e-12) == pytest.approx(10.0, abs=1e-6)
    # Exactly: k of ten answers as they are has loss 2k - 10 and binomial probability.
    k = np.arange(11)
    mass, loss = stats.binom.pmf(k, 10, math.e / (1 + math.e)), 2.0 * k - 10
    at = epsilon_pld([event], 1e-2)
    assert float(mass @ np.maximum(0, -np.expm1(at - loss))) == pytest.approx(1e-2, rel=1e-6)


# --- another implementation


@pytest.mark.parametrize(
    ("event", "count"),
    [
        (dp.PoissonSampledDpEvent(0.001, dp.GaussianDpEvent(0.6)), 5_000),
        (dp.PoissonSampledDpEvent(0.5, dp.GaussianDpEvent(10.0)), 100),
        (dp.PoissonSampledDpEvent(0.9, dp.GaussianDpEvent(5.0)), 50),
        (dp.LaplaceDpEvent(5.0), 100),
        (dp.PoissonSampledDpEvent(0.1, dp.LaplaceDpEvent(1.0)), 100),
        (dp_event.DiscreteLaplaceDpEvent(0.5, 3), 10),
        (dp.GaussianDpEvent(6.0), 9),
    ],
    ids=str,
)
def test_pld_agrees_with_the_reference_accountant(event: dp.DpEvent, count: int) -> None:
    reference = PLDAccountant().compose(event, count).get_epsilon(1e-5)
    found = epsilon_pld([dp.SelfComposedDpEvent(event, count)], 1e-5)
    assert found == pytest.approx(reference, abs=5e-4)


def test_heterogeneous_history_agrees_with_the_reference_accountants() -> None:
    history = [
        dp_sgd_event(0.02, 400, 1.2),
        dp_sgd_event(0.1, 50, 3.0),
        dp.GaussianDpEvent(8.0),
        dp.LaplaceDpEvent(10.0),
    ]
    pld, rdp = PLDAccountant(), RdpAccountant()
    for event in history:
        pld.compose(event)
        rdp.compose(event)
    assert epsilon_pld(history, 1e-5) == pytest.approx(pld.get_epsilon(1e-5), abs=1e-3)
    assert epsilon_rdp(history, 1e-5) == pytest.approx(rdp.get_epsilon(1e-5), abs=1e-3)


@pytest.mark.parametrize(
    ("leaf", "event"),
    [
        (Leaf("gaussian", 2.0), dp.GaussianDpEvent(2.0)),
        (Leaf("laplace", 0.5), dp.LaplaceDpEvent(0.5)),
        (Leaf("laplace", 50.0), dp.LaplaceDpEvent(50.0)),
        (Leaf("randomized_response", 0.3, 4), dp.RandomizedResponseDpEvent(0.3, 4)),
    ],
    ids=str,
)
def test_rdp_vectors_are_the_reference_ones(leaf: Leaf, event: dp.DpEvent) -> None:
    relation = (
        NeighboringRelation.REPLACE_ONE
        if leaf.kind == "randomized_response"
        else NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    reference = RdpAccountant(list(ORDERS), relation).compose(event).rdp
    np.testing.assert_allclose(rdp_vector({leaf: 1}), reference, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("q", "sigma"), [(0.01, 1.0), (0.5, 3.0), (0.2, 0.5), (1e-4, 0.7)])
def test_rdp_of_sampled_gaussian_is_its_integral(q: float, sigma: float) -> None:
    # Mironov, Talwar & Zhang (2019), arXiv:1908.10530, by brute force on a dense grid.
    z = np.linspace(-12 * sigma, 64 + 12 * sigma, 400_001)
    log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * z - 1) / (2 * sigma**2))
    log_density = stats.norm.logpdf(z, 0, sigma)
    found = rdp_vector({Leaf("gaussian", sigma, 1, q): 1})
    for order in (1.1, 1.5, 2.0, 3.3, 10.9, 17.0, 40.0):
        log_a = special.logsumexp(log_density + order * log_ratio) + math.log(z[1] - z[0])
        at = int(np.argmin(abs(ORDERS - order)))
        assert found[at] == pytest.approx(log_a / (order - 1), rel=1e-6, abs=1e-10)


def test_sampled_laplace_costs_more_by_rdp_than_by_pld_and_less_than_unsampled() -> None:
    event = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.1, dp.LaplaceDpEvent(1.0)), 50)
    unsampled = dp.SelfComposedDpEvent(dp.LaplaceDpEvent(1.0), 50)
    by_rdp = epsilon_rdp([event], 1e-6)
    assert epsilon_pld([event], 1e-6) <= by_rdp < 0.3 * epsilon_rdp([unsampled], 1e-6)
    # Also never above its pure bound by more than the largest order leaves.
    pure = 50 * math.log1p(0.1 * math.expm1(1.0))
    assert by_rdp <= pure + math.log(1e6) / 1023


# --- what every history promises


def test_price_never_falls_when_something_is_added() -> None:
    events: list[dp.DpEvent] = []
    spent = [(0.0, 0.0)]
    for event in [
        dp_sgd_event(0.05, 100, 2.0),
        dp.LaplaceDpEvent(20.0),
        response(0.1),
        dp.GaussianDpEvent(30.0),
        dp_sgd_event(0.01, 10, 5.0),
        dp_event.NoOpDpEvent(),
    ]:
        events.append(event)
        spent.append((epsilon_rdp(events, 1e-5), epsilon_pld(events, 1e-5)))
    for before, after in itertools.pairwise(spent):
        assert after[0] >= before[0]
        assert after[1] >= before[1] - 1e-4 * before[1]


def test_nothing_costs_nothing() -> None:
    assert epsilon_rdp([], 1e-5) == 0.0
    assert epsilon_pld([], 1e-5) == 0.0


def test_finer_grids_give_lower_epsilons_down_to_the_true_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = [(Leaf("gaussian", 1.5, 1, 0.04), 500)]
    found = []
    for fineness in (10, 30, 100, 400):
        monkeypatch.setattr("lethe.privacy.pld._FINE", fineness)
        found.append(epsilon_of_losses(history, 1e-5))
    assert found == sorted(found, reverse=True)


def test_answering_truly_is_unbounded() -> None:
    event = dp.RandomizedResponseDpEvent(0.0, 2)
    assert epsilon_rdp([event], 1e-5) == math.inf
    assert epsilon_pld([event], 1e-5) == math.inf


def test_hardly_any_noise_still_has_a_finite_price_by_both() -> None:
    event = dp_sgd_event(0.1, 300, 0.001)
    assert 1e6 < epsilon_pld([event], 1e-5) <= epsilon_rdp([event], 1e-5) < math.inf


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_delta_outside_its_range_is_refused(delta: float) -> None:
    for price in (epsilon_rdp, epsilon_pld):
        with pytest.raises(ParamsInvalid, match="delta"):
            price([dp.GaussianDpEvent(1.0)], delta)


# --- solving for the noise


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize(
    ("q", "steps", "target"), [(0.1, 300, 1.0), (0.01, 1000, 2.0), (1.0, 1, 0.5), (0.5, 10, 20.0)]
)
def test_solved_noise_is_within_the_target_and_no_larger_than_needed(
    accountant: accounting.Accountant, q: float, steps: int, target: float
) -> None:
    solved = solve_noise_multiplier(q, steps, target, 1e-5, accountant)
    price = {"rdp": epsilon_rdp, "pld": epsilon_pld}[accountant]
    assert price([dp_sgd_event(q, steps, solved)], 1e-5) <= target
    assert price([dp_sgd_event(q, steps, solved - 2e-4)], 1e-5) > target


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_impossible_target_is_refused(target: float) -> None:
    with pytest.raises(ParamsInvalid, match="target epsilon"):
        solve_noise_multiplier(0.1, 10, target, 1e-5, "rdp")


def test_target_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(ParamsInvalid, match="No noise multiplier"):
        solve_noise_multiplier(1.0, 1_000_000, 1e-9, 1e-15, "rdp")


def test_solution_that_costs_too_much_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "_least", lambda enough, *, start: 1000)
    with pytest.raises(LedgerInvalid, match="costs more"):
        solve_noise_multiplier(0.5, 1000, 0.1, 1e-5, "rdp")


# --- at the ends of what may be declared


@pytest.mark.parametrize(
    ("delta", "expected"), [(1e-5, 504.6), (1e-6, 519.6033716196603), (1e-9, 558.2)]
)
def test_pld_above_500_is_not_below_the_truth(delta: float, expected: float) -> None:
    # 1e-6: by dp_accounting's grid at 1e-4; all are held against a bound from below.
    plan = (0.025163411809434603, 168_729, 0.6504720566751937)
    found = epsilon_pld([dp_sgd_event(*plan)], delta)
    assert found >= epsilon_at_least(*plan, delta, near=found) > expected - 3


@pytest.mark.parametrize(
    ("q", "steps", "sigma"), [(1e-6, 10, 0.5), (0.01, 10, 0.1), (1e-8, 100, 0.5)]
)
@pytest.mark.parametrize("delta", [1e-5, 1e-9, 1e-13])
def test_pld_is_never_above_rdp(q: float, steps: int, sigma: float, delta: float) -> None:
    event = [dp_sgd_event(q, steps, sigma)]
    assert epsilon_pld(event, delta) <= epsilon_rdp(event, delta)


@pytest.mark.parametrize("q", [1e-9, 1e-8, 1e-7])
@pytest.mark.parametrize("sigma", [0.7, 1.0, 5.0])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_no_step_is_free_by_rounding(q: float, sigma: float, share: float) -> None:
    # Epsilon is 0 only if delta is at least the total variation: of one step q (2 Phi(1/2s) - 1).
    delta = share * q * (2 * float(stats.norm.cdf(0.5 / sigma)) - 1)
    assert epsilon_rdp([dp_sgd_event(q, 1, sigma)], delta) > 0


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.5])
def test_where_an_integral_would_be_long_a_chord_bounds_it(
    sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = rdp_vector({Leaf("gaussian", sigma, sample_rate=0.01): 1})
    monkeypatch.setattr(renyi, "_MOST_NODES", 1)
    renyi._rdp_of.cache_clear()
    chords = rdp_vector({Leaf("gaussian", sigma, sample_rate=0.01): 1})
    renyi._rdp_of.cache_clear()
    assert (chords >= exact * (1 - 1e-12)).all()
    whole = np.round(ORDERS) == ORDERS
    assert (chords[whole] == exact[whole]).all()
