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
from pydantic import ConfigDict, TypeAdapter, with_config
from pyroaring import BitMap

from lethe.core.errors import FileDamaged, ParamsInvalid
from lethe.core.files import RESTORE, checked
from lethe.privacy.release import Release

UNIT = "person"
ADJACENCY = "add or remove one person"
SAMPLING = "Poisson over persons"
MECHANISM = "dp-sgd"
NOISES = ("gaussian", "discrete")
_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@with_config(_CLOSED)
@dataclass(frozen=True, kw_only=True)
class AdaptiveClip:
    """The clip follows a quantile of people's gradient norms, and the plan pays for the look.

    In each step, how many of the drawn people are within the clip is released beside the
    sum, with Gaussian noise of standard deviation `count_noise` (in people). Of it, and of
    public constants, the next clip is made: the clip times
    exp(-learning_rate * (share within - quantile)).

    Source: Andrew et al. (2021), arXiv:1905.03871, algorithm 1.
    """

    quantile: float
    learning_rate: float
    count_noise: float

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ParamsInvalid(f"The clip's quantile={self.quantile!r} must be in (0, 1).")
        if not 0 < self.learning_rate <= 1:
            raise ParamsInvalid(
                f"The clip's learning_rate={self.learning_rate!r} must be in (0, 1]."
            )
        if not (math.isfinite(self.count_noise) and self.count_noise > 0):
            raise ParamsInvalid(
                f"The clip's count_noise={self.count_noise!r} must be finite and above 0."
            )


@with_config(_CLOSED)
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Person-level DP-SGD: what runs, and therefore what it costs.

    >>> import lethe
    >>> plan = lethe.Plan(sample_rate=0.1, steps=300, records_per_person=4, clip_norm=1.0,
    ...                   noise_multiplier=6.0, expected_batch_size=100.0, delta=1e-5)
    >>> lethe.epsilon(sample_rate=plan.sample_rate, steps=plan.steps,
    ...               noise_multiplier=plan.noise_multiplier, delta=plan.delta).claim.delta
    1e-05

    Each of `steps` draws every person independently with probability `sample_rate`,
    takes at most `records_per_person` of each one's records, clips the person's one
    summed gradient to `clip_norm` in L2, adds Gaussian noise of standard deviation
    `noise_multiplier * clip_norm` to the sum, and divides by `expected_batch_size`,
    a public constant. An empty draw is a step of pure noise. With `noise` discrete the sum
    is rounded to a public grid and the noise is a discrete Gaussian on it, a little wider,
    so that the same event holds; `discrete_noise` shows it.

    With `adaptive`, `clip_norm` is the first clip only. A person then moves the sum by the
    clip, and the count by 1/2 (it is of people within less half of all); the sum's noise is
    `gradient_noise_multiplier` clips, enlarged so that both together cost what
    `noise_multiplier` says: z^-2 = z_gradient^-2 + (2 count_noise)^-2.

    `initial_seed` is public, and of the weights before the first step alone, which so are the same
    wherever they are made: they know nobody. No draw and no noise comes of it; those are the
    operating system's.

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
    adaptive: AdaptiveClip | None = None
    initial_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("clip_norm", "noise_multiplier", "expected_batch_size"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ParamsInvalid(f"The plan's {name}={value!r} must be finite and above 0.")
        if not 0 < self.sample_rate <= 1:
            raise ParamsInvalid(f"The plan's sample_rate={self.sample_rate!r} must be in (0, 1].")
        if not 0 < self.delta < 1:
            raise ParamsInvalid(f"The plan's delta={self.delta!r} must be in (0, 1).")
        if not 0 <= self.initial_seed < 2**63:
            raise ParamsInvalid(
                f"The plan's initial_seed={self.initial_seed!r} must be in [0, 2^63)."
            )
        if self.steps < 1 or self.records_per_person < 1:
            raise ParamsInvalid("The plan needs at least one step and one record per person.")
        if self.noise not in NOISES:
            raise ParamsInvalid(f"The plan's noise={self.noise!r} is none of {', '.join(NOISES)}.")
        if self.adaptive is not None:
            if self.noise == "discrete":
                raise ParamsInvalid(
                    "Adaptive clipping moves the clip, and the grid of discrete noise is made for "
                    "one clip. Use noise: gaussian, or a constant clip."
                )
            if not 2 * self.adaptive.count_noise > self.noise_multiplier * (1 + 1e-6):
                raise ParamsInvalid(
                    f"Adaptive clipping with count_noise={self.adaptive.count_noise:g} costs more "
                    f"than noise_multiplier={self.noise_multiplier:g} allows, whatever noise the "
                    "gradients get. Raise count_noise above half of noise_multiplier."
                )
            if self.adaptive.count_noise > self.expected_batch_size:
                raise ParamsInvalid(
                    f"Adaptive clipping with count_noise={self.adaptive.count_noise:g} sees "
                    f"nothing in {self.expected_batch_size:g} people; lower it."
                )

    @property
    def gradient_noise_multiplier(self) -> float:
        """Noise of the gradients' sum, in clips; above `noise_multiplier` where a count is paid.

        Rounded up by a billionth, to the private side.
        Source: Andrew et al. (2021), arXiv:1905.03871, theorem 1.
        """
        if self.adaptive is None:
            return self.noise_multiplier
        left = self.noise_multiplier**-2 - (2 * self.adaptive.count_noise) ** -2
        return (1 + 1e-9) / math.sqrt(left)

    @property
    def event(self) -> dp.DpEvent:
        """The privacy event of the whole training, per person."""
        step = dp.PoissonSampledDpEvent(self.sample_rate, dp.GaussianDpEvent(self.noise_multiplier))
        return dp.SelfComposedDpEvent(step, self.steps)

    def release(self, subjects: BitMap) -> Release:
        """The training as what is charged, for everybody whom its sampling may draw."""
        return Release(
            event=self.event,
            unit=UNIT,
            adjacency=ADJACENCY,
            sampling=SAMPLING,
            mechanism=MECHANISM,
            digest=self.digest,
            delta=self.delta,
            records_per_person=self.records_per_person,
            subjects=subjects,
        )

    def settings(self) -> dict[str, object]:
        """As a version's tags and card name them."""
        return {
            "clip_norm": self.clip_norm,
            "sample_rate": self.sample_rate,
            "noise_multiplier": self.noise_multiplier,
            "steps": self.steps,
        }

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Plan":
        """Raises: FileDamaged: a field is missing, unknown, of another type or impossible."""
        absent = sorted({field.name for field in fields(cls)} - set(data))
        if absent:  # defaults are for callers: what was written down was written whole
            raise FileDamaged(f"The plan lacks {', '.join(absent)}. {RESTORE}")
        checked(_PLAN, data, of="The plan")
        given = dict(data)  # numbers as they were written: 1 and 1.0 have different digests
        if given["adaptive"] is not None:
            given["adaptive"] = AdaptiveClip(**given["adaptive"])
        return cls(**given)

    @property
    def digest(self) -> str:
        """SHA-256 over the plan's fields: the same plan has the same digest.

        A seed of 0 is left out: so a plan of before there were seeds is still the same one.
        """
        named = {k: v for k, v in self.to_data().items() if k != "initial_seed" or v}
        text = json.dumps(named, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


_PLAN = TypeAdapter(Plan)
