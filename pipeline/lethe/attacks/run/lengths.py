"""How long each kept release is, held against what noise and clip allow: where no sum is computed.

The noise of the law that was charged has a length that chance hardly moves, and n people move it
by n clips at most. So of every step whose release is kept, computed anew or not, each layer's
length is known to within that. Where many are drawn and a layer is small, little is seen so.
"""

import math

import numpy as np
from torch import Tensor

from lethe.attacks.run import bounds
from lethe.attacks.run.steps import RunStep
from lethe.attacks.statistics import Check, Floats, improbable
from lethe.privacy.plan import Plan

_NAME = "noise_of_run.every_release"
_ROUNDING = 2.0**-20  # of a release, as float32 adds it up


def noise_scale(plan: Plan, clip: float, coordinates: int) -> tuple[float, float]:
    """Standard deviation of the noise at this clip, and the step of its grid if it has one.

    The formulas are those of `Plan` and `privacy.noise.discrete`, and not read from there.
    """
    z = plan.noise_multiplier
    if plan.adaptive is not None:
        count = 2 * plan.adaptive.count_noise
        z = z * count / math.sqrt(count**2 - z**2)
    if plan.noise != "discrete":
        return z * clip, 0.0
    rounding = 2 * plan.noise_multiplier * math.sqrt(coordinates)
    step = z * clip * 1.0001 / (math.sqrt(2**48 - 64) - rounding)
    return step * 2**24, step


class Lengths:
    """Takes every kept step in, and keeps one number of it."""

    def __init__(self, plan: Plan, coordinates: int) -> None:
        self._plan, self._coordinates = plan, coordinates
        self._worst, self._trials, self._steps, self._seen = 1.0, 0, 0, 0

    def at(self, step: RunStep) -> None:
        scale, grid = noise_scale(self._plan, step.clip_norm, self._coordinates)
        parts = [*step.release]
        squares = np.array([_square(part) for part in parts] or [0.0])
        lengths = np.sqrt(np.append(squares, squares.sum())) / scale
        self._steps += 1
        if not np.isfinite(lengths).all():
            self._worst = 0.0
            return
        counts = np.array([part.numel() for part in parts] or [0], dtype=np.int64)
        counts = np.append(counts, counts.sum())
        people = len(step.drawn) * step.clip_norm / scale
        off = people + _ROUNDING * lengths + grid / scale * np.sqrt(counts)
        some = counts > 0
        p_values = bounds.norm_p(lengths[some], counts[some], off[some])
        none = bounds.norm_p(np.zeros(1), counts[-1:], np.array([2 * people]))
        self._worst = min([self._worst, *p_values.tolist()])
        self._trials += int(some.sum())
        self._seen += bool(none[0] < 1e-12)

    def checks(self) -> list[Check]:
        meaning = (
            "each release is as long as its noise and the clips of those drawn make it; of "
            f"{self._plan.steps} steps {self._steps} are kept, and of {self._seen} of these the "
            "length alone would show that they had no noise"
        )
        return [improbable(_NAME, self._worst * max(1, self._trials), meaning=meaning)]


def _square(part: Tensor) -> float:
    flat: Floats = part.detach().flatten().cpu().double().numpy()
    return float(flat @ flat)
