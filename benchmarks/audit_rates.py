"""What many audits of honest runs say of the rate of false alarms, and what they cannot say.

A check alarms below `statistics.ALPHA`. That is too rare to be counted, so it is counted how often
p-values are below limits that are not: a p-value is below any limit as rarely as that limit says.
Audits are independent of one another, the checks of one audit are not. So an audit counts once at a
limit, and by Bonferroni's inequality its smallest p-value times their number is below it at most as
often as the limit says.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from lethe.attacks.statistics import FALSE_ALARMS, clopper_pearson

LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)
SIGNIFICANT = 1e-6  # of any of the tests here: an honest audit is not suspected by chance

Audits = Sequence[Mapping[str, Any]]


def smallest(audits: Audits) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of each audit: its smallest p-value times how many there are; below x at most so often."""
    return np.array([min(a["p_values"].values()) * len(a["p_values"]) for a in audits])


def excess(count: int, of: int, level: float) -> float:
    """How probable so many are, or more, of independent p-values that are exact or bounds."""
    return float(stats.binom.sf(count - 1, of, level))


def by_check(audits: Audits) -> dict[str, list[float]]:
    """The p-values of each check, one an audit."""
    found: dict[str, list[float]] = {}
    for audit in audits:
        for name, value in audit["p_values"].items():
            found.setdefault(name, []).append(value)
    return found


def worst_check(audits: Audits) -> tuple[str, float]:
    """The check whose p-values are too small most plainly; how probable that is, over all checks.

    One-sided Kolmogorov-Smirnov against the uniform law: what is larger than uniform is a bound.
    """
    tested = {
        name: float(stats.kstest(values, "uniform", alternative="greater").pvalue)
        for name, values in by_check(audits).items()
    }
    name = min(tested, key=lambda each: tested[each])
    return name, min(1.0, tested[name] * len(tested))


def report(audits: Audits) -> str:
    """A page of Markdown: counts, tables, and how far each goes."""
    failed = Counter(name for audit in audits for name in audit["failed"])
    contradicted = sum(bool(audit["failed"]) for audit in audits)
    most = clopper_pearson(contradicted, len(audits), alpha=0.05)[1]
    values = np.array([p for audit in audits for p in audit["p_values"].values()])
    lows, (name, suspicion) = smallest(audits), worst_check(audits)
    lines = [
        f"| audits of runs, of {len({a['variant'] for a in audits})} kinds | {len(audits)} |",
        "|---|---|",
        f"| contradicted | {contradicted}{f': {dict(failed)}' if failed else ''} |",
        f"| so the rate is below, with 95 % confidence, by that count alone | {most:.2g} |",
        f"| stated rate of one audit, at most | {max(a['rate'] for a in audits):.2g} |",
        f"| p-values; the smallest of them | {len(values)}; {values.min():.1g} |",
        f"| other statistical limits; facts without chance | {_sum(audits, 'limits')}; "
        f"{_sum(audits, 'facts')} |",
        f"| check with the smallest p-values; probability of that by chance, over all "
        f"{len(by_check(audits))} | `{name}`; {suspicion:.2g} |",
        f"| processor time of a run and its audit, median | "
        f"{np.median([a['seconds'] for a in audits]):.1f} s |",
        "",
        "| limit | audits with a p-value below limit / number of checks | at most, on average | "
        "probability of so many | single p-values below the limit | at most, on average |",
        "|---|---|---|---|---|---|",
    ]
    for level in LEVELS:
        count, single = int((lows < level).sum()), int((values < level).sum())
        chance = excess(count, len(audits), level)
        lines.append(
            f"| {level:g} | {count} | {level * len(audits):g} | {chance:.2g} | {single} | "
            f"{level * len(values):.0f} |"
        )
    return "\n".join(lines)


def suspicious(audits: Audits) -> list[str]:
    """What contradicts the stated rate; nothing where it is true."""
    found = [f"contradicted: {', '.join(a['failed'])}" for a in audits if a["failed"]]
    found += [f"stated: {a['rate']}" for a in audits if not a["rate"] <= FALSE_ALARMS]
    lows = smallest(audits)
    for level in LEVELS:
        if excess(int((lows < level).sum()), len(lows), level) < SIGNIFICANT:
            found.append(f"too many audits with a p-value below {level:g}, all checks considered")
    name, chance = worst_check(audits)
    return [*found, *([f"too small: {name}"] if chance < SIGNIFICANT else [])]


def _sum(audits: Audits, field: str) -> int:
    return sum(audit[field] for audit in audits)
