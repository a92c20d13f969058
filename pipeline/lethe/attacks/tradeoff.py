"""From many scores with and without a canary to lower bounds on epsilon.

A mechanism is described by its trade-off: how rarely a test misses the canary at best, at each
rate of false positives. Rates are counted, so each is bounded by an exact binomial interval
(Clopper & Pearson); what epsilon they prove is then read off in two ways.

    by the definition    ln((TPR - delta) / FPR): assumes nothing of the mechanism
    by the trade-off     the least noise with which the plan (its sampling, its steps) would be
                         distinguished as well as that, and what the plan costs at that noise

The second is far closer to the truth. That it is an epsilon of what ran rests on the mechanism
being the plan's but for its noise; that the plan is contradicted where it lies above the plan's
own price rests on nothing.

Source: Nasr et al. (2023), arXiv:2302.07956, section 4; Kairouz et al. (2015), arXiv:1311.0776;
    Dong, Roth & Su (2022), arXiv:1905.02383, proposition 2.12 (trade-off of a curve of deltas).
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_gaussian_mechanism,
)
from scipy import stats

from lethe.attacks.membership import empirical_epsilon
from lethe.attacks.statistics import Floats, clopper_pearson
from lethe.privacy.events import Leaf
from lethe.privacy.plan import Plan
from lethe.privacy.pld import epsilon_of_losses

LEVELS = tuple(float(level) for level in np.linspace(0.02, 0.98, 49))  # of thresholds, in scores
_POINTS = 1000  # of the curve of deltas
_NOISES = 2.0 ** (np.arange(-128, 161) / 32)  # times the plan's noise: each is tried
_CELLS, _FINENESS = 3000, 5  # of a grid of losses: over all of them, and a step's deviation
_LEAST_CELL = 1e-6


@dataclass(frozen=True)
class Rates:
    """What a test did: its rates of false positives and of misses, at most."""

    false_positives: float
    misses: float


@dataclass(frozen=True)
class Bounded:
    """Lower bounds on epsilon at the plan's delta, from the same scores.

    Attributes:
        epsilon: by the definition.
        rates: of the test that the bound by the trade-off rests on.
        allowed: the least misses that the plan allows at these false positives.
        counts: false positives of how many, misses of how many, of that test.
        confidence: of either bound.
    """

    plan: Plan
    epsilon: float
    rates: Rates
    allowed: float
    counts: tuple[tuple[int, int], tuple[int, int]]
    confidence: float

    @cached_property
    def epsilon_by_tradeoff(self) -> float:
        return epsilon_by_tradeoff(self.plan, self.rates)

    @cached_property
    def priced(self) -> float:
        """What the plan itself costs by the same computation; no sound one is above."""
        return _epsilon(self.plan, 1.0)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Around the epsilon by the trade-off, wrong with probability `alpha`; to be looked at."""
        ends = [
            [clopper_pearson(count, of, alpha=alpha / 4)[end] for count, of in self.counts]
            for end in (1, 0)
        ]
        low, high = (epsilon_by_tradeoff(self.plan, Rates(*each)) for each in ends)
        return low, high

    def to_data(self) -> dict[str, Any]:
        (_, out), (_, inside) = self.counts
        return {
            "epsilon_by_definition": self.epsilon,
            "epsilon_by_tradeoff": self.epsilon_by_tradeoff,
            "trials_in": inside,
            "trials_out": out,
        }


def bounded(scores_in: Floats, scores_out: Floats, plan: Plan, *, alpha: float) -> Bounded:
    """Both bounds; each is above the truth with probability `alpha` at most.

    The first quarter of the scores chooses the threshold, the others alone give the bound.
    Shapes: one score a trial, each trial independent of the others, in random order.
    """
    few_in, few_out = len(scores_in) // 4, len(scores_out) // 4
    first = scores_in[:few_in], scores_out[:few_out]
    second = scores_in[few_in:], scores_out[few_out:]
    at = np.unique(np.concatenate([np.quantile(scores, LEVELS) for scores in first]))
    # And just above each: many trials may have the same score.
    tried = np.unique(np.concatenate([at, np.nextafter(at, np.inf)]))
    threshold = max(tried, key=lambda each: separation(rates(*first, float(each), alpha=alpha)))
    found, of = rates(*second, float(threshold), alpha=alpha), counts(*second, float(threshold))
    return Bounded(
        plan=plan,
        epsilon=empirical_epsilon(scores_in, scores_out, delta=plan.delta, alpha=alpha),
        rates=found,
        allowed=least_misses(plan, 1.0, found.false_positives),
        counts=of,
        confidence=1 - alpha,
    )


