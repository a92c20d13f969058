"""What a DP-SGD plan costs at least, worked out without the accountants that priced it.

A check of a claim must never contradict an honest one, so it needs bounds from below:
of the true epsilon by a discretized privacy loss whose error is itself bounded, and of
what Renyi DP proves by numerical integration at the best of the public orders.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS
from scipy import fft, signal, special

from lethe.privacy.plan import Plan

Array = npt.NDArray[np.float64]

ROUNDING = 1e-6  # of two ways to compute the same RDP
_PRECISION = 1e-3  # of the claim: how far below the true epsilon the bound may lie
_MOST_CELLS = 1 << 20
_UNLIKELY = 1e-6  # of delta: what a window or a sum of roundings may miss
_FFT_ERROR = 1e-15  # rounding of the transform: of a mass, a step, and of all cells together
_CELLS_OF_ERROR = 50
_LEAST_NOISE = 0.003  # below it a bound is that of this noise: epsilon falls as noise grows
_REACH = 14.0  # standard deviations of noise that are looked at


class _StepLosses(NamedTuple):
    """The privacy loss of one step: its probability in each cell of a grid, and how it rises."""

    mass: Array
    start: int
    shift: float  # true mean less that of the grid


def least_price(plan: Plan, *, near: float) -> tuple[float, float]:
    """What a claim by RDP, and one by PLD, must not be below; `near` is the latter."""
    facts = (plan.sample_rate, plan.steps, plan.noise_multiplier, plan.delta)
    return epsilon_of_renyi(*facts), epsilon_at_least(*facts, near=near)


@lru_cache(maxsize=64)
def epsilon_at_least(
    sample_rate: float, steps: int, noise_multiplier: float, delta: float, *, near: float
) -> float:
    """A number that the true epsilon of Poisson-sampled Gaussian steps does not fall below.

    Args:
        near: the epsilon that is claimed; what precision is needed follows from it.

    Guarantee: at most the true epsilon at `delta` of removing a person, which is at least that
        of adding one; in use, within half a percent of it where `near` is close and `delta` is
        above 1e-9 and 1e-14 * `steps`.
    Source: Gopi, Lee & Wutschitz (2021), arXiv:2106.02848: losses are rounded to the nearest
        point of a grid, their mean is restored, and by Hoeffding's inequality the sum of the
        roundings is small but for a probability that is subtracted from delta.
    """
    q, sigma = sample_rate, max(noise_multiplier, _LEAST_NOISE)
    unlikely = _UNLIKELY * delta
    low, high = _window(q, steps, sigma, unlikely)
    widths = math.sqrt(steps / 2 * math.log(2 / unlikely))
    cell = max(_PRECISION * near / widths, (high - low) / _MOST_CELLS, 1e-12)
    once = _losses(q, sigma, cell)
    restored, rounding = steps * once.shift, cell * widths
    first = math.floor((low - restored - rounding) / cell)
    last = math.ceil((high - restored + rounding) / cell)
    size = fft.next_fast_len(last - first + 1, real=True)
    places = (once.start + np.arange(len(once.mass))) % size
    placed = np.bincount(places, weights=once.mass, minlength=size)
    summed = fft.irfft(fft.rfft(placed) ** steps, size)
    mass = np.roll(summed, -(first % size)).clip(min=0.0)
    values = (first + np.arange(size)) * cell + restored
    # What leaves the window comes in at its other end: it, too, is taken off delta.
    missed = 4 * unlikely + (steps + size / _CELLS_OF_ERROR) * _FFT_ERROR
    return max(0.0, _epsilon(values, mass, cell, delta + missed) - rounding - steps * 1e-12)


def _loss(q: float, sigma: float, z: Array) -> Array:
    """log(P/Q) of an outcome in units of the clip, P with the person and Q without."""
    exponent = (2 * z - 1) / (2 * sigma**2)
    if q == 1:
        return exponent
    found: Array = np.logaddexp(math.log1p(-q), math.log(q) + exponent)
    return found


def _outcome(q: float, sigma: float, loss: Array) -> Array:
    """Where the loss is that large; -inf below all losses."""
    if q == 1:
        return sigma**2 * loss + 0.5
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # log(e^loss - (1 - q)), also where the two are nearly equal
        beyond = loss + np.log(-np.expm1(math.log1p(-q) - loss))
    found: Array = np.where(loss > math.log1p(-q), sigma**2 * (beyond - math.log(q)) + 0.5, -np.inf)
    return found


def _losses(q: float, sigma: float, cell: float) -> _StepLosses:
    """One step on the grid: log(P/Q) under P."""
    ends = np.array([-_REACH * sigma, 1 + _REACH * sigma])
    low, high = _loss(q, sigma, ends)
    start, last = math.floor(low / cell), math.ceil(high / cell)
    edges = _outcome(q, sigma, (start - 0.5 + np.arange(last - start + 2)) * cell)
    edges = edges.clip(ends[0], ends[1])
    mass = (1 - q) * _between(edges / sigma) + q * _between((edges - 1) / sigma)
    grid = (start + np.arange(len(mass))) * cell
    z, weight = _nodes(q, sigma)
    shift = float((weight * _loss(q, sigma, z)).sum() - (mass * grid).sum())
    return _StepLosses(mass, start, shift)


def _between(edges: Array) -> Array:
    """Standard normal probability between neighbours, from the tail where it is precise."""
    upper = edges[:-1] > 0
    found: Array = np.where(
        upper,
        special.ndtr(-edges[:-1]) - special.ndtr(-edges[1:]),
        special.ndtr(edges[1:]) - special.ndtr(edges[:-1]),
    )
    return found


def _nodes(q: float, sigma: float) -> tuple[Array, Array]:
    """Outcomes and their probabilities, for means by the trapezoidal rule."""
    z, step = _range(sigma, 1.0)
    return z, step * ((1 - q) * _density(z, sigma) + q * _density(z - 1, sigma))


def _density(z: Array, sigma: float) -> Array:
    found: Array = np.exp(-(z**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    return found


def _range(sigma: float, furthest: float) -> tuple[Array, float]:
    """Nodes for the trapezoidal rule, whose error falls exponentially.

    The nearest singularity of the loss lies pi sigma^2 off the real axis.
    """
    low, high = -_REACH * sigma, furthest + _REACH * sigma
    count = math.ceil((high - low) / min(sigma / 8, sigma**2 / 4))
    return np.linspace(low, high, count + 1), (high - low) / count


def _window(q: float, steps: int, sigma: float, unlikely: float) -> tuple[float, float]:
    """Bounds that the sum of all losses leaves with probability `unlikely` on either side.

    Source: Chernoff's inequality.
    """
    z, weight = _nodes(q, sigma)
    loss = _loss(q, sigma, z)
    mean = float((weight * loss).sum())
    deviation = math.sqrt(max(float((weight * (loss - mean) ** 2).sum()), 1e-300))
    chance = -math.log(unlikely)
    with np.errstate(divide="ignore"):
        log_weight = np.log(weight)
    low, high = -math.inf, math.inf
    # At the least t one step alone would be as unlikely; at the largest, all are normal.
    for t in np.geomspace(chance / (steps * np.ptp(loss)), 20 * chance / deviation, 40):
        up = float(special.logsumexp(log_weight + t * loss))
        down = float(special.logsumexp(log_weight - t * loss))
        high, low = min(high, (steps * up + chance) / t), max(low, -(steps * down + chance) / t)
    return low, high


def _epsilon(values: Array, mass: Array, cell: float, delta: float) -> float:
    """Where the sum of mass (1 - e^(epsilon - loss))+ is `delta`; 0 if it never is that much."""
    positive = values > 0
    values, mass = values[positive][::-1], mass[positive][::-1]
    above = np.cumsum(mass)
    # Of the losses above each value, e^(value - loss) times their mass: from one to the next.
    weighted = signal.lfilter([1.0], [1.0, -math.exp(-cell)], mass)
    enough = np.flatnonzero(above - weighted >= delta)  # at epsilon = each, the largest first
    # Between the first of them and the value above it, the sum is of those above alone.
    last = int(enough[0]) - 1 if len(enough) else len(values) - 1
    if last < 0 or above[last] <= delta:
        return 0.0
    return max(0.0, float(values[last]) + math.log((above[last] - delta) / weighted[last]))


@lru_cache(maxsize=64)
def epsilon_of_renyi(
    sample_rate: float, steps: int, noise_multiplier: float, delta: float
) -> float:
    """The least epsilon that Renyi DP proves at the orders that are in common use.

    The bound as a function of the order falls and then rises (a convex function over a line),
    so orders are tried until it rises.

    Source: Mironov, Talwar & Zhang (2019), arXiv:1908.10530; the conversion of Canonne, Kamath
        & Steinke (2020), arXiv:2004.00010, proposition 12, and that of Bretagnolle & Huber where
        epsilon is 0.
    """
    orders = sorted(float(order) for order in DEFAULT_RDP_ORDERS)
    sigma, least = max(noise_multiplier, _LEAST_NOISE), math.inf
    for order in orders:
        moment = steps * _log_moment(sample_rate, sigma, order)
        if order == orders[0] and moment / (order - 1) < -math.log1p(-(delta**2)):
            return 0.0
        found = (moment - math.log(delta * order)) / (order - 1) + math.log1p(-1 / order)
        if found > least:
            break
        least = found
    return max(0.0, least)


def _log_moment(q: float, sigma: float, order: float) -> float:
    """log E (P/Q)^order under Q, of one step."""
    if q == 1:
        return order * (order - 1) / (2 * sigma**2)
    z, step = _range(sigma, order)
    exponents = order * _loss(q, sigma, z) - z**2 / (2 * sigma**2)
    return float(special.logsumexp(exponents)) + math.log(step / (sigma * math.sqrt(2 * math.pi)))
