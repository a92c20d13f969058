"""P-values of normal values that are known to within a little, each exact or bounded by a proof.

What is seen is z + e, z independent standard normal, e of a known length at most (the rounding of
float32 sums). Each function takes the kindest e that the length allows, so that none alarms at an
honest run, whatever e depends on.
"""

import numpy as np
from scipy import stats

from lethe.attacks.statistics import Counts, Floats

_PRIOR = 50  # of the mixture: a bound is looser by 2 % of its exponent, and by a factor of 7
_DENSITY = 0.39894228040143276  # of the normal law at 0, where it is densest


def norm_p(norms: Floats, counts: Counts, slack: Floats | float) -> Floats:
    """Two-sided, of the lengths of so many values each: chi-square, exact."""
    low = stats.chi2.cdf(np.square(norms + slack), counts)
    high = stats.chi2.sf(np.square(np.maximum(norms - slack, 0.0)), counts)
    found: Floats = np.minimum(1.0, 2.0 * np.minimum(low, high))
    return found


def sum_p(sums: Floats, counts: Counts, slack: Floats | float) -> Floats:
    """Two-sided, of the sums of so many values each: normal, exact."""
    away = np.maximum(np.abs(sums) / np.sqrt(counts) - slack, 0.0)
    found: Floats = 2.0 * stats.norm.sf(away)
    return found


def law_p(values: Floats, furthest: float) -> float:
    """Kolmogorov-Smirnov, no value being further from what it was than `furthest`.

    Source: Massart (1990), Ann. Probab. 18(3): p <= 2 exp(-2 n d^2) for every n.
    """
    distance = float(stats.kstest(values, "norm").statistic)
    left = max(distance - _DENSITY * furthest, 0.0)
    return float(min(1.0, 2.0 * np.exp(-2.0 * len(values) * left**2)))


def moment_p(values: Floats, order: int, slack: float) -> float:
    """Is the Legendre polynomial of 2 Phi(z) - 1, of this order, 0 on average?

    Order 4 is the kurtosis of a scale on which no single value outweighs all others: its law is
    bounded, so that the p-value is Bernstein's bound, true for every n. (The fourth power's
    own law has so heavy tails that no normal approximation holds at 1e-8.)
    Source: Neyman (1937), Skand. Aktuarietidskr. 20; Bernstein's inequality.
    """
    most = np.sqrt(2.0 * order + 1.0)
    place = 2.0 * stats.norm.cdf(values) - 1.0
    mean = float(most * np.polynomial.legendre.Legendre.basis(order)(place).mean())
    steepest = most * order * (order + 1) / 2 * 2.0 * _DENSITY
    away = max(abs(mean) - steepest * slack / np.sqrt(len(values)), 0.0)
    exponent = len(values) * away**2 / (2.0 * (1.0 + most * away / 3.0))
    return float(min(1.0, 2.0 * np.exp(-exponent)))


def tail_p(least: int, most: int, trials: int, probability: float) -> float:
    """Two-sided, of a count that is somewhere from `least` to `most`: binomial, exact."""
    law = stats.binom(trials, probability)
    return float(min(1.0, 2.0 * min(float(law.cdf(most)), float(law.sf(least - 1)))))


def dot_p(products: Floats, variances: Floats, slack: Floats | float) -> Floats:
    """Two-sided, of scalar products of fresh values with others that were there before.

    Given the others, a product is normal of variance their square length, or below such a one
    in its tails (sub-Gaussian), so that p <= 2 exp(-x^2 / 2 V).
    """
    away = np.maximum(np.abs(products) - slack, 0.0)
    found: Floats = np.minimum(1.0, 2.0 * np.exp(-np.square(away) / (2.0 * variances)))
    return found


