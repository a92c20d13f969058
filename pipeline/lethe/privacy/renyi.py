"""Renyi differential privacy of the mechanisms, as vectors over fixed orders.

Composition is adding vectors, also where later events were chosen by earlier answers,
and a total held under a limit stays valid then: so budgets are enforced on these.
Source: Mironov (2017), arXiv:1702.07476; Feldman & Zrnic (2020), arXiv:2008.11193.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

from lethe.privacy.events import Leaf

Vector = npt.NDArray[np.float64]

# The orders of dp_accounting's accountant; any set of orders gives a valid bound.
ORDERS: Vector = np.array(
    [1 + x / 10.0 for x in range(1, 100)] + [*range(11, 64), 128, 256, 512, 1024]
)
_WHOLE = np.round(ORDERS) == ORDERS
_MOST_NODES = 50_000  # of an integral; more are needed below a noise multiplier of 0.03
_ROUNDING = 1e-13  # of a logarithm of a sum of floats, generously


def rdp_vector(history: Mapping[Leaf, int]) -> Vector:
    """RDP at ORDERS of everything in a history together.

    Shapes: (len(ORDERS),)
    """
    total = np.zeros(len(ORDERS))
    for leaf, count in history.items():
        total += count * _rdp_of(leaf)
    return total


def epsilon_of(rdp: Vector, delta: float) -> Vector:
    """The smallest epsilon that RDP vectors prove at `delta`.

    Shapes: rdp (..., len(ORDERS)) -> (...)
    Source: Canonne, Kamath & Steinke (2020), arXiv:2004.00010, proposition 12; where
        delta exceeds sqrt(1 - exp(-KL)), epsilon is 0 (Bretagnolle & Huber).
    """
    proved = (rdp + conversion(delta)).min(axis=-1).clip(min=0.0)
    # delta^2 > 1 - exp(-KL), written so that it is precise for a small delta.
    free = rdp.min(axis=-1) < -math.log1p(-(delta**2))
    found: Vector = np.where(free, 0.0, proved)
    return found


def best_order(rdp: Vector, delta: float) -> int:
    """The place among ORDERS of the one that proves the smallest epsilon."""
    return int(np.argmin(rdp + conversion(delta)))


@lru_cache(maxsize=64)
def conversion(delta: float) -> Vector:
    """What to add to an RDP vector; all of ORDERS are far enough above 1."""
    return np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)


@lru_cache(maxsize=65_536)
def _rdp_of(leaf: Leaf) -> Vector:
    if leaf.kind == "gaussian":
        if leaf.sample_rate == 1:
            vector = ORDERS / (2 * leaf.scale**2)
        else:
            vector = _sampled_gaussian(leaf.sample_rate, leaf.scale)
    elif leaf.kind == "laplace" and leaf.sample_rate == 1:
        vector = _laplace(1 / leaf.scale)
    elif leaf.kind == "randomized_response" and leaf.sample_rate == 1:
        vector = _randomized_response(leaf.scale, leaf.extra)
    else:
        # Whatever is eps-DP is no worse than binary randomized response at eps (Kairouz, Oh &
        # Viswanath 2015, arXiv:1311.0776), and a Poisson sample takes eps down first.
        vector = _binary_response(sampled_epsilon(pure_epsilon(leaf), leaf.sample_rate))
    vector = vector.clip(min=0.0)
    vector.flags.writeable = False  # it is shared
    return vector


def pure_epsilon(leaf: Leaf) -> float:
    """Epsilon at delta 0 of one application to everybody; infinite for a Gaussian."""
    match leaf.kind:
        case "laplace":
            return 1 / leaf.scale
        case "discrete_laplace":
            return leaf.scale * leaf.extra
        case "randomized_response":
            if leaf.scale == 0:
                return math.inf
            # By replacing an answer: at least what adding or removing one costs.
            return math.log(leaf.extra / leaf.scale - leaf.extra + 1)
    return math.inf


def sampled_epsilon(epsilon: float, sample_rate: float) -> float:
    """Amplification of pure DP by Poisson sampling: ln(1 + q (e^eps - 1))."""
    if sample_rate == 1:
        return epsilon
    if epsilon > 500:
        return epsilon + math.log(sample_rate) + 1e-9 if math.isfinite(epsilon) else math.inf
    return math.log1p(sample_rate * math.expm1(epsilon))


def _binary_response(epsilon: float) -> Vector:
    if not math.isfinite(epsilon):
        return np.full(len(ORDERS), math.inf)
    # p ln-odds: log(p) = -log1p(e^-eps), log(1-p) = log(p) - eps
    log_p = -math.log1p(math.exp(-epsilon))
    log_r = log_p - epsilon
    return np.logaddexp(
        ORDERS * log_p + (1 - ORDERS) * log_r, ORDERS * log_r + (1 - ORDERS) * log_p
    ) / (ORDERS - 1)


def _randomized_response(noise: float, buckets: int) -> Vector:
    """Exact for replacing one answer by another. Source: the two output distributions."""
    if noise == 0:
        return np.full(len(ORDERS), math.inf)
    other = noise / buckets
    log_ratio = math.log((1 - noise + other) / other)
    terms = np.stack([ORDERS * log_ratio, -ORDERS * log_ratio, np.zeros(len(ORDERS))])
    weights = np.array([[other], [1 - noise + other], [(buckets - 2) * other]])
    found: Vector = special.logsumexp(terms, b=weights, axis=0) / (ORDERS - 1)
    return found


def _laplace(epsilon: float) -> Vector:
    """Source: Mironov (2017), proposition 6."""
    a = ORDERS
    return np.logaddexp(
        math.log(0.5) + np.log(a / (a - 0.5)) + (a - 1) * epsilon,
        math.log(0.5) + np.log((a - 1) / (a - 0.5)) - a * epsilon,
    ) / (a - 1)


def _sampled_gaussian(q: float, sigma: float) -> Vector:
    """RDP of one Poisson-sampled Gaussian step, remove (the worse direction).

    Source: Mironov, Talwar & Zhang (2019), arXiv:1908.10530: A(a) = E_{z ~ N(0, s^2)}
        (1 - q + q exp((2 z - 1) / (2 s^2)))^a; a binomial sum for whole orders, the
        trapezoidal rule (whose error falls exponentially here) for the others.
    """
    log_a = np.empty(len(ORDERS))
    log_a[_WHOLE] = _whole_orders(q, sigma)
    log_a[~_WHOLE] = _broken_orders(q, sigma, log_a[_WHOLE])
    # Where a step costs nearly nothing, what rounding takes off would make it free.
    return (log_a.clip(min=0.0) + _ROUNDING) / (ORDERS - 1)


@lru_cache(maxsize=1)
def _binomials() -> tuple[Vector, Vector, Vector, npt.NDArray[np.int64]]:
    """For all whole orders one after another: k, order - k, log binomial; where each starts."""
    ks = [np.arange(order + 1) for order in ORDERS[_WHOLE].astype(int)]
    starts = np.cumsum([0, *(len(k) for k in ks[:-1])])
    k = np.concatenate(ks).astype(float)
    order = np.repeat(ORDERS[_WHOLE], [len(each) for each in ks])
    log_binomial = (
        special.gammaln(order + 1) - special.gammaln(k + 1) - special.gammaln(order - k + 1)
    )
    return k, order - k, log_binomial, starts


def _whole_orders(q: float, sigma: float) -> Vector:
    k, rest, log_binomial, starts = _binomials()
    terms = log_binomial + k * math.log(q) + rest * math.log1p(-q) + (k * k - k) / (2 * sigma**2)
    tops = np.maximum.reduceat(terms, starts)
    lengths = np.diff(np.append(starts, len(terms)))
    with np.errstate(under="ignore"):
        sums = np.add.reduceat(np.exp(terms - np.repeat(tops, lengths)), starts)
    found: Vector = tops + np.log(sums)
    return found


def _broken_orders(q: float, sigma: float, whole: Vector) -> Vector:
    """The orders between; `whole` are the logarithms at the whole ones."""
    orders = ORDERS[~_WHOLE]
    # Nearest singularity: pi s^2 off the real axis; the Gaussian itself allows steps of s / 6.
    step = min(sigma / 6, sigma**2 / 3)
    low, high = -14 * sigma, orders.max() + 14 * sigma
    if (high - low) / step > _MOST_NODES:
        # The logarithm is convex in the order, and 0 at 1: a chord lies above it.
        chords: Vector = np.interp(orders, [1.0, *ORDERS[_WHOLE]], [0.0, *whole])
        return chords
    z = np.arange(low, high + step, step)
    log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * z - 1) / (2 * sigma**2))
    log_density = -(z**2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
    found = np.empty(len(orders))
    for start in range(0, len(orders), 16):  # bounds the memory of a small sigma
        part = orders[start : start + 16, None]
        found[start : start + 16] = special.logsumexp(log_density + part * log_ratio, axis=1)
    return found + math.log(step)
