"""The noise of a run's own steps: what each released, less the sum of its people computed anew.

Which steps is secret until the training is over, and every phase and the last step are among
them; of a small model all of them. What is left over must be independent noise of the law that
was charged, in every step, layer and parameter (`noise_law`), but for what float32 does to a sum
(`sums`). A network that draws at random as it trains (dropout) has sums that nobody can compute
anew: of its noise the length alone is looked at, as far as n people times the clip leave room,
and a check says what was not.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from lethe.attacks.run.noise_law import PREFIX, Residuals, law_checks, size_checks
from lethe.attacks.run.steps import RunStep
from lethe.attacks.run.sums import ROUNDING, LossFn, PersonSums, StepSum
from lethe.attacks.statistics import Check, Counts, Floats, at_most, holds
from lethe.data.batches import PersonData
from lethe.privacy.plan import Plan

_VALUES = 2_000_000  # of noise, that are enough
_WORK = 3_000_000_000  # people times parameters over all steps
_PHASES = 4  # of the run; two steps in a row of each at the least, and the last one
_KEPT = 1 << 22  # values that are kept for what needs them all at once
_COLUMNS = 256  # parameters of which every pair is looked at
_CLIP_ROUNDING = 1e-9  # of a clip that is computed again


def steps_to_look_at(
    plan: Plan,
    coordinates: int,
    people_drawn: int,
    kept_steps: Sequence[int],
    random: np.random.Generator,
) -> list[int]:
    """Numbers of the steps to look at, rising: all, or as many as the work allows.

    Chosen by `random`, which must be of the operating system, in pairs of steps in a row, as
    many in each phase of the run; the last one always.

    Args:
        coordinates: the model's trainable numbers.
        people_drawn: at most, in one step.
        kept_steps: those whose weights and release are known.
    """
    kept = sorted(set(kept_steps))
    allowed = min(_VALUES // coordinates, _WORK // (coordinates * max(1, people_drawn)))
    if len(kept) <= max(allowed, 2 * _PHASES + 1):
        return kept
    pairs = max(1, (allowed - 1) // (2 * _PHASES))
    chosen = {kept[-1]}
    for phase in np.array_split(np.arange(len(kept)), _PHASES):
        begins = random.permutation(phase[: max(1, len(phase) - 1)])[:pairs]
        for place in begins.tolist():
            chosen |= {kept[place], kept[min(place + 1, len(kept) - 1)]}
    return sorted(chosen)


def check_residuals(
    plan: Plan,
    model: nn.Module,
    loss_fn: LossFn,
    data: PersonData,
    steps: Iterable[RunStep],
    *,
    random: np.random.Generator,
) -> list[Check]:
    """Every check of the noise in these steps, in whatever order they come.

    Args:
        model: its weights do not matter; it is left as it was.
        random: of the operating system's randomness; chooses what is kept of large models.
    """
    look = _Gathering(plan, PersonSums(model, loss_fn, data), random)
    for step in steps:
        look.at(step)
    return look.checks()


@dataclass
class _Gathering:
    """Gathers residuals step by step, in bounded memory."""

    plan: Plan
    sums: PersonSums
    random: np.random.Generator
    known: bool | None = None
    numbers: list[int] = field(default_factory=list)
    clips: list[float] = field(default_factory=list)
    noisy_counts: list[float | None] = field(default_factory=list)
    rows: list[Floats] = field(default_factory=list)
    squares: list[Floats] = field(default_factory=list)
    slack: list[float] = field(default_factory=list)
    beside: list[tuple[float, float, float]] = field(default_factory=list)
    along: list[list[float]] = field(default_factory=list)
    counts: list[tuple[float, float]] = field(default_factory=list)
    grid: float = 0.0
    off_grid: int = 0
    misshapen: int = 0
    by_coordinate: Floats = field(default_factory=lambda: np.zeros(0))
    kept: Counts = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    sizes: Counts = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def at(self, step: RunStep) -> None:
        """Takes one step in."""
        if self.known is None:
            self._begin(step)
        self.numbers.append(step.number)
        self.clips.append(step.clip_norm)
        self.noisy_counts.append(step.count)
        released = torch.cat([t.detach().flatten() for t in step.release]).cpu().float().numpy()
        sizes = np.array([t.numel() for t in step.release])
        if not np.array_equal(sizes, self.sizes):
            self.misshapen += 1
            return
        clip, exact = step.clip_norm, released.astype(np.float64)
        scale, grid_step = self._scale(clip)
        found = self._sum(step, scale)
        total, doubt = found.total, found.doubt
        if grid_step:
            total = np.round(total / grid_step) * grid_step
            doubt += grid_step * math.sqrt(len(total))
            away = np.abs(exact - np.round(exact / grid_step) * grid_step)
            allowed = np.spacing(np.abs(released)) * (0.5 + 1e-6) + np.abs(exact) * 2.0**-38
            self.off_grid += int((~(away <= allowed)).sum())
        residual = (exact - total) / scale
        self.slack.append((doubt + ROUNDING * float(np.linalg.norm(exact))) / scale)
        # As it was added, and as the noise itself is a float32.
        largest = float(np.abs(exact).max(initial=0.0)) / scale
        self.grid = max(self.grid, ROUNDING * (largest + 8))
        self.by_coordinate += np.square(residual)
        ends = np.cumsum(self.sizes)[:-1]
        self.squares.append(
            np.array([float(np.square(part).sum()) for part in np.split(residual, ends)])
        )
        self.rows.append(residual[self.kept])
        length = float(np.linalg.norm(found.total))
        self.beside.append((len(step.drawn), length, step.number))
        self.along.append([_along(residual, d) for d in (found.total, self._weights(step))])
        if self.plan.adaptive is not None and self.known:
            self._count(step, found.within)

    def _begin(self, step: RunStep) -> None:
        self.known = self.sums.known(step)
        coordinates = self.sums.coordinates
        self.sizes = np.array(self.sums.sizes, dtype=np.int64)
        self.by_coordinate = np.zeros(coordinates)
        fewest = max(1, min(self.plan.steps, _VALUES // coordinates))
        many = min(coordinates, max(1, _KEPT // max(fewest, 2 * _PHASES + 1)))
        self.kept = np.sort(self.random.permutation(coordinates)[:many])

    def _sum(self, step: RunStep, scale: float) -> StepSum:
        if self.known:
            return self.sums.of(step, noise=scale / step.clip_norm, random=self.random)
        nothing = np.zeros(self.sums.coordinates)
        half = len(step.drawn) / 2
        return StepSum(nothing, len(step.drawn) * step.clip_norm, (-half, half))

    def _scale(self, clip: float) -> tuple[float, float]:
        """Standard deviation of the noise at this clip, and the step of its grid if it has one.

        The formulas are those of `Plan` and `privacy.noise.discrete`, and not read from there.
        """
        plan, z = self.plan, self.plan.noise_multiplier
        if plan.adaptive is not None:
            count = 2 * plan.adaptive.count_noise
            z = z * count / math.sqrt(count**2 - z**2)
        if plan.noise != "discrete":
            return z * clip, 0.0
        rounding = 2 * plan.noise_multiplier * math.sqrt(self.sums.coordinates)
        step = z * clip * 1.0001 / (math.sqrt(2**48 - 64) - rounding)
        return step * 2**24, step

    def _weights(self, step: RunStep) -> Floats:
        found = [step.weights[n].detach().flatten().double() for n in self.sums.trained]
        weights: Floats = torch.cat(found).cpu().numpy()
        return weights

    def _count(self, step: RunStep, within: tuple[float, float]) -> None:
        if self.plan.adaptive is None:
            return
        unit = self.plan.adaptive.count_noise
        low, high = within
        noise = (math.nan if step.count is None else step.count) - (low + high) / 2
        self.counts.append((noise / unit, (high - low) / 2 / unit + 1e-6))

    def checks(self) -> list[Check]:
        facts = [self._looked_at(), self._clip()]
        if self.plan.noise == "discrete":
            facts.append(
                at_most(
                    f"{PREFIX}.grid",
                    self.off_grid,
                    0,
                    meaning="what the steps released lies on the plan's public grid",
                )
            )
        if not self.rows or self.misshapen:
            return facts
        found = self._residuals()
        if self.known:
            return [*facts, *law_checks(found)]
        room = float(np.max(found.slack)) / math.sqrt(int(found.sizes.sum()))
        unknown = Check(
            f"{PREFIX}.unknown_sums",
            True,
            room,
            math.inf,
            0.0,
            "at most",
            "the network draws at random as it trains, so that a step's sum is known only to the "
            "number drawn times the clip, this many times the noise's length; the noise's law, "
            "tails, mean and independence were NOT looked at, and its length only beyond that",
        )
        return [*facts, unknown, *size_checks(found)]

    def _looked_at(self) -> Check:
        whole = bool(self.rows) and self.plan.steps - 1 in self.numbers and not self.misshapen
        meaning = "steps were looked at, the last one too, and each released every parameter once"
        return holds(
            f"{PREFIX}.looked_at",
            whole and len(set(self.numbers)) == len(self.numbers),
            meaning=f"{meaning}; {len(self.rows)} of {self.plan.steps}",
        )

    def _clip(self) -> Check:
        """Each clip is the plan's, or what an adaptive one becomes by the noisy count before."""
        plan, order = self.plan, np.argsort(self.numbers)
        worst = 0.0
        for here, after in zip(order, [*order[1:], None], strict=True):
            if plan.adaptive is None or self.numbers[here] == 0:
                worst = max(worst, abs(self.clips[here] / plan.clip_norm - 1))
            count = self.noisy_counts[here]
            if plan.adaptive is None or after is None:
                continue
            if self.numbers[after] != self.numbers[here] + 1:
                continue
            share = (math.nan if count is None else count) / plan.expected_batch_size + 0.5
            moved = plan.adaptive.learning_rate * (share - plan.adaptive.quantile)
            expected = self.clips[here] * math.exp(-moved)
            expected = min(max(expected, plan.clip_norm / 1e4), plan.clip_norm * 1e4)
            error = abs(self.clips[after] / expected - 1)
            worst = max(worst, math.inf if math.isnan(error) else error)
        return at_most(
            f"{PREFIX}.clip",
            worst,
            _CLIP_ROUNDING if plan.adaptive is None else 1e-5,
            meaning="each step's clip is the plan's, or made of the noisy count before it alone",
        )

    def _residuals(self) -> Residuals:
        order = np.argsort(self.numbers)
        found = Residuals(
            numbers=np.array(self.numbers, dtype=np.int64)[order],
            values=np.array(self.rows)[order],
            tensor_of=np.repeat(np.arange(len(self.sizes)), self.sizes)[self.kept],
            columns=np.sort(self.random.permutation(len(self.kept))[:_COLUMNS]),
            slack=np.array(self.slack)[order],
            grid=self.grid,
            squares=np.array(self.squares)[order],
            sizes=self.sizes,
            by_coordinate=self.by_coordinate,
            beside=np.array(self.beside, dtype=np.float64)[order],
            along=np.array(self.along)[order],
        )
        if not self.counts:
            return found
        counts = np.array(self.counts)[order]
        return replace(found, counts=counts[:, 0], counts_slack=counts[:, 1])


def _along(residual: Floats, direction: Floats) -> float:
    """The part of the residual along a direction; along the first axis if it is none."""
    length = float(np.linalg.norm(direction))
    return float(residual @ direction) / length if length else float(residual[0])
