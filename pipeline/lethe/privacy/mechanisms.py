"""What a mechanism can give out, with and without the person, and how revealing each is."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from lethe.privacy.events import Leaf

Array = npt.NDArray[np.float64]

LARGEST_LOSS = 500.0  # what is more revealing counts as infinitely so
_REACH = 9.6  # standard deviations of a Gaussian that are looked at; beyond lies 4e-22
_MOST_CELLS = 1 << 20
_ROUGH = 1024  # cells where no step is asked for


@dataclass(frozen=True)
class Outcomes:
    """What can come out, in order of rising loss.

    Outcome i has probability p[i] with the person and q[i] without, and a loss between
    low[i] and high[i]; an outcome of one exact loss has them equal.
    """

    p: Array
    q: Array
    low: Array
    high: Array


def outcomes_of(leaf: Leaf, step: float | None) -> Outcomes:
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
        found = Outcomes(
            rate * found.p + (1 - rate) * found.q,
            found.q,
            np.logaddexp(math.log1p(-rate), math.log(rate) + found.low),
            np.logaddexp(math.log1p(-rate), math.log(rate) + found.high),
        )
    return found


def reversed_outcomes(outcomes: Outcomes) -> Outcomes:
    """The same outcomes with the person's part and the other's exchanged."""
    return Outcomes(outcomes.q[::-1], outcomes.p[::-1], -outcomes.high[::-1], -outcomes.low[::-1])


def _gaussian(leaf: Leaf, step: float | None) -> Outcomes:
    """N(0, sigma^2) against its mixture with the person: N(j, sigma^2) with probability w_j.

    One person of `extra` records that are drawn independently moves the mean by j with
    binomial probability w_j; person-level sampling is the case of one.
    """
    sigma = leaf.scale
    shifts = np.arange(leaf.extra + 1, dtype=float)
    log_weights = (
        np.log(special.binom(leaf.extra, shifts))
        + special.xlogy(shifts, leaf.sample_rate)
        + special.xlog1py(leaf.extra - shifts, -leaf.sample_rate)
    )
    shifts, log_weights = shifts[log_weights > -600], log_weights[log_weights > -600]
    weights = np.exp(log_weights)

    def loss(z: Array) -> Array:
        found = np.full(len(z), -math.inf)
        for m, log_weight in zip(shifts, log_weights, strict=True):
            found = np.logaddexp(found, log_weight + (2 * m * z - m * m) / (2 * sigma**2))
        return found

    def between(z: Array) -> tuple[Array, Array]:
        shifted = (w * _between((z - m) / sigma) for m, w in zip(shifts, weights, strict=True))
        return sum(shifted, np.zeros(len(z) - 1)), _between(z / sigma)

    z = np.linspace(-_REACH * sigma, shifts.max() + _REACH * sigma, _ROUGH)
    edges = loss(z)
    z, edges = z[edges <= LARGEST_LOSS], edges[edges <= LARGEST_LOSS]
    p, q = between(z)
    if step is not None:
        z = _at_steps(z, edges, step, np.maximum(p, q))
        edges = loss(z)
        p, q = between(z)
    floor = float(log_weights[0]) if shifts[0] == 0 else edges[0]  # of all that lies below z[0]
    # The tail below is one outcome more; the tail above is left to infinity.
    below = float((weights * special.ndtr((z[0] - shifts) / sigma)).sum())
    return Outcomes(
        np.append(below, p),
        np.append(special.ndtr(z[0] / sigma), q),
        np.append(min(floor, edges[0]), edges[:-1]),
        np.append(edges[0], np.maximum.accumulate(edges[1:])),
    )


def _laplace(leaf: Leaf, step: float | None) -> Outcomes:
    """Laplace noise around 1 against around 0; the loss is constant outside [0, 1]."""
    scale = leaf.scale
    epsilon = 1 / scale
    cells = _ROUGH if step is None else min(_MOST_CELLS, math.ceil(2 * epsilon / step) + 1)
    z = np.linspace(0.0, 1.0, cells + 1)
    edges = (2 * z - 1) / scale
    rising = 0.5 * np.exp((z - 1) / scale)
    falling = 0.5 * np.exp(-z / scale)
    tail = 0.5 * math.exp(-epsilon)
    return Outcomes(
        np.concatenate([[tail], np.diff(rising), [0.5]]),
        np.concatenate([[0.5], -np.diff(falling), [tail]]),
        np.concatenate([[-epsilon], edges[:-1], [epsilon]]),
        np.concatenate([[-epsilon], edges[1:], [epsilon]]),
    )


def _discrete_laplace(leaf: Leaf) -> Outcomes:
    """The same over whole numbers: P around the sensitivity, Q around 0."""
    a, sensitivity = leaf.scale, leaf.extra
    z = np.arange(1, sensitivity)
    normal = math.tanh(a / 2)
    tail, near = 1 / (1 + math.exp(a)), 1 / (1 + math.exp(-a))  # P(x >= 1), P(x >= 0)
    far = tail * math.exp(-a * (sensitivity - 1))
    p = np.concatenate([[far], normal * np.exp(-a * (sensitivity - z)), [near]])
    q = np.concatenate([[near], normal * np.exp(-a * z), [far]])
    losses = a * np.concatenate([[-sensitivity], 2.0 * z - sensitivity, [sensitivity]])
    return Outcomes(p, q, losses, losses)


def _response(leaf: Leaf) -> Outcomes:
    """Randomized response of one answer against another."""
    other = leaf.scale / leaf.extra
    same = 1 - leaf.scale + other
    ratio = math.log(same / other)
    losses = np.array([-ratio, 0.0, ratio])
    rest = max(0.0, (leaf.extra - 2) * other)
    return Outcomes(np.array([other, rest, same]), np.array([same, rest, other]), losses, losses)


def _at_steps(z: Array, losses: Array, step: float, weight: Array) -> Array:
    """Places between which the loss rises by about `step`; more where hardly anything comes out.

    Any places would be valid: wider cells are rounded up more.

    Args:
        weight: probability between neighbouring `z`, the larger of both sides.
    """
    total = np.cumsum(weight)
    tail = np.minimum(total, total[-1] - total + weight) / total[-1]
    wider = np.clip(1e-9 / np.maximum(tail, 1e-30), 1.0, 256.0) ** 0.5
    widths = step * np.minimum(wider, 16.0)
    counted = np.concatenate([[0.0], np.cumsum(np.diff(losses) / widths)])
    inner = np.interp(np.arange(1, math.floor(counted[-1]) + 1), counted, z)
    return np.unique(np.concatenate([[z[0]], inner, [z[-1]]]))


def _between(z: Array) -> Array:
    """Standard normal probability between neighbours, precise in both tails."""
    below, above = special.ndtr(z), special.ndtr(-z)
    return np.where(z[:-1] > 0, above[:-1] - above[1:], below[1:] - below[:-1]).clip(min=0.0)


def at_ends(outcomes: Outcomes) -> tuple[Array, Array]:
    """Each outcome split between its lowest and highest loss; see `loss_distribution`."""
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
