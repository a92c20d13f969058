"""The smallest fault of each kind that is seen in 25 runs of 25, at the demonstration's size.

Prints the table of docs/training.md: python -m tests.attacks.run.power
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lethe.attacks.run.noise_law import Residuals, law_checks
from tests.attacks.run.honest import residuals_of

Noise = npt.NDArray[np.float64]
STEPS, PARAMETERS, RUNS = 300, 70, 25
RANDOM = np.random.default_rng(31)
LAST = np.arange(PARAMETERS) == PARAMETERS - 1


def _entries(z: Noise, share: float) -> Noise:
    return np.where(RANDOM.random(z.shape) < share, 0, z)


FAULTS: dict[str, tuple[Callable[[Noise, float], Noise], tuple[float, ...], str]] = {
    "all noise too small by": (lambda z, x: z * (1 - x), (0.02, 0.03, 0.04, 0.05, 0.06), "scale"),
    "noise of one parameter too small by": (
        lambda z, x: np.where(LAST, z * (1 - x), z),
        (0.15, 0.2, 0.25, 0.3, 0.35, 0.4),
        "every_coordinate",
    ),
    "noise of one step too small by": (
        lambda z, x: np.where(np.arange(STEPS)[:, None] == 150, z * (1 - x), z),
        (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7),
        "every_step",
    ),
    "part of single values without noise": (_entries, (0.004, 0.006, 0.008, 0.01, 0.02), "tails"),
    "noise cut beyond, in deviations": (
        lambda z, x: z.clip(-x, x),
        (3.4, 3.2, 3.1, 3.05, 3.0, 2.9),
        "tails",
    ),
    "offset of all noise, in deviations": (
        lambda z, x: z + x,
        (0.04, 0.05, 0.06, 0.07, 0.08),
        "mean",
    ),
    "part of the noise taken back in the next step": (
        lambda z, x: (z - x * np.roll(z, 1, axis=0)) / (1 + x * x) ** 0.5,
        (0.05, 0.06, 0.07, 0.08, 0.1),
        "steps_independent",
    ),
    "values of a table that noise is taken from, at most": (
        lambda z, x: RANDOM.choice(RANDOM.standard_normal(int(x)), z.shape),
        (2.0**18, 2.0**17, 2.0**16, 2.0**15),
        "distinct",
    ),
}


def _seen(residuals: Residuals, check: str) -> bool:
    return any(c.name.endswith(f".{check}") and not c.passed for c in law_checks(residuals))


def main() -> None:
    for name, (fault, sizes, check) in FAULTS.items():
        for size in sizes:
            made = (fault(RANDOM.standard_normal((STEPS, PARAMETERS)), size) for _ in range(RUNS))
            layers = (PARAMETERS - 1, 1)
            if all(
                _seen(residuals_of(z, tensors=layers, slack=0.004, grid=1e-5), check) for z in made
            ):
                print(f"| {name} | {size:g} | `{check}` |", flush=True)
                break


if __name__ == "__main__":
    main()
