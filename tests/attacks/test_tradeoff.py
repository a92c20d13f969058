"""Bounds from scores: exact where a formula is known, and never above the truth too often."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from lethe.attacks.tradeoff import Rates, bounded, epsilon_by_tradeoff, least_misses, separation
from lethe.privacy.plan import Plan


def plan(**changes: object) -> Plan:
    numbers: dict[str, object] = {
        "sample_rate": 1.0,
        "steps": 1,
        "records_per_person": 1,
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "expected_batch_size": 10.0,
        "delta": 1e-5,
    }
    return Plan(**(numbers | changes))  # type: ignore[arg-type]


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Balle & Wang (2018), arXiv:1805.06530, theorem 8."""

    def excess(epsilon: float) -> float:
        left = stats.norm.cdf(mu / 2 - epsilon / mu)
        return float(left - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu) - delta)

    return float(optimize.brentq(excess, 0.0, 60.0))


@pytest.mark.parametrize(("steps", "noise"), [(1, 1.0), (4, 2.0), (9, 1.5)])
@pytest.mark.parametrize("false_positives", [0.001, 0.1, 0.5, 0.9])
def test_without_sampling_the_tradeoff_is_the_gaussian_one(
    steps: int, noise: float, false_positives: float
) -> None:
    """Dong, Roth & Su (2022): Phi(Phi^-1(1 - a) - mu), mu = sqrt(steps) / noise."""
    mu = math.sqrt(steps) / noise
    exact = stats.norm.cdf(stats.norm.isf(false_positives) - mu)
    found = least_misses(plan(steps=steps, noise_multiplier=noise), 1.0, false_positives)
    assert found <= exact + 1e-12
    assert found == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("mu", [0.2, 0.7, 2.0, 4.0])
def test_rates_of_a_gaussian_give_its_epsilon(mu: float) -> None:
    rates = Rates(0.2, float(stats.norm.cdf(stats.norm.isf(0.2) - mu)))
    assert separation(rates) == pytest.approx(mu)
    exact, found = gaussian_epsilon(mu, 1e-5), epsilon_by_tradeoff(plan(), rates)
    assert 0.95 * exact < found <= exact * (1 + 1e-3)


@pytest.mark.parametrize("rates", [Rates(0.5, 0.5), Rates(0.2, 0.9), Rates(1.0, 1.0)])
def test_what_chance_does_proves_nothing(rates: Rates) -> None:
    assert epsilon_by_tradeoff(plan(sample_rate=0.2, steps=30, noise_multiplier=2.0), rates) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_rate": 0.3, "steps": 8, "noise_multiplier": 1.2},
        {"sample_rate": 0.05, "steps": 200, "noise_multiplier": 0.9},
        {},
    ],
)
def test_the_tradeoff_of_sampled_steps_is_what_the_best_test_reaches(
    changes: dict[str, float],
) -> None:
    """The exact privacy loss of simulated steps, thresholded: 60,000 trials of each kind."""
    of, random, trials = plan(**changes), np.random.default_rng(8), 60_000
    losses = []
    for inside in (True, False):
        total = np.zeros(trials)
        for _ in range(of.steps):
            drawn = inside * (random.random(trials) < of.sample_rate)
            seen = drawn + of.noise_multiplier * random.normal(size=trials)
            more = np.exp((2 * seen - 1) / (2 * of.noise_multiplier**2))
            total += np.log(1 - of.sample_rate + of.sample_rate * more)
        losses.append(total)
    for level in (0.3, 0.7, 0.95):
        threshold = np.quantile(losses[1], level)
        allowed = least_misses(of, 1.0, float((losses[1] >= threshold).mean()))
        misses = float((losses[0] < threshold).mean())
        # Six standard deviations of both rates; below, also what it gives away where adding a
        # person is another thing than removing one.
        assert -0.03 < allowed - misses < 0.012


def test_a_sound_mechanism_is_contradicted_no_more_often_than_stated() -> None:
    """At alpha = 0.1, 60 times: above 24 but for one in a hundred million (binomial)."""
    of, random = plan(noise_multiplier=0.8), np.random.default_rng(4)
    true = gaussian_epsilon(1 / 0.8, 1e-5)
    by_tradeoff = by_definition = 0
    for number in range(60):
        found = bounded(
            random.normal(1 / 0.8, 1.0, 400), random.normal(0.0, 1.0, 400), of, alpha=0.1
        )
        by_tradeoff += found.allowed > found.rates.misses
        by_definition += found.epsilon > true
        if number < 5:
            low, high = found.interval(1e-7)
            assert low <= true <= high * 1.05
    assert max(by_tradeoff, by_definition) <= 24


@pytest.mark.parametrize("factor", [0.5, 0.8])
def test_less_noise_than_the_plans_is_contradicted_and_shown_as_what_it_costs(
    factor: float,
) -> None:
    of, random = plan(noise_multiplier=0.8), np.random.default_rng(4)
    mu = 1 / (0.8 * factor)
    found = bounded(random.normal(mu, 1.0, 20_000), random.normal(size=20_000), of, alpha=1e-8)
    assert found.allowed > found.rates.misses
    true = gaussian_epsilon(mu, 1e-5)
    assert gaussian_epsilon(1 / 0.8, 1e-5) < found.epsilon_by_tradeoff < true
    low, high = found.interval(1e-7)
    assert low < true < high * 1.05
    assert found.epsilon < true