def pooled_p(sums: Floats, variances: Floats, expected: Floats, slack: Floats | float) -> Floats:
    """Two-sided, of sums of such products one after another, each with values fresh to it.

    exp(x S - x^2 V / 2) is a supermartingale for every x; a normal mixture over x gives
    P(S^2 >= 2 (V + r) ln(sqrt(1 + V / r) / p)) <= p for each r > 0 that is chosen beforehand.
    Source: Robbins (1970), Ann. Math. Statist. 41(5); de la Pena, Klass and Lai (2004).

    Args:
        expected: what V is on average; decides r alone.
    """
    away = np.maximum(np.abs(sums) - slack, 0.0)
    prior = expected / _PRIOR
    exponent = np.square(away) / (2.0 * (variances + prior))
    found: Floats = np.minimum(1.0, np.sqrt(1.0 + variances / prior) * np.exp(-exponent))
    return found


def trend_p(norms: Floats, counts: Counts, beside: Floats, slack: Floats) -> float:
    """Two-sided: do the lengths of so many values each follow numbers that were there before?

    Each length is put where it would be of a normal law, so that their product with the
    numbers is normal, exactly.
    """
    law = stats.chi2(counts)

    def score(lengths: Floats) -> Floats:
        below, above = law.cdf(np.square(lengths)), law.sf(np.square(lengths))
        found: Floats = np.where(below < 0.5, stats.norm.ppf(below), stats.norm.isf(above))
        return found.clip(-40.0, 40.0)

    centred = beside - beside.mean()
    length = float(np.linalg.norm(centred))
    if not length > 1e-9 * float(np.abs(beside).max(initial=0.0)):
        return 1.0
    centred = centred / length
    low, high = score(np.maximum(norms - slack, 0.0)), score(norms + slack)
    # The kindest lengths within the slack, for a sum that is too high and for one too low.
    least = float(np.where(centred > 0, low, high) @ centred)
    most = float(np.where(centred > 0, high, low) @ centred)
    return float(min(1.0, 2.0 * min(stats.norm.sf(least), stats.norm.cdf(most))))


def coincidence_p(values: Floats, furthest: float, grid: float) -> float:
    """Are too many values as good as equal? Of noise from a table, or on a coarse grid.

    The real line is cut into parts of equal probability. A value falls where one was before
    with at most (values before) times the greatest probability of a part, whatever came
    before; so the number that do is below a Poisson-binomial in law (Bennett's bound).

    Args:
        furthest: how far the law of a value may be shifted, by what was known before it.
        grid: how far a value may be from its own place, by rounding as it was released.
    """
    far = 5.0  # values beyond it stand by themselves; there shifts would weigh too much
    kept = values[np.abs(values) < far - furthest - grid]
    count = len(kept)
    if furthest > 1.0:  # nothing is known of where a value would be
        return 1.0
    parts = int(min(count**2 / 2.0, 0.25 / (_DENSITY * max(grid, 1e-12)), 2.0**40))
    widest = np.exp(far * furthest + furthest**2) * (1.0 / max(parts, 1) + 2 * _DENSITY * grid)
    if count < 2 or parts < 2 or not count * widest < 1:
        return 1.0
    places = np.floor(stats.norm.cdf(kept) * parts).astype(np.int64)
    seen = count - len(np.unique(places))
    mean = widest * count * (count - 1) / 2.0
    if seen <= mean:
        return 1.0
    more = seen / mean
    return float(np.exp(-mean * (more * np.log(more) - more + 1.0)))


def span_p(values: Floats, slack: float) -> list[float]:
    """Is a matrix of such values as wide in its every direction as chance makes it?

    Of the least and of the greatest singular value; a direction without noise, or rows that
    cancel one another, make the least one 0. Rows and columns may be any numbers.
    Source: Davidson and Szarek (2001), Local operator theory, theorem II.13: beyond
    sqrt(larger) -+ sqrt(smaller) by t with probability exp(-t^2 / 2) at most.
    """
    wide = values if values.shape[0] <= values.shape[1] else values.T
    squares = np.linalg.eigvalsh(wide @ wide.T)
    least, greatest = np.sqrt(np.maximum(squares[[0, -1]], 0.0))
    larger, smaller = np.sqrt(wide.shape[1]), np.sqrt(wide.shape[0])
    below = max(larger - smaller - least - slack, 0.0)
    above = max(greatest - larger - smaller - slack, 0.0)
    return [float(np.exp(-(t**2) / 2.0)) for t in (below, above)]
