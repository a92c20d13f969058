"""One frozen plan owns everything that decides the privacy of a training.

The trainer can only be driven by a plan, and the ledger is charged with the
event that the same plan makes: the claim follows from what runs. All of its
numbers are public; none is counted from the people's data.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import dp_accounting as dp

from pipeline.errors import ParamsInvalid

UNIT = "person"
ADJACENCY = "add or remove one person"
SAMPLING = "Poisson over persons"
NOISES = ("gaussian", "discrete")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Person-level DP-SGD: what runs, and therefore what it costs.

    Each of `steps` draws every person independently with probability `sample_rate`,
    takes at most `records_per_person` of each one's records, clips the person's one
    summed gradient to `clip_norm` in L2, adds Gaussian noise of standard deviation
    `noise_multiplier * clip_norm` to the sum, and divides by `expected_batch_size`,
    a public constant. An empty draw is a step of pure noise. With `noise` discrete the sum
    is rounded to a public grid and the noise is a discrete Gaussian on it, a little wider,
    so that the same event holds; `discrete_noise` shows it.

    Guarantee: one step is a Poisson-subsampled Gaussian mechanism under adding or
        removing one person, of sensitivity `clip_norm`; `event` composes all steps.
    Source: Abadi et al. (2016), arXiv:1607.00133; McMahan et al. (2018), arXiv:1710.06963.
    """

    sample_rate: float
    steps: int
    records_per_person: int
    clip_norm: float
    noise_multiplier: float
    expected_batch_size: float
    delta: float
    noise: str = "gaussian"

    def __post_init__(self) -> None:
        for name in ("clip_norm", "noise_multiplier", "expected_batch_size"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ParamsInvalid(f"The plan's {name}={value!r} must be finite and above 0.")
        if not 0 < self.sample_rate <= 1:
            raise ParamsInvalid(f"The plan's sample_rate={self.sample_rate!r} must be in (0, 1].")
        if not 0 < self.delta < 1:
            raise ParamsInvalid(f"The plan's delta={self.delta!r} must be in (0, 1).")
        if self.steps < 1 or self.records_per_person < 1:
            raise ParamsInvalid("The plan needs at least one step and one record per person.")
        if self.noise not in NOISES:
            raise ParamsInvalid(f"The plan's noise={self.noise!r} is none of {', '.join(NOISES)}.")

    @property
    def event(self) -> dp.DpEvent:
        """The privacy event of the whole training, per person."""
        step = dp.PoissonSampledDpEvent(self.sample_rate, dp.GaussianDpEvent(self.noise_multiplier))
        return dp.SelfComposedDpEvent(step, self.steps)

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Plan":
        known = {field.name for field in fields(cls)}
        if set(data) != known:
            raise ParamsInvalid(f"A plan has the fields {sorted(known)}, not {sorted(data)}.")
        return cls(**data)

    @property
    def digest(self) -> str:
        """SHA-256 over the plan's fields: the same plan has the same digest."""
        text = json.dumps(self.to_data(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()
