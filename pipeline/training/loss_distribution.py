"""Privacy loss distributions, always rounded to the private side.

A mechanism is a pair of distributions (P with the person, Q without, and the reverse);
its privacy loss is log(P/Q) under P. Composition convolves losses. Here every outcome is
split between two neighbouring points of a grid so that its probability under P and under
Q both stay what they were: merging the two again gives the outcome back, so the gridded
pair is at least as revealing as the true one, and nothing computed from it is too small.
Source: Doroshenko et al. (2022), arXiv:2207.04380 ("connect the dots"); Koskela et al.
(2020), arXiv:1906.03049 (convolution by FFT).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, special, stats

from pipeline.training.events import Leaf
from pipeline.training.renyi import pure_epsilon

Array = npt.NDArray[np.float64]

_POINTS_PER_DEVIATION = 40  # grid points a standard deviation of the loss: error about 1e-4
_MOST_POINTS = 1 << 20
_TAIL = 1e-16  # probability that a window may miss on either side; added to infinity
_REACH = 9.6  # standard deviations of a Gaussian that are looked at; beyond lies 4e-22
_LARGEST_LOSS = 500.0  # what is more revealing counts as infinitely so


@dataclass(frozen=True)
class _Outcomes:
    """What can come out, in order of rising loss.

    Outcome i has probability p[i] with the person and q[i] without, and a loss between
    low[i] and high[i]; an outcome of one exact loss has them equal.
    """

    p: Array
    q: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class _Losses:
    """Probability `mass[i]` of the loss (start + i) * step, and `infinity` of an infinite one."""

    step: float
    start: int
    mass: Array
    infinity: float

    @property
    def values(self) -> Array:
        return (self.start + np.arange(len(self.mass))) * self.step

    @property
    def variance(self) -> float:
        mean = float(self.mass @ self.values)
        return float(self.mass @ (self.values - mean) ** 2)


def epsilon_of_losses(history: Sequence[tuple[Leaf, int]], delta: float) -> float:
    """The smallest epsilon at which the whole history is (epsilon, delta)-DP.

    Guarantees: never below the true value.
    Source of the add direction: both are composed apart, and the larger counts.
    """
    history = _gaussians_as_one(history)
    if any(math.isinf(pure_epsilon(leaf)) and leaf.kind != "gaussian" for leaf, _ in history):
        return math.inf
    return max(
        (_epsilon(_composed(history, add=add), delta) for add in (False, True)), default=0.0
    )


def _gaussians_as_one(history: Sequence[tuple[Leaf, int]]) -> list[tuple[Leaf, int]]:
    """Unsampled Gaussians compose to one of noise (sum of sigma^-2)^-1/2, exactly."""
    whole = [(leaf, n) for leaf, n in history if leaf.kind == "gaussian" and leaf.sample_rate == 1]
    rest = [pair for pair in history if pair not in whole]
    if not whole:
        return rest
    precision = sum(n * (leaf.extra / leaf.scale) ** 2 for leaf, n in whole)
    return [*rest, (Leaf("gaussian", precision**-0.5), 1)]


def _composed(history: Sequence[tuple[Leaf, int]], *, add: bool) -> _Losses:
    parts = [_run(leaf, count, add=add) for leaf, count in history]
    if len(parts) == 1:
        return parts[0]
    infinity = min(1.0, sum(part.infinity for part in parts))
    spread = math.sqrt(sum(part.variance for part in parts))
    finest = max((part.step for part in parts), default=1.0)
    low, high = _window([(_Atoms.of(part.values, part.mass), 1) for part in parts])
    step = max(
        spread / (_POINTS_PER_DEVIATION * math.sqrt(max(1, len(parts)))),
        (high - low) / _MOST_POINTS,
        1e-12 if spread else finest,
    )
    gridded = [_gridded(part.values, part.mass, step, part.infinity) for part in parts]
    composed = _convolved([(part, 1) for part in gridded], low, high, step)
    return _Losses(step, composed.start, composed.mass, min(1.0, infinity + 2 * _TAIL))


def _run(leaf: Leaf, count: int, *, add: bool) -> _Losses:
    """One mechanism, `count` times."""
    outcomes = _outcomes(leaf, None, add=add)
    values, mass = _at_ends(outcomes)
    mean = float(mass @ values)
    deviation = math.sqrt(float(mass @ (values - mean) ** 2))
    low, high = _window([(_Atoms.of(values, mass), count)])
    step = max(
        deviation / _POINTS_PER_DEVIATION,
        (high - low) / _MOST_POINTS,
        float(values[-1] - values[0]) / _MOST_POINTS,
        1e-12,
    )
    values, mass = _at_ends(_outcomes(leaf, step, add=add))
    once = _gridded(values, mass, step, max(0.0, 1.0 - float(mass.sum())))
    if count == 1:
        return once
    composed = _convolved([(once, count)], low, high, step)
    return _Losses(
        step, composed.start, composed.mass, min(1.0, count * once.infinity + 2 * _TAIL)
    )


def _outcomes(leaf: Leaf, step: float | None, *, add: bool) -> _Outcomes:
    """The outcomes of one application, with cells about `step` wide in loss."""
    if leaf.kind == "gaussian":
        found = _gaussian(leaf, step)
    elif leaf.kind == "laplace":
        found = _laplace(leaf, step)
    elif leaf.kind == "discrete_laplace":
        found = _discrete_laplace(leaf)
    else:
        found = _response(leaf)
    if leaf.sample_rate < 1 and leaf.kind != "gaussian":
        rate = leaf.sample_rate
        found = _Outcomes(
            rate * found.p + (1 - rate) * found.q,
            found.q,
            np.logaddexp(math.log1p(-rate), math.log(rate) + found.low),
            np.logaddexp(math.log1p(-rate), math.log(rate) + found.high),
        )
    if not add:
        return found
    return _Outcomes(found.q[::-1], found.p[::-1], -found.high[::-1], -found.low[::-1])


def _gaussian(leaf: Leaf, step: float | None) -> _Outcomes:
    """N(0, sigma^2) against its mixture with the person: N(j, sigma^2) with probability w_j.

    One person of `extra` records that are drawn independently moves the mean by j with
    binomial probability w_j; person-level sampling is the case of one.
    """
    sigma = leaf.scale
    shifts = np.arange(leaf.extra + 1, dtype=float)
    weights = stats.binom.pmf(shifts, leaf.extra, leaf.sample_rate)
    shifts, weights = shifts[weights > 1e-300], weights[weights > 1e-300]

    def loss(z: Array) -> Array:
        return special.logsumexp(
            (2 * shifts * z[:, None] - shifts**2) / (2 * sigma**2), b=weights, axis=1
        )

    z = np.linspace(-_REACH * sigma, shifts.max() + _REACH * sigma, 4096)
    losses = loss(z)
    z = z[losses <= _LARGEST_LOSS]
    if step is not None:
        z = _at_steps(z, losses[: len(z)], step)
    edges = loss(z)
    floor = math.log(weights[0]) if shifts[0] == 0 else edges[0]  # of all that lies below z[0]
    q = _between(z / sigma)
    p = sum(
        (w * _between((z - shift) / sigma) for shift, w in zip(shifts, weights, strict=True)),
        np.zeros(len(q)),
    )
    # The tail below is one outcome more; the tail above is left to infinity.
    below = float(weights @ special.ndtr((z[0] - shifts) / sigma))
    return _Outcomes(
        np.append(below, p),
        np.append(special.ndtr(z[0] / sigma), q),
        np.append(min(floor, edges[0]), edges[:-1]),
        np.append(edges[0], np.maximum.accumulate(edges[1:])),
    )


def _laplace(leaf: Leaf, step: float | None) -> _Outcomes:
    """Laplace noise around 1 against around 0; the loss is constant outside [0, 1]."""
    scale = leaf.scale
    epsilon = 1 / scale
    cells = 4096 if step is None else min(_MOST_POINTS, math.ceil(2 * epsilon / step) + 1)
    z = np.linspace(0.0, 1.0, cells + 1)
    edges = (2 * z - 1) / scale
    rising = 0.5 * np.exp((z - 1) / scale)
    falling = 0.5 * np.exp(-z / scale)
    tail = 0.5 * math.exp(-epsilon)
    return _Outcomes(
        np.concatenate([[tail], np.diff(rising), [0.5]]),
        np.concatenate([[0.5], -np.diff(falling), [tail]]),
        np.concatenate([[-epsilon], edges[:-1], [epsilon]]),
        np.concatenate([[-epsilon], edges[1:], [epsilon]]),
    )


def _discrete_laplace(leaf: Leaf) -> _Outcomes:
    """The same over whole numbers: P around the sensitivity, Q around 0."""
    a, sensitivity = leaf.scale, leaf.extra
    z = np.arange(1, sensitivity)
    normal = math.tanh(a / 2)
    tail, near = 1 / (1 + math.exp(a)), 1 / (1 + math.exp(-a))  # P(x >= 1), P(x >= 0)
    far = tail * math.exp(-a * (sensitivity - 1))
    p = np.concatenate([[far], normal * np.exp(-a * (sensitivity - z)), [near]])
    q = np.concatenate([[near], normal * np.exp(-a * z), [far]])
    losses = a * np.concatenate([[-sensitivity], 2.0 * z - sensitivity, [sensitivity]])
    return _Outcomes(p, q, losses, losses)


def _response(leaf: Leaf) -> _Outcomes:
    """Randomized response of one answer against another."""
    other = leaf.scale / leaf.extra
    same = 1 - leaf.scale + other
    ratio = math.log(same / other)
    losses = np.array([-ratio, 0.0, ratio])
    rest = max(0.0, (leaf.extra - 2) * other)
    return _Outcomes(
        np.array([other, rest, same]), np.array([same, rest, other]), losses, losses
    )


def _at_steps(z: Array, losses: Array, step: float) -> Array:
    """Places whose losses are about whole multiples of `step`; any places would be valid."""
    first, last = math.ceil(losses[0] / step), math.floor(losses[-1] / step)
    inner = np.interp(np.arange(first, last + 1) * step, losses, z)
    return np.unique(np.concatenate([[z[0]], inner, [z[-1]]]))


def _between(z: Array) -> Array:
    """Standard normal probability between neighbours, precise in both tails."""
    below, above = special.ndtr(z), special.ndtr(-z)
    return np.where(z[:-1] > 0, above[:-1] - above[1:], below[1:] - below[:-1]).clip(min=0.0)


def _at_ends(outcomes: _Outcomes) -> tuple[Array, Array]:
    """Each outcome split between its lowest and highest loss; see the module."""
    width = outcomes.high - outcomes.low
    wide = width > 0
    share = np.ones(len(width))
    ratio = np.divide(outcomes.q, outcomes.p, out=np.zeros(len(width)), where=outcomes.p > 0)
    # p = a + b, q = a e^-low + b e^-high  =>  b / p = (1 - e^low q / p) / (1 - e^-width)
    share[wide] = -np.expm1(
        np.minimum(0.0, np.log(np.maximum(ratio[wide], 1e-300)) + outcomes.low[wide])
    ) / -np.expm1(-width[wide])
    share = share.clip(0.0, 1.0)
    values = np.concatenate([outcomes.low, outcomes.high])
    mass = np.concatenate([outcomes.p * (1 - share), outcomes.p * share])
    order = np.argsort(values, kind="stable")
    return values[order], mass[order]


def _gridded(values: Array, mass: Array, step: float, infinity: float) -> _Losses:
    """Losses moved to the grid, each split between the points beside it; see the module."""
    below = np.floor(values / step)
    up = -np.expm1(below * step - values) / -math.expm1(-step)
    up = up.clip(0.0, 1.0)
    start = int(below[0])
    index = (below - start).astype(np.int64)
    found = np.bincount(index, weights=mass * (1 - up), minlength=int(index[-1]) + 2)
    found += np.bincount(index + 1, weights=mass * up, minlength=len(found))
    return _Losses(step, start, found, infinity)


@dataclass(frozen=True)
class _Atoms:
    """A few hundred losses that stand for many when a tail is bounded: rounded outwards."""

    low: Array
    high: Array
    mass: Array

    @classmethod
    def of(cls, values: Array, mass: Array) -> "_Atoms":
        edges = np.linspace(values[0], values[-1], 513)
        which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, 511)
        return cls(edges[:-1], edges[1:], np.bincount(which, weights=mass, minlength=512))


def _window(parts: Sequence[tuple[_Atoms, int]]) -> tuple[float, float]:
    """Bounds that the summed loss leaves with probability at most _TAIL on either side.

    Source: Chernoff: P(sum >= x) <= exp(sum of log E exp(t loss) - t x) for every t > 0.
    """
    if not parts:
        return 0.0, 0.0
    means = [float(a.mass @ (a.low + a.high) / 2) for a, _ in parts]
    variance = sum(
        n * float(a.mass @ ((a.low + a.high) / 2 - mean) ** 2)
        for (a, n), mean in zip(parts, means, strict=True)
    )
    deviation = max(math.sqrt(variance), 1e-9)
    most = sum(n * float(a.high[-1]) for a, n in parts)
    least = sum(n * float(a.low[0]) for a, n in parts)
    high, low = most, least
    for t in np.geomspace(0.25, 64, 17) / deviation:
        up = sum(n * float(special.logsumexp(t * a.high, b=a.mass)) for a, n in parts)
        down = sum(n * float(special.logsumexp(-t * a.low, b=a.mass)) for a, n in parts)
        high = min(high, (up - math.log(_TAIL)) / t)
        low = max(low, -(down - math.log(_TAIL)) / t)
    return low, high


def _convolved(
    parts: Sequence[tuple[_Losses, int]], low: float, high: float, step: float
) -> _Losses:
    """Every part `count` times, summed; infinity is the caller's.

    What lies outside the window comes in again at its other end: from below it is counted
    as more revealing than it is; from above it is at most _TAIL, which is added to infinity.
    """
    first, last = math.floor(low / step) - 1, math.ceil(high / step) + 1
    size = fft.next_fast_len(last - first + 1, real=True)
    exponent = np.zeros(size // 2 + 1, dtype=np.complex128)
    for part, count in parts:
        places = (part.start + np.arange(len(part.mass))) % size
        folded = np.bincount(places, weights=part.mass, minlength=size)
        # 1 taken off at loss 0, as log1p keeps the precision that a high power would lose.
        folded[0] = -folded[1:].sum() - max(0.0, 1.0 - part.mass.sum())
        spectrum = fft.rfft(folded)
        with np.errstate(divide="ignore"):
            exponent += count * np.log1p(spectrum)
    mass = fft.irfft(np.exp(exponent), size)
    return _Losses(step, first, np.roll(mass, -first).clip(min=0.0), 0.0)


def _epsilon(losses: _Losses, delta: float) -> float:
    if losses.infinity > delta:
        return math.inf
    values, mass = losses.values, losses.mass
    kept = values > 0
    values, mass = values[kept], mass[kept]

    def delta_at(epsilon: float) -> float:
        above = values > epsilon
        return losses.infinity - float(mass[above] @ np.expm1(epsilon - values[above]))

    if delta_at(0.0) <= delta:
        return 0.0
    low, high = -1, len(values) - 1  # delta_at(values[high]) <= delta
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if delta_at(values[middle]) <= delta else (middle, high)
    above, weights = values[high:], mass[high:]
    # Between two points delta(e) = infinity + A - exp(e - values[high]) B: solved for e.
    total = losses.infinity + float(weights.sum())
    scaled = float(weights @ np.exp(values[high] - above))
    return max(0.0, float(values[high]) + math.log((total - delta) / scaled))
