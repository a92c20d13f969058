"""What the looks at a run are given: single steps, as they were recorded and recomputed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True)
class RunStep:
    """One step that the run took.

    Attributes:
        number: from 0.
        clip_norm: of this step; an adaptive clip moves.
        drawn: int64 [drawn], positions in the run's people, as the run drew them.
        weights: every parameter and buffer before the step, by name.
        release: what left, noise included and not yet divided: one tensor for each trainable
            parameter, in the model's order.
        count: the noisy count that moved an adaptive clip; None under a constant one.
    """

    number: int
    clip_norm: float
    drawn: npt.NDArray[np.int64]
    weights: Mapping[str, Tensor]
    release: tuple[Tensor, ...]
    count: float | None = None
