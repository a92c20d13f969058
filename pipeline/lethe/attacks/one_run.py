"""A lower bound on epsilon from one training with canaries: people who were put in by a coin.

The auditor makes up `canaries` people and puts each in, or leaves it out, by a fair coin. After
the training it gives every canary a score, guesses "in" for the highest and "out" for the lowest,
and abstains on the rest. An (epsilon, delta) claim bounds how many guesses can be right, whatever
the scores are and however canaries influence each other: so many that this is improbable
contradict it. Pure functions; nothing is trained here.

Source: Steinke, Nasr & Jagielski (2023), arXiv:2305.08846: algorithm 1, theorem 5.2, and its
    corollaries 5.4 (guesses with abstentions) and 5.8 (several numbers of guesses).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from lethe.attacks.statistics import Floats

# Fixed before anything is seen: which share of the canaries is guessed.
GUESSED = (0.05, 0.2, 0.5, 1.0)
_MOST_EPSILON = 64.0


@dataclass(frozen=True)
class Guessed:
    """What came of the best of the registered numbers of guesses.

    Attributes:
        canaries: for whom a coin was thrown.
        guesses: how many of them were guessed.
        correct: how many guesses were right.
        epsilon: which the mechanism has at least.
        confidence: with which that is so.
    """

    canaries: int
    guesses: int
    correct: int
    epsilon: float
    confidence: float

    def to_data(self) -> dict[str, Any]:
        return {
            "canaries": self.canaries,
            "confidence": self.confidence,
            "correct": self.correct,
            "epsilon_lower_bound": self.epsilon,
            "guesses": self.guesses,
        }


def p_value(correct: int, *, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """How probable so many right guesses are at most, under (epsilon, delta)-DP.

    Guarantee: never below the true probability, for any mechanism that keeps the claim for each
        single canary, and coins that are fair and independent.
    Source: corollary 5.4: f(v) + 2 m delta max_i (f(v - i) - f(v)) / i, where f(v) is the
        probability that a binomial of `guesses` trials at e^epsilon / (1 + e^epsilon) is v or more.
    """
    law = stats.binom(guesses, special.expit(epsilon))
    reached = float(law.sf(correct - 1))
    if correct == 0 or delta == 0:
        return reached
    fewer = np.arange(1, correct + 1)
    # The probability of `correct` - i to `correct` - 1, summed from the small terms up.
    between = np.cumsum(law.pmf(correct - fewer))
    slack = 2 * canaries * delta * float((between / fewer).max())
    return min(1.0, reached + slack)


def epsilon_at_least(
    correct: int, *, guesses: int, canaries: int, delta: float, alpha: float
) -> float:
    """The largest epsilon that so many right guesses refute, wrongly with probability `alpha`.

    0 if they refute none. Rounded down.
    """

    def refuted(epsilon: float) -> bool:
        found = p_value(correct, guesses=guesses, canaries=canaries, epsilon=epsilon, delta=delta)
        return found < alpha

    low, high = 0.0, _MOST_EPSILON
    if not refuted(low):
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def right_guesses(scores: Floats, included: npt.NDArray[np.bool_], guesses: int) -> int:
    """How many are right: half of the guesses "in" for the highest scores, half "out".

    Shapes: one score and one coin a canary. Ties are in the order given: shuffle them before.
    """
    order = np.argsort(scores, kind="stable")
    low, high = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
    return int((~included[low]).sum() + included[high].sum())


def best_bound(
    scores: Floats,
    included: npt.NDArray[np.bool_],
    *,
    delta: float,
    alpha: float,
    guessed: Sequence[float] = GUESSED,
) -> Guessed:
    """The best bound of the registered numbers of guesses; wrong with probability `alpha` at most.

    Each has its part of `alpha`, so that to take the best costs no confidence.

    Raises:
        ValueError: a score is NaN; or there are not as many scores as coins, or none.
    """
    if len(scores) != len(included) or not len(scores) or np.isnan(scores).any():
        raise ValueError("every canary has one score, which is a number, and one coin")
    found = []
    for share in guessed:
        guesses = max(1, math.floor(share * len(scores)))
        correct = right_guesses(scores, included, guesses)
        epsilon = epsilon_at_least(
            correct,
            guesses=guesses,
            canaries=len(scores),
            delta=delta,
            alpha=alpha / len(guessed),
        )
        found.append(Guessed(len(scores), guesses, correct, epsilon, 1 - alpha))
    return max(found, key=lambda each: each.epsilon)
