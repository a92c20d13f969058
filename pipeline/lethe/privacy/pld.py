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
from scipy import fft, signal

from lethe.privacy.events import Leaf
from lethe.privacy.mechanisms import Array, at_ends, outcomes_of, reversed_outcomes
from lethe.privacy.renyi import pure_epsilon

_FINE, _COARSE = 100, 40  # grid points a standard deviation: epsilon is off by 1e-5, 5e-5 of it
_FEW = 8  # mechanisms in a history up to which the fine grid is affordable
_MOST_POINTS = 1 << 20
_SMALLEST_STEP = 1e-12
_TAIL = 1e-16  # probability that a window may miss on either side; added to infinity


@dataclass(frozen=True)
class _Losses:
    """Probability `mass[i]` of the loss (start + i) * step, and `infinity` of an infinite one."""

    step: float
    start: int
    mass: Array
    infinity: float

    @property
    def values(self) -> Array:
        return (self.start + np.arange(len(self.mass), dtype=np.float64)) * self.step


def epsilon_of_losses(history: Sequence[tuple[Leaf, int]], delta: float) -> float:
    """The smallest epsilon at which the whole history is (epsilon, delta)-DP.

    Guarantees: never below the true value, whether the person is added or removed.
    """
    history = _gaussians_as_one(history)
    if any(math.isinf(pure_epsilon(leaf)) and leaf.kind != "gaussian" for leaf, _ in history):
        return math.inf
    fineness = _FINE if len(history) <= _FEW else _COARSE
    runs = [_run(leaf, count, fineness) for leaf, count in history]
    removed, added = zip(*runs, strict=True) if runs else ((), ())
    return max(_epsilon(_composed(parts, fineness), delta) for parts in (removed, added))


def _gaussians_as_one(history: Sequence[tuple[Leaf, int]]) -> list[tuple[Leaf, int]]:
    """Unsampled Gaussians compose to one of noise (sum of sigma^-2)^-1/2, exactly."""
    whole = [(leaf, n) for leaf, n in history if leaf.kind == "gaussian" and leaf.sample_rate == 1]
    rest = [pair for pair in history if pair not in whole]
    if not whole:
        return rest
    precision = sum(n * (leaf.extra / leaf.scale) ** 2 for leaf, n in whole)
    return [*rest, (Leaf("gaussian", precision**-0.5), 1)]


def _composed(parts: Sequence[_Losses], fineness: int) -> _Losses:
    """Different runs, one after another."""
    if not parts:
        return _Losses(1.0, 0, np.ones(1), 0.0)
    if len(parts) == 1 or any(part.infinity >= 1 for part in parts):
        return max(parts, key=lambda part: part.infinity)
    infinity = min(1.0, sum(part.infinity for part in parts) + 2 * _TAIL)
    atoms = [_atoms(part.values, part.mass) for part in parts]
    variance = sum(_variance(*each) for each in atoms)
    low, high = _window([(*each, 1) for each in atoms])
    step = max(
        math.sqrt(variance / len(parts)) / fineness, (high - low) / _MOST_POINTS, _SMALLEST_STEP
    )
    gridded = [(_gridded(part.values, part.mass, step), 1) for part in parts]
    return _convolved(gridded, low, high, step, infinity)


def _run(leaf: Leaf, count: int, fineness: int) -> tuple[_Losses, _Losses]:
    """One mechanism, `count` times: removing and adding the person."""
    rough = outcomes_of(leaf, None)
    ends = [at_ends(rough), at_ends(reversed_outcomes(rough))]
    beyond = 1.0 - min(float(mass.sum()) for _, mass in ends)
    if beyond * count >= 0.5:  # of a loss beyond all bounds
        nothing = _Losses(1.0, 0, np.zeros(1), 1.0)
        return nothing, nothing
    windows = [_window([(*each, count)]) for each in ends]
    step = max(
        min(math.sqrt(_variance(*each)) for each in ends) / fineness,
        max(high - low for low, high in windows) / _MOST_POINTS,
        max(float(values[-1] - values[0]) for values, _ in ends) / _MOST_POINTS,
        _SMALLEST_STEP,
    )
    if leaf.kind == "gaussian":
        fine = outcomes_of(leaf, step)
        one, other = (
            _repeated(at_ends(each), count, step, window)
            for each, window in zip((fine, reversed_outcomes(fine)), windows, strict=True)
        )
        return one, other
    # Pure DP: the largest loss lies on the grid, or it would be rounded up `count` times.
    steps = [_aligned(step, each) for each in ends]
    pure = outcomes_of(leaf, step)
    return (
        _repeated(at_ends(pure), count, steps[0], windows[0]),
        _repeated(at_ends(reversed_outcomes(pure)), count, steps[1], windows[1]),
    )


def _aligned(step: float, ends: tuple[Array, Array]) -> float:
    largest = float(ends[0][-1])
    return largest / math.ceil(largest / step) if largest > 0 else step


def _repeated(
    ends: tuple[Array, Array], count: int, step: float, window: tuple[float, float]
) -> _Losses:
    """Losses of one application to losses of `count`."""
    values, mass = ends
    infinity = max(0.0, 1.0 - float(mass.sum()))
    once = _gridded(values, mass, step, infinity)
    if count == 1:
        return once
    return _convolved([(once, count)], *window, step, min(1.0, count * infinity + 2 * _TAIL))


