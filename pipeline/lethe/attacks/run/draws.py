"""Who was drawn in a run's own steps: everybody by a coin of its own in each, at the plan's rate?

All steps are looked at together. Counts are binomial, and their p-values exact. Who is drawn
again is compared given who was drawn before: of these, each is again drawn by a coin of its own,
so that the number is binomial whatever the earlier draws were, and its randomized quantile
residual is normal and independent of all before (`statistics.normal_scores`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from scipy import stats

from lethe.attacks.statistics import (
    Check,
    Counts,
    Floats,
    at_most,
    binomial_p,
    holds,
    improbable,
    mean_p,
    normal_scores,
    shape_p,
    variance_p,
)
from lethe.data.batches import PersonData
from lethe.privacy.plan import Plan

PREFIX = "draws_of_run"
_PHASES = 4
_FEATURES = 256  # of which each gives two groups
_CYCLES = range(2, 17)  # every second, third, ... place
_BLOCKS = (2, 4, 16, 64)  # as many runs of places
_STEPS_AT_ONCE = 512  # of which every pair is looked at
_PEOPLE_AT_ONCE = 100_000  # in those pairs

Group = npt.NDArray[np.bool_]


def check_draws(
    plan: Plan,
    data: PersonData,
    held_out: BitMap,
    drawn: Sequence[Counts],
    *,
    random: np.random.Generator,
) -> list[Check]:
    """Every check of a run's draws.

    Args:
        held_out: tokens of who may not be drawn.
        drawn: of each step, int64 positions in `data`, in the steps' order.
        random: of the operating system's randomness.
    """
    draws = _Draws.of(drawn, len(data))
    facts = [
        holds(
            f"{PREFIX}.steps",
            len(drawn) == plan.steps,
            meaning="there is one draw for each step that was paid for",
        ),
        at_most(f"{PREFIX}.known", draws.outside, 0, meaning="only people of the run were drawn"),
        at_most(f"{PREFIX}.nobody_twice", draws.twice, 0, meaning="nobody was in a step twice"),
        at_most(
            f"{PREFIX}.admitted",
            len(BitMap(data.tokens[draws.totals > 0]) & held_out),
            0,
            meaning="nobody was drawn who is held out",
        ),
    ]
    if not draws.steps or not len(data):
        return facts
    rate = plan.sample_rate
    return [
        *facts,
        *_rates(draws, rate, random),
        *_groups(draws, data, rate),
        *_again(draws, rate, random),
        _together(draws, rate, random),
    ]


@dataclass(frozen=True)
class _Draws:
    """The draws without what cannot be, and what that was.

    Attributes:
        steps: positions of each step, rising.
        totals: int64 [people]: how often each was drawn.
    """

    steps: list[Counts]
    totals: Counts
    outside: int
    twice: int

    @classmethod
    def of(cls, drawn: Sequence[Counts], people: int) -> "_Draws":
        known = [d[(d >= 0) & (d < people)] for d in drawn]
        once = [np.unique(d) for d in known]
        totals = np.zeros(people, dtype=np.int64)
        for each in once:
            totals[each] += 1
        outside = sum(len(d) - len(k) for d, k in zip(drawn, known, strict=True))
        twice = sum(len(k) - len(o) for k, o in zip(known, once, strict=True))
        return cls(once, totals, outside, twice)

    @property
    def sizes(self) -> Counts:
        return np.array([len(each) for each in self.steps], dtype=np.int64)


def _rates(draws: _Draws, rate: float, random: np.random.Generator) -> list[Check]:
    steps, people = len(draws.steps), len(draws.totals)
    sizes = normal_scores(draws.sizes, people, rate, random=random)
    shares = normal_scores(draws.totals, steps, rate, random=random)
    empty = int((draws.sizes == 0).sum())
    law = stats.binom(steps, rate)
    rarest = float(min(law.cdf(draws.totals.min()), law.sf(draws.totals.max() - 1)))
    return [
        improbable(
            f"{PREFIX}.rate",
            binomial_p(int(draws.sizes.sum()), steps * people, rate),
            meaning="people were drawn as often as the plan says",
        ),
        improbable(
            f"{PREFIX}.sizes",
            [variance_p(sizes), mean_p(sizes), shape_p(sizes), _order_p(sizes)],
            meaning="the number drawn is binomial, and none is like the one before it",
        ),
        improbable(
            f"{PREFIX}.empty",
            binomial_p(empty, steps, float((1.0 - rate) ** people)),
            meaning="as many draws were empty as chance leaves",
        ),
        improbable(
            f"{PREFIX}.people",
            [variance_p(shares), shape_p(shares), _order_p(shares)],
            meaning="everybody was drawn at the same rate, and no more evenly than by chance",
        ),
        improbable(
            f"{PREFIX}.everybody",
            float(min(1.0, 2.0 * people * rarest)),
            meaning="nobody was drawn far more or far less often than the others",
        ),
    ]


def _order_p(values: Floats) -> float:
    """Are neighbours alike? Of independent normal values; exact, in pairs that share none."""
    if not np.isfinite(values).all():
        return 0.0
    first, second = values[0 : len(values) - 1 : 2], values[1::2]
    if not len(second):
        return 1.0
    length = float(np.linalg.norm(first[: len(second)]))
    found = float(first[: len(second)] @ second) / length
    return float(2.0 * stats.norm.sf(abs(found)))


def _groups(draws: _Draws, data: PersonData, rate: float) -> list[Check]:
    """Each group of people as one, over all steps, in each phase, in every second step."""
    steps = np.arange(len(draws.steps))
    parts = [steps, *np.array_split(steps, min(_PHASES, len(steps))), steps[::2], steps[1::2]]
    totals = []
    for part in parts:
        total = np.zeros(len(data), dtype=np.int64)
        for number in part:
            total[draws.steps[number]] += 1
        totals.append((len(part), total))

    def check(name: str, groups: Iterator[Group], meaning: str) -> Check:
        counts, trials = [], []
        for group in groups:
            people = int(group.sum())
            counts += [int(total[group].sum()) for steps, total in totals]
            trials += [steps * people for steps, total in totals]
        if not counts:  # nobody has a label, or a feature
            return improbable(f"{PREFIX}.{name}", 1.0, meaning=meaning)
        found, law = np.array(counts), stats.binom(np.array(trials), rate)
        smallest = float(np.minimum(law.cdf(found), law.sf(found - 1)).min(initial=0.5))
        p_values = min(1.0, 2.0 * smallest * len(counts))
        return improbable(f"{PREFIX}.{name}", p_values, meaning=meaning)

    return [
        check("by_records", _by_records(data), "the rate is the same for few and many records"),
        check("by_label", _by_label(data), "the rate is the same whatever the labels are"),
        check("by_place", _by_place(len(data)), "the rate is the same at every place"),
        check("by_feature", _by_feature(data), "the rate is the same whatever the features are"),
    ]


def _by_records(data: PersonData) -> Iterator[Group]:
    records = data.mask.sum(1).numpy()
    for count in np.unique(records):
        yield records == count


def _by_label(data: PersonData) -> Iterator[Group]:
    labels, mask = data.labels.numpy(), data.mask.numpy()
    kinds = np.unique(labels[mask])
    if len(kinds) > _FEATURES:
        kinds = np.unique(np.quantile(kinds, np.linspace(0, 1, 9)))
    for kind in kinds:
        with_it = (labels == kind) & mask
        yield with_it.any(1)
        yield (with_it == mask).all(1)


def _by_place(people: int) -> Iterator[Group]:
    """Places are in the order of tokens, which decide the shards."""
    place = np.arange(people)
    for blocks in _BLOCKS:
        for block in range(min(blocks, people)):
            yield place * min(blocks, people) // people == block
    for cycle in _CYCLES:
        for start in range(min(cycle, people)):
            yield place % cycle == start


def _by_feature(data: PersonData) -> Iterator[Group]:
    """Of each feature, people whose mean is above and below its middle, and the highest tenth."""
    mask = data.mask.numpy()
    features = data.features.flatten(2).numpy()
    count = mask.sum(1).clip(1)
    width = features.shape[2]
    for column in np.unique(np.linspace(0, width - 1, min(width, _FEATURES)).astype(int)):
        means = (features[:, :, column] * mask).sum(1) / count
        middle, high = np.quantile(means, [0.5, 0.9])
        yield means > middle
        yield means < middle
        yield means >= high


def _again(draws: _Draws, rate: float, random: np.random.Generator) -> list[Check]:
    """Pairs of steps: of who was drawn in the first, how many are in the second?"""
    chosen, rows = _rows(draws, random)
    if len(rows) < 2 or not rows.shape[1]:
        return []
    common = (rows @ rows.T).astype(np.int64)
    first, second = np.triu_indices(len(rows), 1)
    sizes = np.diag(common)[first]
    scores = _scores(common[first, second], sizes, rate, random)
    smallest = 2.0 * float(stats.norm.sf(np.abs(scores).max()))
    _, kinds = np.unique(chosen[second] - chosen[first], return_inverse=True)
    counts = np.bincount(kinds)
    sums, squares = (np.bincount(kinds, w) for w in (scores, np.square(scores)))
    lower, upper = stats.chi2.cdf(squares, counts), stats.chi2.sf(squares, counts)
    means = 2.0 * stats.norm.sf(np.abs(sums) / np.sqrt(counts))
    by_lag = np.concatenate([2.0 * np.minimum(lower, upper), means])
    return [
        improbable(
            f"{PREFIX}.again",
            # An infinite score is a number that cannot be; its sums need not be numbers.
            float(min(1.0, by_lag.min() * by_lag.size)) if np.isfinite(scores).all() else 0.0,
            meaning="who was drawn before is drawn again as often as anybody, after any time",
        ),
        improbable(
            f"{PREFIX}.pairs",
            float(min(1.0, smallest * len(scores))),
            meaning="no two draws have more or fewer people in common than by chance",
        ),
    ]


def _scores(counts: Counts, trials: Counts, rate: float, random: np.random.Generator) -> Floats:
    """`normal_scores`, of trials that differ."""
    law = stats.binom(trials, rate)
    share = random.uniform(size=counts.shape)
    point = law.pmf(counts)
    below, above = law.cdf(counts - 1) + share * point, law.sf(counts) + (1.0 - share) * point
    scores: Floats = np.where(below < 0.5, stats.norm.ppf(below), stats.norm.isf(above))
    return scores


def _rows(draws: _Draws, random: np.random.Generator) -> tuple[Counts, npt.NDArray[np.float32]]:
    """Steps as rows of zeros and ones; of long runs stretches, of many people some, drawn here."""
    steps, people = len(draws.steps), len(draws.totals)
    chosen = np.arange(steps)
    if steps > _STEPS_AT_ONCE:
        stretch = _STEPS_AT_ONCE // 8
        begins = random.integers(steps - stretch, size=8)
        chosen = np.unique((begins[:, None] + np.arange(stretch)).ravel())
    some = np.arange(people)
    if people > _PEOPLE_AT_ONCE:
        some = random.permutation(people)[:_PEOPLE_AT_ONCE]
    rows = np.zeros((len(chosen), len(some)), dtype=np.float32)
    whole = np.zeros(people, dtype=np.float32)
    for row, step in zip(rows, chosen, strict=True):
        whole[:] = 0
        whole[draws.steps[step]] = 1
        row[:] = whole[some]
    return chosen, rows


def _together(draws: _Draws, rate: float, random: np.random.Generator) -> Check:
    """Pairs of people that share nobody: are both in a step as often as two coins say?

    Neighbours at many distances (people of one shard, one household), and pairs by lot.
    """
    people, steps = len(draws.totals), len(draws.steps)
    distances = [d for d in (1, 2, 3, 4, 5, 7, 8, 16, 32, 64, people // 2) if 0 < d <= people // 2]
    partners = [_partners(people, distance) for distance in dict.fromkeys(distances)]
    lot = random.permutation(people)[: people // 2 * 2].reshape(2, -1)
    by_lot = np.full(people, -1)
    by_lot[lot[0]] = lot[1]
    p_values = []
    for partner in (*partners, by_lot):
        pairs = int((partner >= 0).sum())
        if not pairs:
            continue
        both = 0
        here = np.zeros(people + 1, dtype=bool)
        for drawn in draws.steps:
            here[:] = False
            here[drawn] = True
            both += int(here[partner[drawn]].sum())  # no partner is the last place, never drawn
        p_values.append(binomial_p(both, steps * pairs, rate**2))
    return improbable(
        f"{PREFIX}.together",
        p_values or [1.0],
        meaning="two people are drawn together as often as two coins fall alike",
    )


def _partners(people: int, distance: int) -> Counts:
    """Of each place the one so far behind it, so that no place is in two pairs; -1 for none."""
    place = np.arange(people)
    first = (place % (2 * distance) < distance) & (place + distance < people)
    return np.where(first, place + distance, -1)
