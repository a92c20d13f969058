"""Are a run's residuals the noise that was charged: independent standard normal values?

Every function gives one check, which alarms at honest noise with probability
`statistics.ALPHA` at most; the p-values are those of `bounds`.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from lethe.attacks.run import bounds
from lethe.attacks.run.distances import pairs_p, smallest, stream_p, windows_p
from lethe.attacks.statistics import Check, Counts, Floats, holds, improbable

PREFIX = "noise_of_run"
_PHASES = 8
_TAILS = (2.0, 2.25, 2.5, 2.75, 3.0, 3.1, 3.5, 4.0, 4.5)
_NEAR_ZERO = 0.02
_MOMENTS = range(1, 9)
_ROWS = 1024  # the last steps, of which every pair is looked at
_STREAM = 1 << 21  # values that are held against all that come later
_SPAN = 512  # directions of a matrix


@dataclass(frozen=True)
class Residuals:
    """(release - sum) / scale of the steps that were looked at.

    Attributes:
        numbers: int64 [steps], rising.
        values: float64 [steps, kept]: the coordinates that were kept of each step.
        tensor_of: int64 [kept]: which tensor each is of.
        columns: int64 [some]: of the kept ones, rising, those held against one another.
        slack: float64 [steps]: the length of what float32 may have added to a step's residual.
        grid: of this, what rounding as a step was released may have added to one value.
        squares: float64 [steps, tensors]: square length by tensor, over all coordinates.
        sizes: int64 [tensors]: coordinates of each.
        by_coordinate: float64 [coordinates]: sum of squares over the steps.
        beside: float64 [steps, numbers] that were there before the noise and must not decide how
            wide it is: how many were drawn, the length of their sum, the step's own number.
        along: float64 [steps, directions]: of the residual along directions that were there
            before the noise (of the sum, of somebody drawn, of the weights).
        counts, counts_slack: float64 [steps]: the same for an adaptive clip's count; else empty.
    """

    numbers: Counts
    values: Floats
    tensor_of: Counts
    columns: Counts
    slack: Floats
    grid: float
    squares: Floats
    sizes: Counts
    by_coordinate: Floats
    beside: Floats
    along: Floats
    counts: Floats = field(default_factory=lambda: np.zeros(0))
    counts_slack: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def whole_slack(self) -> float:
        """Of all steps together."""
        return float(np.linalg.norm(self.slack))


def law_checks(found: Residuals) -> list[Check]:
    """Every check of residuals whose sums are known."""
    numbers = (found.values, found.squares, found.along, found.counts)
    if not all(np.isfinite(each).all() for each in numbers):
        meaning = "what was released, the counts too, is made of finite numbers"
        return [holds(f"{PREFIX}.finite", False, meaning=meaning)]
    checks = [
        *_sizes(found),
        _mean(found),
        _law(found),
        _kurtosis(found),
        _tails(found),
        _largest(found),
        _distinct(found),
        _along(found),
        _steps_differ(found),
        _steps_independent(found),
        _coordinates_independent(found),
        _every_direction(found),
    ]
    return checks if not len(found.counts) else [*checks, _count(found)]


def _sizes(found: Residuals) -> list[Check]:
    """Of lengths."""
    slack, off = found.slack, found.whole_slack
    each = found.squares.sum(1)
    parts = np.array_split(np.arange(len(each)), min(_PHASES, len(each)))
    phases = [
        bounds.norm_p(
            np.sqrt(found.squares[rows].sum(0)),
            found.sizes * len(rows),
            float(np.linalg.norm(slack[rows])),
        )
        for rows in parts
    ]
    tensors = bounds.norm_p(np.sqrt(found.squares.sum(0)), found.sizes * len(each), off)
    total = int(found.sizes.sum())
    pooled = bounds.norm_p(np.sqrt([each.sum()]), np.array([total * len(each)]), off)
    coordinates, whole = np.sqrt(found.by_coordinate), np.full(len(each), total)
    return [
        _check("scale", pooled, meaning="the run's noise is as wide as what was charged"),
        _check(
            "every_tensor",
            np.concatenate([tensors, *phases]),
            meaning="every layer has the noise that was charged, in every phase of the run",
        ),
        _check(
            "every_step",
            bounds.norm_p(np.sqrt(each), whole, slack),
            meaning="every step that was looked at has the noise that was charged",
        ),
        _check(
            "any_batch",
            [bounds.trend_p(np.sqrt(each), whole, by, slack) for by in found.beside.T],
            meaning="the noise is as wide however many were drawn, whatever their sum, and when",
        ),
        _check(
            "every_coordinate",
            bounds.norm_p(coordinates, np.full(total, len(each)), off),
            meaning="every single parameter has the noise that was charged",
        ),
    ]


def _check(name: str, p_values: Floats | list[float], *, meaning: str) -> Check:
    many = [float(p) for p in p_values]
    return improbable(f"{PREFIX}.{name}", many or [0.0], meaning=meaning)


def _mean(found: Residuals) -> Check:
    values, whole = found.values, found.whole_slack
    steps, kept = values.shape
    tensors = [values[:, found.tensor_of == t] for t in np.unique(found.tensor_of)]
    return _check(
        "mean",
        [
            float(bounds.sum_p(np.array([values.sum()]), np.array([values.size]), whole)[0]),
            smallest(bounds.sum_p(values.sum(1), np.full(steps, kept), found.slack)),
            smallest(bounds.sum_p(values.sum(0), np.full(kept, steps), whole)),
            *(
                float(bounds.sum_p(np.array([t.sum()]), np.array([t.size]), whole)[0])
                for t in tensors
            ),
        ],
        meaning="the noise is 0 on average: of all, of each step, layer and parameter",
    )


def _groups(found: Residuals) -> list[tuple[Floats, float, float]]:
    """All values, those of each phase and of each tensor; how far they may be off, and each one."""
    values, whole, furthest = found.values, found.whole_slack, float(found.slack.max())
    parts = np.array_split(values, min(_PHASES, len(values)))
    tensors = [values[:, found.tensor_of == t] for t in np.unique(found.tensor_of)]
    return [(part.ravel(), whole, furthest) for part in (values, *parts, *tensors) if part.size]


def _law(found: Residuals) -> Check:
    return _check(
        "law",
        [bounds.law_p(part, furthest) for part, _, furthest in _groups(found)],
        meaning="the noise is normal, in every phase and layer",
    )


def _kurtosis(found: Residuals) -> Check:
    return _check(
        "kurtosis",
        [bounds.moment_p(part, k, whole) for part, whole, _ in _groups(found) for k in _MOMENTS],
        meaning="skewness, kurtosis and what is above them are the normal law's",
    )


def _tails(found: Residuals) -> Check:
    values, slack = found.values, found.slack[:, None]
    trials, size = values.size, np.abs(values)
    p_values = []
    for k in _TAILS:
        beyond = float(stats.norm.sf(k))
        for sign, share in ((size, 2 * beyond), (values, beyond), (-values, beyond)):
            least, most = int((sign > k + slack).sum()), int((sign > k - slack).sum())
            p_values.append(bounds.tail_p(least, most, trials, share))
    near = float(2 * stats.norm.cdf(_NEAR_ZERO) - 1)
    least, most = (int((size < _NEAR_ZERO + s).sum()) for s in (-slack, slack))
    p_values.append(bounds.tail_p(least, most, trials, near))
    return _check(
        "tails",
        p_values,
        meaning="as many values as chance has are beyond 2, 3, 4 and 4.5 deviations, and near 0",
    )


def _largest(found: Residuals) -> Check:
    away = np.maximum(np.abs(found.values) - found.slack[:, None], 0.0)
    return _check(
        "largest",
        [smallest(2.0 * stats.norm.sf(away))],
        meaning="no single value is further from its sum than noise can be",
    )


def _distinct(found: Residuals) -> Check:
    furthest = float(found.slack.max())
    return _check(
        "distinct",
        [bounds.coincidence_p(found.values.ravel(), furthest, found.grid)],
        meaning="no value comes again as it would from a table or a coarse grid",
    )


def _along(found: Residuals) -> Check:
    steps, whole = len(found.along), found.whole_slack
    counts = np.array([steps])
    p_values = []
    for values in found.along.T:
        length = np.array([np.linalg.norm(values)])
        p_values += [
            float(bounds.norm_p(length, counts, whole)[0]),
            float(bounds.sum_p(np.array([values.sum()]), counts, whole)[0]),
            smallest(bounds.sum_p(values, np.ones(steps, dtype=np.int64), found.slack)),
        ]
    return _check(
        "along_sum",
        p_values,
        meaning="along the sum of the people, one of them, and the weights, is the same noise: "
        "the sum is that of the people drawn, each clipped, and no other",
    )


def _steps_differ(found: Residuals) -> Check:
    """Differences of two steps, and of a step and what was before, are of independent ones.

    So are their sums. With other signs for each value, 2^values differences are tried.
    """
    rows, slack = found.values[-_ROWS:], found.slack[-_ROWS:]
    products, squares, kept = rows @ rows.T, np.square(rows).sum(1), rows.shape[1]
    first, second = np.triu_indices(len(rows), 1)
    p_values = [1.0]
    if len(first):
        both, off = squares[first] + squares[second], slack[first] + slack[second]
        twice = 2.0 * products[first, second]
        sizes = 2.0 * (np.abs(rows) @ np.abs(rows).T)[first, second]
        p_values += [
            smallest(_near_p(both - twice, off, kept)),
            smallest(_near_p(both + twice, off, kept)),
            smallest(_near_p(both - sizes, off, kept, signs=kept)),
        ]
    sums = np.vstack([np.zeros(kept), np.cumsum(rows, axis=0)])
    slacks = np.concatenate([[0.0], np.cumsum(slack)])
    width = 2
    while width < 2 * len(rows) and len(rows) > 2:
        last = np.arange(2, len(rows))
        begin = np.maximum(last - width, 0)
        before = (sums[last] - sums[begin]) / np.sqrt(last - begin)[:, None]
        off = slack[last] + slacks[last] - slacks[begin]
        for past in (before, -before):
            p_values.append(smallest(_near_p(np.square(rows[last] - past).sum(1), off, kept)))
        width *= 2
    return _check(
        "steps_differ",
        p_values,
        meaning="no step has the noise of another one, of the sum of those before, or its opposite",
    )


def _near_p(squares: Floats, slack: Floats, count: int, *, signs: int = 0) -> Floats:
    """How improbable so small a distance is of two independent rows of so many values."""
    furthest = np.square(np.sqrt(np.maximum(squares, 0.0)) + slack) / 2.0
    small = stats.chi2.logcdf(furthest, count) + signs * np.log(2.0)
    found: Floats = np.exp(np.minimum(small, 0.0))
    return found


def _steps_independent(found: Residuals) -> Check:
    rows, sizes = _two_looks(found)
    p_values = []
    for values, slack in zip(rows, sizes, strict=True):
        p_values += pairs_p(values[-_ROWS:], slack[-_ROWS:], found.numbers[-_ROWS:])
        p_values += windows_p(values, slack)
    p_values.append(stream_p(found.values.ravel()[-_STREAM:], found.whole_slack))
    return _check(
        "steps_independent",
        p_values,
        meaning="no noise comes again in another step: whole, scaled, shifted, turned or summed",
    )


def _coordinates_independent(found: Residuals) -> Check:
    rows, sizes = _two_looks(found)
    chosen = found.columns
    p_values = []
    for values, slack in zip(rows, sizes, strict=True):
        columns = values[:, chosen].T
        every = np.full(len(columns), float(np.linalg.norm(slack)))
        # In the order of the parameters: what two layers share has one distance.
        p_values += pairs_p(columns, every, chosen)
    return _check(
        "coordinates_independent",
        p_values,
        meaning="no two parameters share noise, or its size",
    )


def _two_looks(found: Residuals) -> tuple[list[Floats], list[Floats]]:
    """The values themselves; and their sizes, as uniform values of mean 0 and variance 1.

    A uniform value's tails are below those of the normal law of its variance (sub-Gaussian).
    """
    sizes = np.sqrt(3.0) * (4.0 * stats.norm.cdf(np.abs(found.values)) - 3.0)
    steepest = 4.0 * np.sqrt(3.0) * float(stats.norm.pdf(0.0))
    return [found.values, sizes], [found.slack, steepest * found.slack]


def _every_direction(found: Residuals) -> Check:
    values, slack = found.values, found.whole_slack
    p_values = []
    if min(values.shape) >= 2:
        rows = values[-_SPAN:] if len(values) > _SPAN and values.shape[1] > _SPAN else values
        columns = rows[:, :_SPAN] if min(rows.shape) > _SPAN else rows
        p_values += bounds.span_p(columns, slack)
        # A tall and a wide part see what a square one does not.
        half = max(2, len(rows) // 4), max(2, rows.shape[1] // 4)
        p_values += bounds.span_p(rows[-half[0] :][:, :_STREAM], slack)
        p_values += bounds.span_p(rows[:, -min(half[1], _SPAN) :], slack)
    return _check(
        "every_direction",
        p_values or [1.0],
        meaning="there is noise in every combination of parameters, and of steps",
    )


def _count(found: Residuals) -> Check:
    values, slack = found.counts, found.counts_slack
    steps, whole = len(values), float(np.linalg.norm(slack))
    one = np.array([steps])
    return _check(
        "count",
        [
            float(bounds.norm_p(np.array([np.linalg.norm(values)]), one, whole)[0]),
            float(bounds.sum_p(np.array([values.sum()]), one, whole)[0]),
            bounds.law_p(values, float(slack.max())),
            *pairs_p(values[-_ROWS:, None], slack[-_ROWS:], found.numbers[-_ROWS:]),
        ],
        meaning="the count that the clip follows is of the people within it, with its own noise",
    )
