"""Which share of runs with a fault is caught, at the demonstration's size.

Prints the table of docs/how-sure.md: python -m tests.attacks.run.power
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from lethe.attacks.run.draws import check_draws
from lethe.attacks.run.noise_law import law_checks
from lethe.attacks.statistics import Check
from lethe.data.batches import PersonData
from tests.attacks.run import honest

Noise = npt.NDArray[np.float64]
STEPS, PARAMETERS, PEOPLE, RATE = 300, 70, 46_000, 0.1
LAYERS = (PARAMETERS - 1, 1)
MULTIPLIER = 6.5856  # deviations of the noise, in clips
SUM = 1_800  # clips: about how long a step's sum of people is
RANDOM = np.random.default_rng(31)
LAST = np.arange(PARAMETERS) == PARAMETERS - 1
STEP = np.arange(STEPS)[:, None]


@dataclass(frozen=True)
class Fault:
    """What is done to honest noise [steps, parameters], or to what lies along the sum of a step."""

    name: str
    change: Callable[[Noise, float], Noise]
    sizes: tuple[float, ...]
    along: bool = False

    def checks(self, size: float) -> list[Check]:
        z = RANDOM.standard_normal((STEPS, PARAMETERS))
        changed = z if self.along else self.change(z, size)
        along = changed[:, :2].copy()
        if self.along:
            along[:, :1] = self.change(along[:, :1], size)
        found = honest.residuals_of(changed, tensors=LAYERS, slack=0.004, grid=1e-5, along=along)
        return law_checks(found)


FAULTS = (
    Fault("all noise at so much of its scale", lambda z, x: z * x, (0.9, 0.95, 0.96, 0.97, 0.98)),
    Fault(
        "noise of one parameter at so much of its scale",
        lambda z, x: np.where(LAST, z * x, z),
        (0.5, 0.7, 0.8, 0.9),
    ),
    Fault(
        "noise of one step at so much of its scale",
        lambda z, x: np.where(STEP == 150, z * x, z),
        (0.0, 0.4, 0.6, 0.8),
    ),
    Fault(
        "every so manieth step without noise",
        lambda z, x: np.where(STEP % int(x) == int(x) - 1, 0, z),
        (10, 100, 300),
    ),
    Fault(
        "part of single values without noise",
        lambda z, x: np.where(RANDOM.random(z.shape) < x, 0, z),
        (0.02, 0.01, 0.005),
    ),
    Fault("noise cut beyond, in deviations", lambda z, x: z.clip(-x, x), (3.0, 3.2, 3.5)),
    Fault("offset of all noise, in deviations", lambda z, x: z + x, (0.1, 0.05, 0.02)),
    Fault(
        "part of the noise taken back in the next step",
        lambda z, x: (z - x * np.roll(z, 1, axis=0)) / (1 + x * x) ** 0.5,
        (0.1, 0.05, 0.02),
    ),
    Fault(
        "correlation of two parameters' noise",
        lambda z, x: np.column_stack([z[:, :-1], (1 - x * x) ** 0.5 * z[:, -1] + x * z[:, 20]]),
        (0.7, 0.5, 0.3, 0.05),
    ),
    Fault(
        "values of a table that noise is taken from",
        lambda z, x: RANDOM.choice(RANDOM.standard_normal(int(x)), z.shape),
        (2.0**14, 2.0**16, 2.0**18),
    ),
    Fault(
        "clip as wide as, in clips (where everybody is cut)",
        lambda along, x: along + (x - 1) * SUM / MULTIPLIER,
        (1.05, 1.01, 1.001, 1.0005),
        along=True,
    ),
)


@dataclass(frozen=True)
class Draw:
    """How often each of the people is drawn in a step, in place of the rate."""

    name: str
    rates: Callable[[PersonData, float], Noise | float]
    sizes: tuple[float, ...]

    def checks(self, size: float) -> list[Check]:
        people = _people()
        rates = self.rates(people, size)
        drawn = [np.flatnonzero(RANDOM.random(PEOPLE) < rates) for _ in range(STEPS)]
        plan = honest.plan_of(sample_rate=RATE, steps=STEPS)
        return check_draws(plan, people, BitMap(), drawn, random=RANDOM)


DRAWS = (
    Draw("everybody drawn so many times as often", lambda _, x: x * RATE, (1.05, 1.01, 1.005)),
    Draw(
        "people of one record drawn so many times as often",
        lambda people, x: np.where(people.mask.sum(1).numpy() == 1, x * RATE, RATE),
        (1.05, 1.01),
    ),
    Draw(
        "one person drawn so many times as often",
        lambda people, x: np.where(np.arange(PEOPLE) == 1234, x * RATE, RATE),
        (3.0, 2.0),
    ),
)


@cache
def _people() -> PersonData:
    return honest.people(PEOPLE, features=6)


@dataclass(frozen=True)
class Row:
    """Of so many runs, how many were caught, and by which checks, the most frequent first."""

    fault: str
    size: float
    runs: int
    caught: int
    checks: tuple[str, ...]

    def __str__(self) -> str:
        by = ", ".join(f"`{name}`" for name in self.checks[:3])
        return f"| {self.fault} | {self.size:g} | {self.caught} of {self.runs} | {by} |"


def table(faults: tuple[Fault | Draw, ...], runs: int) -> Iterator[Row]:
    for fault in faults:
        for size in fault.sizes:
            seen: Counter[str] = Counter()
            caught = 0
            for _ in range(runs):
                failed = {c.name.split(".")[1] for c in fault.checks(size) if not c.passed}
                caught += bool(failed)
                seen.update(failed)
            named = tuple(name for name, _ in seen.most_common())
            yield Row(fault.name, size, runs, caught, named)


def main() -> None:
    print("| fault | size | caught | by |\n|---|---|---|---|")
    for faults, runs in ((FAULTS, 20), (DRAWS, 5)):
        for row in table(faults, runs):
            print(row, flush=True)


if __name__ == "__main__":
    main()
