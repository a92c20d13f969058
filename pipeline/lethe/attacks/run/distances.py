"""P-values of noise against noise at a distance: of pairs of steps, windows, a whole stream."""

import numpy as np

from lethe.attacks.run import bounds
from lethe.attacks.statistics import Counts, Floats


def smallest(p_values: Floats) -> float:
    """Of many p-values: one."""
    return float(min(1.0, p_values.min() * p_values.size)) if p_values.size else 1.0


def pairs_p(rows: Floats, slack: Floats, places: Counts) -> list[float]:
    """Of all pairs of rows, and of all pairs that are as far apart."""
    if len(rows) < 2:
        return [1.0]
    products, lengths = rows @ rows.T, np.linalg.norm(rows, axis=1)
    first, second = np.triu_indices(len(rows), 1)
    off = lengths[first] * slack[second] + (lengths[second] + slack[second]) * slack[first]
    variances = np.square(lengths + slack)[first]
    found = products[first, second]
    alone = smallest(bounds.dot_p(found, variances, off))
    apart = places[second] - places[first]
    _, kinds = np.unique(apart, return_inverse=True)
    expected = np.full(len(found), float(rows.shape[1]))
    sums, total, terms, slacks = (
        np.bincount(kinds, weights).astype(np.float64)
        for weights in (found, variances, expected, off)
    )
    together = bounds.pooled_p(sums, total, terms, slacks)
    return [alone, smallest(together)]


def windows_p(rows: Floats, slack: Floats) -> list[float]:
    """Each step against the sum of the steps before it, as many as a window has."""
    steps, kept = rows.shape
    sums = np.vstack([np.zeros(kept), np.cumsum(rows, axis=0)])
    slacks = np.concatenate([[0.0], np.cumsum(slack)])
    lengths = np.linalg.norm(rows, axis=1)
    p_values = []
    width = 2
    while width < 2 * steps and steps > 2:
        last = np.arange(2, steps)
        begin = np.maximum(last - width, 0)
        past = sums[last] - sums[begin]
        off_past = slacks[last] - slacks[begin]
        past_lengths = np.linalg.norm(past, axis=1)
        found = (rows[last] * past).sum(1)
        off = past_lengths * slack[last] + (lengths[last] + slack[last]) * off_past
        variances = np.square(past_lengths + off_past)
        expected = np.array([float((last - begin).sum()) * kept])
        pooled = bounds.pooled_p(
            found.sum(keepdims=True), variances.sum(keepdims=True), expected, off.sum()
        )
        p_values += [smallest(bounds.dot_p(found, variances, off)), float(pooled[0])]
        width *= 2
    return p_values


def stream_p(values: Floats, slack: float) -> float:
    """All values one after another, against themselves, later by any number."""
    count = len(values)
    if count < 2:
        return 1.0
    spectrum = np.fft.rfft(values, 2 * count)
    products = np.fft.irfft(np.square(np.abs(spectrum)), 2 * count)[1:count]
    squares = np.cumsum(np.square(values))
    length = float(np.sqrt(squares[-1]))
    variances = np.square(np.sqrt(squares[count - 2 :: -1]) + slack)
    expected = np.arange(count - 1, 0, -1, dtype=np.float64)
    return smallest(bounds.pooled_p(products, variances, expected, slack * (2 * length + slack)))
