"""`training` of `params.yaml`: what is trained, how, and at what price.

Apart from the other declarations because a training depends on this module's code: a default that
changes here trains again, and charges everybody.
"""

import difflib
from typing import Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

_CLOSED = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Adaptive:
    """Changes the guarantee: a clip that follows a quantile of people's gradient norms.

    `count_noise` is of the count of people within the clip; a twentieth of the expected
    batch if not given.
    """

    quantile: float = Field(default=0.5, gt=0, lt=1)
    learning_rate: float = Field(default=0.2, gt=0, le=1)
    count_noise: float | None = Field(default=None, gt=0, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Mechanism:
    """Changes the guarantee: the person-level DP-SGD plan, in public numbers only.

    `expected_subjects` is a public estimate of how many people train, never counted from
    the data: `sample_rate * expected_subjects` normalizes every step.
    Give either `noise_multiplier`, or `epsilon` to solve for it (at the budget's delta,
    by `accountant`, rounded to the private side). `noise: discrete` is the float-safe noise,
    at the same price. With `adaptive`, `clip_norm` is where the clip begins, at the same price.
    """

    records_per_person: int = Field(ge=1)
    expected_subjects: int = Field(ge=1)
    sample_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=1)
    clip_norm: float = Field(gt=0, allow_inf_nan=False)
    noise_multiplier: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    epsilon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    accountant: Literal["rdp", "pld"] = "pld"
    noise: Literal["gaussian", "discrete"] = "gaussian"
    adaptive: Adaptive | None = None

    @property
    def expected_batch_size(self) -> float:
        """Public normalizer of every step, in subjects."""
        return self.sample_rate * self.expected_subjects

    @model_validator(mode="after")
    def _one_price(self) -> "Mechanism":
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError("declare exactly one of noise_multiplier and epsilon")
        return self


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Optimizer:
    """Post-processing of private gradients: cannot change the guarantee."""

    name: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    averaging: float = Field(default=0.0, ge=0, lt=1)
    schedule: Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Training:
    """What is trained, and how; `method` and `mechanism` alone decide the privacy.

    `method` is one of the kinds of training that `lethe.training.trainers` has. `initial_seed` is
    public: the first weights come of it, and neither draws nor noise.
    """

    method: str = "dpsgd"
    mechanism: Mechanism
    optimizer: Optimizer
    model: str = "logistic"
    hidden: tuple[int, ...] = (64,)
    held_out: float = Field(gt=0, lt=1)
    engine: Literal["auto", "opacus", "opacus_ghost", "bookkeeping", "functional"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    physical_batch: int = Field(default=4096, ge=1)
    initial_seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _known_model(self) -> "Training":
        if self.model not in ("logistic", "mlp") and self.model.count(":") != 1:
            known = difflib.get_close_matches(self.model, ["logistic", "mlp"], 1) or ["mlp"]
            raise ValueError(
                f"model {self.model!r} is neither logistic, mlp nor module:function; "
                f"did you mean {known[0]!r}?"
            )
        return self
