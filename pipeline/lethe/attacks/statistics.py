"""Tests and bounds of the audit, each with a false-alarm rate that is known beforehand.

A sound mechanism fails a test with probability `ALPHA` at most; over all tests of one
audit together this stays below `FALSE_ALARMS` (Bonferroni). Discrete counts become exact
normal variates by randomized quantile residuals, so that no rate rests on an approximation
where the mechanism is discrete.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import betaincinv

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

FALSE_ALARMS = 1e-6  # of one whole audit
ALPHA = 1e-8  # of one statistical test
NOT_LOOKED_AT = "not looked at"  # the kind of a check that could not be made


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    `statistic` is a p-value that must not be below `threshold` where `false_alarm_rate`
    is above 0 or `kind` is "p-value", else a number that must not be above it. One that could
    not be made has the kind `NOT_LOOKED_AT`: it has not passed, and contradicts nothing.
    """

    name: str
    passed: bool
    statistic: float
    threshold: float
    false_alarm_rate: float
    kind: str
    meaning: str

    @property
    def contradicts(self) -> bool:
        return not self.passed and self.kind != NOT_LOOKED_AT

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Check":
        """As `to_data` gives it, or as the committed report has it: without what was measured.

        What is null or left out is NaN. Raises: TypeError, ValueError: it is none.
        """
        given: dict[str, Any] = {"statistic": None, "threshold": None, **data}
        given = {name: math.nan if value is None else value for name, value in given.items()}
        if not isinstance(given.get("passed"), bool):
            raise ValueError("no check")
        return cls(**given)

    def to_data(self) -> dict[str, Any]:
        """As JSON: what is not finite becomes null."""
        return {
            "name": self.name,
            "passed": self.passed,
            "statistic": _finite(self.statistic),
            "threshold": _finite(self.threshold),
            "false_alarm_rate": self.false_alarm_rate,
            "kind": self.kind,
            "meaning": self.meaning,
        }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def improbable(name: str, p_values: float | Sequence[float], *, meaning: str) -> Check:
    """Passes unless one of the p-values is too small; together they alarm at ALPHA at most."""
    many = [p_values] if isinstance(p_values, float) else list(p_values)
    # Not `min`: a NaN is no evidence that all is well.
    worst = 0.0 if not all(p == p for p in many) else min([1.0, *(p * len(many) for p in many)])
    return Check(name, worst >= ALPHA, worst, ALPHA, ALPHA, "p-value", meaning)


def at_most(name: str, value: float, limit: float, *, meaning: str) -> Check:
    """Passes if a number that has no chance in it is not above its limit; never for NaN."""
    return Check(name, bool(value <= limit), float(value), limit, 0.0, "at most", meaning)


def holds(name: str, fact: bool, *, meaning: str) -> Check:
    """A plain fact: the statistic counts contradictions, none are allowed."""
    return Check(name, bool(fact), float(not fact), 0.0, 0.0, "at most", meaning)


def not_looked_at(name: str, *, meaning: str) -> Check:
    """What there is nothing left to look at for: no evidence for the claim, and none against it."""
    return Check(name, False, math.nan, math.nan, 0.0, NOT_LOOKED_AT, meaning)


def number(report: Mapping[str, Any], name: str) -> float:
    """A report's number; NaN, which passes no check, if there is none."""
    value = report.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def worse(one: float, other: float) -> float:
    """The larger of two errors; NaN is the largest."""
    return math.inf if math.isnan(other) else max(one, other)


def two_sided(lower: float, upper: float) -> float:
    """The p-value of a statistic with these tail probabilities."""
    return float(min(1.0, 2.0 * min(lower, upper)))


def variance_p(values: Floats) -> float:
    """Are the values of variance 1 around 0, as independent standard normal ones are?"""
    total = float(np.square(values).sum())
    # Not by a frozen law: making one takes six times as long as both values.
    below, above = stats.chi2.cdf(total, values.size), stats.chi2.sf(total, values.size)
    return two_sided(float(below), float(above))


def mean_p(values: Floats) -> float:
    """Is the mean 0, as that of independent standard normal values is?"""
    z = float(values.sum()) / math.sqrt(values.size)
    return float(2.0 * stats.norm.sf(abs(z)))


def shape_p(values: Floats) -> float:
    """Are the values standard normal in shape? Kolmogorov–Smirnov."""
    return float(stats.kstest(values, "norm").pvalue)