def counts(
    scores_in: Floats, scores_out: Floats, threshold: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """False positives of how many, and misses of how many, of "in where it is at least that"."""
    wrong, missed = int((scores_out >= threshold).sum()), int((scores_in < threshold).sum())
    return (wrong, len(scores_out)), (missed, len(scores_in))


def rates(scores_in: Floats, scores_out: Floats, threshold: float, *, alpha: float) -> Rates:
    """Of the same test; both bounds hold together but for `alpha`."""
    counted = counts(scores_in, scores_out, threshold)
    return Rates(*(clopper_pearson(count, of, alpha=alpha / 2)[1] for count, of in counted))


def separation(found: Rates) -> float:
    """Standard deviations between in and out, if both were normal: mu of Gaussian DP."""
    return float(stats.norm.isf(found.false_positives) - stats.norm.ppf(found.misses))


def epsilon_by_tradeoff(plan: Plan, found: Rates) -> float:
    """What the plan costs at the most noise with which a test could reach these rates.

    0 where they show next to nothing. Rounded down by up to the least change of noise that is
    tried, 2 %.

    Guarantee: below `priced` of the plan where its own mechanism has such rates: every step of
        the computation errs to that side.
    """
    reached = [int(np.flatnonzero(_NOISES == 1)[0]), len(_NOISES) - 1]  # where it is tried first
    low, high = 0, len(_NOISES)  # at `high` the noise is too much for these rates
    while high - low > 1:
        middle = reached.pop(0) if reached else (low + high) // 2
        if not low < middle < high:
            continue
        enough = least_misses(plan, float(_NOISES[middle]), found.false_positives) <= found.misses
        low, high = (middle, high) if enough else (low, middle)
    return 0.0 if high == len(_NOISES) else _epsilon(plan, float(_NOISES[high]))


def least_misses(plan: Plan, noise: float, false_positives: float) -> float:
    """The trade-off of the plan at `noise` times its own, from below."""
    epsilons, deltas = _curve(plan, noise)
    reached = np.maximum(
        1 - deltas - np.exp(epsilons) * false_positives,
        np.exp(-epsilons) * (1 - deltas - false_positives),
    )
    return max(0.0, float(reached.max()))


@lru_cache(maxsize=256)
def _curve(plan: Plan, noise: float) -> tuple[Floats, Floats]:
    """(epsilon, delta) of the plan at `noise` times its own; no delta below the true one."""
    losses = _losses(plan, noise)
    epsilons: Floats = np.linspace(0.0, _widest(plan, noise), _POINTS)
    deltas: Floats = np.asarray(losses.get_delta_for_epsilon(epsilons)).clip(0.0, 1.0)
    return epsilons, deltas


@lru_cache(maxsize=256)
def _epsilon(plan: Plan, noise: float) -> float:
    return float(_losses(plan, noise).get_epsilon_for_delta(plan.delta))


@lru_cache(maxsize=8)
def _losses(plan: Plan, noise: float) -> PrivacyLossDistribution:
    """By another library than the claim's; pessimistic, as its default is."""
    sigma = plan.noise_multiplier * noise
    deviation = plan.sample_rate * math.sqrt(math.expm1(min(sigma**-2, 50.0)))
    cell = min(_widest(plan, noise) / _CELLS, deviation / _FINENESS)
    once = from_gaussian_mechanism(
        sigma,
        sampling_prob=plan.sample_rate,
        value_discretization_interval=max(_LEAST_CELL, cell),
    )
    return once.self_compose(plan.steps)


@lru_cache(maxsize=256)
def _widest(plan: Plan, noise: float) -> float:
    """An epsilon that losses hardly ever exceed."""
    leaf = Leaf("gaussian", plan.noise_multiplier * noise, 1, plan.sample_rate)
    return max(1e-3, min(700.0, epsilon_of_losses([(leaf, plan.steps)], 1e-12)))
