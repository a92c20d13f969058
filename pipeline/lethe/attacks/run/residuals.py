"""The noise of a run's own steps: what each released, less the sum of its people computed anew.

Which steps is secret until the training is over, and every phase and the last step are among
them; of a small model all of them. What is left over must be independent noise of the law that
was charged, in every step, layer and parameter (`noise_law`), but for what float32 does to a sum
(`sums`). A run whose sums cannot be computed anew is contradicted: before it was paid for, its
network was refused if it draws what cannot be drawn again (`training.rehearsal`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lethe.attacks.run.lengths import noise_scale
from lethe.attacks.run.noise_law import PREFIX, Residuals, law_checks
from lethe.attacks.run.steps import RunStep
from lethe.attacks.run.sums import ROUNDING, PersonSums
from lethe.attacks.statistics import Check, Counts, Floats, at_most, holds
from lethe.core.errors import TrainingRefused
from lethe.privacy.plan import Plan

_VALUES = 2_000_000  # of noise, that are enough
_PHASES = 4  # of the run; two steps in a row of each at the least, and the last one
_FEWEST = 4  # steps, whatever they cost: one drawn from each third, and the last one
_KEPT = 1 << 22  # values that are kept for what needs them all at once
_COLUMNS = 256  # parameters of which every pair is looked at


def steps_to_look_at(
    plan: Plan,
    coordinates: int,
    affordable: int,
    kept_steps: Sequence[int],
    random: np.random.Generator,
) -> list[int]:
    """Numbers of the steps to look at, rising: all, or as many as the work allows.

    Chosen by `random`, which must be of the operating system, in pairs of steps in a row, as
    many in each phase of the run. Where few are affordable one is drawn from each sixth of the run,
    or from each third at the least, since whoever knows that the last step alone is looked at needs
    no noise in the others. The last one always.

    Args:
        coordinates: the model's trainable numbers.
        affordable: steps whose work is allowed; `_FEWEST` are looked at whatever they cost.
        kept_steps: those whose weights and release are known.
    """
    kept = sorted(set(kept_steps))
    fewest = 2 * _PHASES + 1
    allowed = max(_FEWEST, min(max(_VALUES // coordinates, fewest), affordable))
    if len(kept) <= allowed:
        return kept
    if allowed < fewest:
        parts = np.array_split(np.array(kept[:-1]), 3 * ((allowed - 1) // 3))
        return [*(int(random.choice(part)) for part in parts), kept[-1]]
    pairs = max(1, (allowed - 1) // (2 * _PHASES))
    chosen = {kept[-1]}
    for phase in np.array_split(np.arange(len(kept)), _PHASES):
        begins = random.permutation(phase[: max(1, len(phase) - 1)])[:pairs]
        for place in begins.tolist():
            chosen |= {kept[place], kept[min(place + 1, len(kept) - 1)]}
    return sorted(chosen)


def affordable_steps(
    sums: PersonSums, step: RunStep, draws: Sequence[Counts], operations: float
) -> int:
    """How many steps may be looked at for so many operations, each as large as the largest draw.

    Args:
        step: any one of the run's.
        draws: positions of who was drawn, of every step.
    """
    if not sums.known(step):
        return 0
    people = max(1, max(len(drawn) for drawn in draws))
    return int(operations / (people * sums.operations(step)))


def check_residuals(
    plan: Plan,
    sums: PersonSums,
    steps: Iterable[RunStep],
    *,
    random: np.random.Generator,
) -> list[Check]:
    """Every check of the noise in these steps, in whatever order they come.

    Args:
        random: of the operating system's randomness; chooses what is kept of large models.
    """
    look = _Gathering(plan, sums, random)
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
        released = torch.cat([t.detach().flatten() for t in step.release]).cpu().float().numpy()
        sizes = np.array([t.numel() for t in step.release])
        if not np.array_equal(sizes, self.sizes):
            self.misshapen += 1
            return
        clip, exact = step.clip_norm, released.astype(np.float64)
        scale, grid_step = noise_scale(self.plan, clip, self.sums.coordinates)
        if not self.known:
            return
        try:
            found = self.sums.of(step, noise=scale / clip, random=self.random)
        except TrainingRefused:
            self.known = False
            return
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
        known_before = (found.total, found.person, self._weights(step))
        self.along.append([_along(residual, each) for each in known_before])
        if self.plan.adaptive is not None:
            self._count(step, found.within)

    def _begin(self, step: RunStep) -> None:
        self.known = self.sums.known(step)
        coordinates = self.sums.coordinates
        self.sizes = np.array(self.sums.sizes, dtype=np.int64)
        self.by_coordinate = np.zeros(coordinates)
        fewest = max(1, min(self.plan.steps, _VALUES // coordinates))
        many = min(coordinates, max(1, _KEPT // max(fewest, 2 * _PHASES + 1)))
        self.kept = np.sort(self.random.permutation(coordinates)[:many])

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
        facts = [self._known(), self._looked_at()]
        if self.plan.noise == "discrete":
            facts.append(
                at_most(
                    f"{PREFIX}.grid",
                    self.off_grid,
                    0,
                    meaning="what the steps released lies on the plan's public grid",
                )
            )
        if not self.rows or self.misshapen or not self.known:
            return facts
        return [*facts, *law_checks(self._residuals())]

    def _known(self) -> Check:
        return holds(
            f"{PREFIX}.known_sums",
            self.known is not False,
            meaning="each sum can be computed anew: what the network draws as it trains can be "
            "drawn again",
        )

    def _looked_at(self) -> Check:
        enough = len(self.rows) >= min(self.plan.steps, _FEWEST)
        whole = enough and self.plan.steps - 1 in self.numbers and not self.misshapen
        meaning = (
            f"steps were looked at, {_FEWEST} at the least where there are so many and the last "
            "one too, and each released every parameter once"
        )
        return holds(
            f"{PREFIX}.looked_at",
            whole and len(set(self.numbers)) == len(self.numbers),
            meaning=f"{meaning}; {len(self.rows)} of {self.plan.steps}, as many as were kept and "
            "audit.look_operations allow",
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