def _gridded(values: Array, mass: Array, step: float, infinity: float = 0.0) -> _Losses:
    """Losses moved to the grid, each split between the points beside it; see the module."""
    below = np.floor(values / step + 1e-9)  # what lies on the grid stays there
    up = -np.expm1(below * step - values) / -math.expm1(-step)
    up = up.clip(0.0, 1.0)
    start = int(below[0])
    index = (below - start).astype(np.int64)
    found = np.zeros(int(index[-1]) + 2)
    found += np.bincount(index, weights=mass * (1 - up), minlength=len(found))
    found += np.bincount(index + 1, weights=mass * up, minlength=len(found))
    return _Losses(step, start, found, infinity)


def _atoms(values: Array, mass: Array) -> tuple[Array, Array]:
    """A few hundred losses in place of many, for bounds: each split with its mean kept.

    By Jensen's inequality that only enlarges E exp(t loss), for every t.
    """
    if len(values) <= 512 or values[0] == values[-1]:
        return values, mass
    edges = np.linspace(values[0], values[-1], 513)
    place = (values - values[0]) / (edges[1] - edges[0])
    below = np.minimum(place.astype(np.int64), 511)
    up = (place - below).clip(0.0, 1.0)
    found = np.zeros(513)
    found += np.bincount(below, weights=mass * (1 - up), minlength=513)
    found += np.bincount(below + 1, weights=mass * up, minlength=513)
    return edges, found


def _window(parts: Sequence[tuple[Array, Array, int]]) -> tuple[float, float]:
    """Bounds that the summed loss leaves with probability at most _TAIL on either side.

    Args:
        parts: losses, their probabilities, and how often they are added.

    Source: Chernoff: P(sum >= x) <= exp(sum of log E exp(t loss) - t x) for every t > 0.
    """
    most = sum(n * float(values[-1]) for values, _, n in parts)
    least = sum(n * float(values[0]) for values, _, n in parts)
    variance = sum(n * _variance(values, mass) for values, mass, n in parts)
    far = max(most, -least, 1e-9)
    deviation = min(max(math.sqrt(variance), 1e-9), far)
    lost = -math.log(_TAIL)
    high, low = most, least
    for t in np.geomspace(min(1 / deviation, lost / far), 16 / deviation, 14):
        up = sum(n * _log_moment(values, mass, t) for values, mass, n in parts)
        down = sum(n * _log_moment(values, mass, -t) for values, mass, n in parts)
        high, low = min(high, (up + lost) / t), max(low, -(down + lost) / t)
    return low, high


def _log_moment(values: Array, mass: Array, t: float) -> float:
    exponents = t * values
    top = max(float(exponents[0]), float(exponents[-1]))
    shift = top if abs(top) > 600 else 0.0
    return shift + math.log(max(_sum(mass, np.exp(exponents - shift)), 1e-300))


def _variance(values: Array, mass: Array) -> float:
    return _sum(mass, (values - _sum(mass, values)) ** 2)


def _sum(weights: Array, values: Array) -> float:
    """Their inner product, without BLAS: its threads cost more than they do here."""
    return float(np.einsum("i,i->", weights, values))


def _convolved(
    parts: Sequence[tuple[_Losses, int]], low: float, high: float, step: float, infinity: float
) -> _Losses:
    """Every part as often as its count says, summed.

    What lies outside the window comes in again at its other end: from below it is counted
    as more revealing than it is; from above it is at most _TAIL, which is in `infinity`.
    """
    first, last = math.floor(low / step) - 1, math.ceil(high / step) + 1
    size = fft.next_fast_len(last - first + 1, real=True)
    product = np.ones(size // 2 + 1, dtype=np.complex128)
    for part, count in parts:
        places = (part.start + np.arange(len(part.mass))) % size
        folded = np.bincount(places, weights=part.mass, minlength=size)
        # Without its 1 at loss 0, as only so a high power keeps its precision.
        folded[0] = -folded[1:].sum() - max(0.0, 1.0 - part.mass.sum())
        spectrum = fft.rfft(folded)
        product *= 1 + spectrum if count == 1 else _power_of_1_plus(spectrum, count)
    mass = fft.irfft(product, size)
    return _Losses(step, first, np.roll(mass, -first).clip(min=0.0), infinity)


def _power_of_1_plus(
    small: npt.NDArray[np.complex128], exponent: int
) -> npt.NDArray[np.complex128]:
    """(1 + small) ** exponent, precise also where `small` is tiny."""
    real, imaginary = small.real, small.imag
    squared = np.maximum(2 * real + real * real + imaginary * imaginary, -1.0)
    with np.errstate(divide="ignore", under="ignore"):
        size = np.exp(0.5 * exponent * np.log1p(squared))
    angle = exponent * np.arctan2(imaginary, 1 + real)
    found: npt.NDArray[np.complex128] = size * (np.cos(angle) + 1j * np.sin(angle))
    return found


def _epsilon(losses: _Losses, delta: float) -> float:
    if losses.infinity > delta:
        return math.inf
    values, mass = losses.values, losses.mass
    kept = values > 0
    values, mass = values[kept], mass[kept]
    if not losses.infinity - _sum(mass, np.expm1(-values)) > delta:
        return 0.0
    above = np.cumsum(mass[::-1])[::-1]
    # The sum of mass e^(values[i] - value) over what is not below values[i]; no exponent is large.
    weighted = signal.lfilter([1.0], [1.0, -math.exp(-losses.step)], mass[::-1])[::-1]
    high = int(np.argmax(losses.infinity + above - weighted <= delta))  # at the largest it is
    # From the point before it on, delta(e) = infinity + above - e^(e - values[high]) weighted.
    left = losses.infinity + float(above[high]) - delta
    return max(0.0, float(values[high]) + math.log(left / float(weighted[high])))