def pairwise_correlation_p(rows: Floats) -> float:
    """Are no two rows of independent normal values correlated?

    The smallest p-value, exact for each pair, times the number of pairs.
    """
    if len(rows) < 2 or rows.shape[1] < 4:
        return 1.0
    if not (rows.std(axis=1) > 0).all():
        return 0.0
    table = np.asarray(np.corrcoef(rows))
    upper = np.abs(table[np.triu_indices(len(rows), 1)]).clip(0.0, 1.0)
    half = rows.shape[1] / 2 - 1
    smallest = 2.0 * stats.beta.sf((1.0 + float(upper.max())) / 2.0, half, half)
    return float(min(1.0, smallest * upper.size))


def binomial_p(count: int, trials: int, probability: float) -> float:
    """Two-sided p-value of a count."""
    law = stats.binom(trials, probability)
    return two_sided(float(law.cdf(count)), float(law.sf(count - 1)))


def normal_scores(
    counts: Counts, trials: int, probability: float, *, random: np.random.Generator
) -> Floats:
    """Exactly standard normal values, if the counts are binomial; infinite for an impossible one.

    Source: Dunn and Smyth (1996), Randomized quantile residuals, J. Comput. Graph. Stat. 5(3).
    """
    law = stats.binom(trials, probability)
    share = random.uniform(size=counts.shape)
    below = law.cdf(counts - 1) + share * law.pmf(counts)
    above = law.sf(counts) + (1.0 - share) * law.pmf(counts)
    # From the nearer tail, so that a value far out is not rounded to 0 or 1.
    scores: Floats = np.where(below < 0.5, stats.norm.ppf(below), stats.norm.isf(above))
    return scores


def poisson_checks(
    name: str,
    counts: Counts,
    totals: Counts,
    overlaps: Counts,
    rate: float,
    random: np.random.Generator,
) -> list[Check]:
    """Each person in each draw by a coin of its own.

    Shapes: counts [draws] of people, totals [people] of draws, overlaps [draws // 2] of
        people who are in both of two draws in a row.
    """
    draws, people = len(counts), len(totals)
    sizes = normal_scores(counts, people, rate, random=random)
    shares = normal_scores(totals, draws, rate, random=random)
    common = normal_scores(overlaps, people, rate**2, random=random)
    return [
        improbable(
            f"{name}.rate",
            binomial_p(int(counts.sum()), draws * people, rate),
            meaning="people are drawn as often as the plan says",
        ),
        improbable(
            f"{name}.sizes",
            [variance_p(sizes), shape_p(sizes)],
            meaning="the number drawn is binomial; a shuffled epoch's never varies",
        ),
        improbable(
            f"{name}.people",
            [variance_p(shares), shape_p(shares)],
            meaning="everybody is drawn at the same rate, and no more evenly than by chance",
        ),
        improbable(
            f"{name}.independent",
            [mean_p(common), binomial_p(int(overlaps.sum()), len(overlaps) * people, rate**2)],
            meaning="who was drawn before is drawn again as often as anybody",
        ),
    ]


def clopper_pearson(successes: int, trials: int, *, alpha: float) -> tuple[float, float]:
    """Lower and upper bound on a probability; each is wrong with probability `alpha` at most.

    Source: Clopper and Pearson (1934), Biometrika 26(4).
    """
    if trials == 0:
        return 0.0, 1.0
    missed = trials - successes
    lower = float(betaincinv(successes, missed + 1, alpha)) if successes else 0.0
    upper = 1.0 - float(betaincinv(missed, successes + 1, alpha)) if missed else 1.0
    return lower, upper


def auc(positive: Floats, negative: Floats) -> tuple[float, float]:
    """Area under the ROC curve, and its standard error.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44(3).
    """
    m, n = positive.size, negative.size
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    over_negatives = (ranks[:m] - stats.rankdata(positive)) / n
    over_positives = 1.0 - (ranks[m:] - stats.rankdata(negative)) / m
    area = float(over_negatives.mean())
    if min(m, n) < 2:
        return area, 0.5
    squared = over_negatives.var(ddof=1) / m + over_positives.var(ddof=1) / n
    return area, math.sqrt(float(squared))


def roc(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """(fpr, tpr) of the rule `score >= t`, for every t that changes them, from (0, 0) to (1, 1)."""
    cuts = np.unique(np.concatenate([positive, negative]))[::-1]
    tpr = 1.0 - np.searchsorted(np.sort(positive), cuts, side="left") / positive.size
    fpr = 1.0 - np.searchsorted(np.sort(negative), cuts, side="left") / negative.size
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def tpr_at(fpr: Floats, tpr: Floats, level: float) -> float:
    """The largest TPR whose FPR is not above `level`."""
    return float(tpr[fpr <= level].max())
