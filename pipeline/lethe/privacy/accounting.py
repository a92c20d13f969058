"""What a history of privacy events costs one person: epsilon at a delta.

Two accountants over the same events. Renyi (RDP) is what budgets are held to, since a
limit on it stays valid when later runs were chosen by looking at earlier ones. The
privacy loss distribution (PLD) is tighter for a fixed history and is reported beside it.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import dp_accounting as dp

from lethe.core.errors import LedgerInvalid, ParamsInvalid
from lethe.privacy.events import Leaf, leaves
from lethe.privacy.pld import epsilon_of_losses
from lethe.privacy.renyi import epsilon_of, rdp_vector

Accountant = Literal["rdp", "pld"]
_STEP = 1e-4  # solved noise multipliers are whole multiples of it
_LARGEST_NOISE = 1e5


def epsilon_rdp(events: Sequence[dp.DpEvent], delta: float) -> float:
    """Epsilon at `delta` of all events together, by Renyi DP.

    Guarantees: valid also when later events were chosen by earlier answers; never falls when
        an event is added; does not depend on their order.
    """
    return _by_rdp(_key(events), _checked_delta(delta))


def epsilon_pld(events: Sequence[dp.DpEvent], delta: float) -> float:
    """Epsilon at `delta` of all events together, by their privacy loss distribution.

    Guarantees: rounded to the private side, never below the true value, never above that by
        RDP; for a history fixed beforehand.
    """
    return _by_pld(_key(events), _checked_delta(delta))


def dp_sgd_event(sample_rate: float, steps: int, noise_multiplier: float) -> dp.DpEvent:
    """The event of `steps` Poisson-sampled Gaussian steps."""
    step = dp.PoissonSampledDpEvent(sample_rate, dp.GaussianDpEvent(noise_multiplier))
    return dp.SelfComposedDpEvent(step, steps)


def epsilon_pld_of_group(
    sample_rate: float, steps: int, noise_multiplier: float, delta: float, *, records: int
) -> float:
    """Epsilon of a person with that many records, where each is drawn and clipped by itself.

    What a training that protects records means for people; infinite where it means nothing.
    """
    leaf = Leaf("gaussian", noise_multiplier, records, sample_rate)
    return epsilon_of_losses([(leaf, steps)], _checked_delta(delta))


def solve_noise_multiplier(
    sample_rate: float, steps: int, epsilon: float, delta: float, accountant: Accountant
) -> float:
    """The least noise multiplier, in steps of 0.0001, that costs at most `epsilon`.

    Guarantees: `epsilon` of the result is at most the target, by recomputation.

    Raises:
        ParamsInvalid: the target is not a positive number, or no noise reaches it.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ParamsInvalid(f"A target epsilon must be finite and above 0, not {epsilon:g}.")

    def price(multiple: int, by: Accountant) -> float:
        event = dp_sgd_event(sample_rate, steps, multiple * _STEP)
        return _ACCOUNTANTS[by]([event], delta)

    least = _least(lambda multiple: price(multiple, "rdp") <= epsilon, start=_guess(1.0))
    if accountant == "pld":
        # The PLD asks for somewhat less noise than RDP: search downwards from there.
        least = _least(
            lambda multiple: price(multiple, "pld") <= epsilon, start=max(1, int(least * 0.9))
        )
    solved = round(least * _STEP, 10)
    if not _ACCOUNTANTS[accountant]([dp_sgd_event(sample_rate, steps, solved)], delta) <= epsilon:
        raise LedgerInvalid(f"The solved noise multiplier {solved:g} costs more than {epsilon:g}.")
    return solved


def _guess(noise_multiplier: float) -> int:
    return max(1, round(noise_multiplier / _STEP))


def _least(enough: Callable[[int], bool], *, start: int) -> int:
    """The least whole number that is enough, by doubling and halving; `enough` is monotone."""
    most = round(_LARGEST_NOISE / _STEP)
    if enough(start):
        high, low = start, start
        step = max(1, start // 32)
        while low > 1 and enough(low):
            high, low, step = low, max(1, low - step), step * 2
        if enough(low):
            return low
    else:
        low, high = start, start
        step = max(1, start // 32)
        while not enough(high):
            if high >= most:
                raise ParamsInvalid(
                    f"No noise multiplier up to {_LARGEST_NOISE:g} reaches the target epsilon at "
                    "this delta. Raise the target, or sample less."
                )
            low, high, step = high, min(most, high + step), step * 2
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high


def _key(events: Sequence[dp.DpEvent]) -> tuple[tuple[Leaf, int], ...]:
    """The same history has the same key, however it was composed or ordered."""
    return tuple(sorted(leaves(events).items()))


def _checked_delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise ParamsInvalid(f"delta={delta!r} must be above 0 and below 1.")
    return float(delta)


@lru_cache(maxsize=8192)
def _by_rdp(history: tuple[tuple[Leaf, int], ...], delta: float) -> float:
    return float(epsilon_of(rdp_vector(dict(history)), delta))


@lru_cache(maxsize=8192)
def _by_pld(history: tuple[tuple[Leaf, int], ...], delta: float) -> float:
    # Where losses are too large, or delta too small, for a grid: RDP bounds the same thing.
    return min(epsilon_of_losses(history, delta), _by_rdp(history, delta))


_ACCOUNTANTS: dict[str, Callable[[Sequence[dp.DpEvent], float], float]] = {
    "rdp": epsilon_rdp,
    "pld": epsilon_pld,
}
