"""The privacy statement of `lethe epsilon`: a price, and everything it rests on."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from lethe.core.errors import ParamsInvalid
from lethe.privacy.accounting import (
    dp_sgd_event,
    epsilon_pld,
    epsilon_pld_of_group,
    epsilon_rdp,
    solve_noise_multiplier,
)
from lethe.privacy.claim import Claim
from lethe.privacy.plan import ADJACENCY, NOISES, SAMPLING, UNIT

GROUPS = (2, 3, 5, 10)  # records of a person, for what a claim about records would mean
ASSUMPTIONS = (
    f"The unit is the {UNIT}: everything a person contributes counts as one.",
    f"Adjacency: {ADJACENCY}, with all their records.",
    "A person has at most K records in training and one summed gradient, clipped to C in L2; "
    "so K does not change the price.",
    f"Sampling: {SAMPLING}, each with probability q anew in every step. Shuffled or fixed-size "
    "batches cost more.",
    "Every step adds Gaussian noise of standard deviation sigma * C, the empty draw's too, and "
    "divides by a public constant, never by the drawn batch.",
    "q, steps, sigma, C, K and all else that was chosen is public, or was charged separately: "
    "tuning, scalers, vocabularies and early stopping on the same people are further releases.",
    "Nothing else computed from these people is released; metrics that are, are charged too.",
    "Noise and sampling come from a cryptographic generator and stay secret.",
    "RDP stays valid when later runs are chosen by earlier ones; PLD is tighter, for runs that "
    "were fixed beforehand.",
    "Gaussian noise is computed in floating point; no claim is made against attacks on its last "
    "bits. Discrete noise (training.mechanism.noise: discrete) has the same price and an exact law "
    "on a public grid; sums are computed in float32 with either.",
)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a training costs one person, as epsilon at `delta` by two accountants."""

    claim: Claim
    sample_rate: float
    steps: int
    noise_multiplier: float
    records: tuple[
        tuple[int, float], ...
    ]  # (records of a person, epsilon) if records were the unit
    target_epsilon: float | None = None
    noise_multiplier_pld: float | None = None  # least for the target by PLD alone

    def to_data(self) -> dict[str, Any]:
        """JSON-ready; an epsilon without bound is null."""
        claimed = self.claim.to_data()
        data: dict[str, Any] = {
            **{name: _finite(claimed[name]) for name in claimed},
            "assumptions": list(ASSUMPTIONS),
            "if_records_were_protected": {str(k): _finite(e) for k, e in self.records},
            "noise_multiplier": self.noise_multiplier,
            "sample_rate": self.sample_rate,
            "steps": self.steps,
        }
        if self.target_epsilon is not None:
            data["target_epsilon"] = self.target_epsilon
            data["noise_multiplier_pld"] = self.noise_multiplier_pld
        return data

    def __str__(self) -> str:
        claim = self.claim
        lines = [
            f"epsilon = {_shown(claim.epsilon_pld)} (PLD), {_shown(claim.epsilon_rdp)} (RDP) at "
            f"delta = {claim.delta:g}, per {claim.unit}",
            f"for {self.steps} steps at sample rate q = {self.sample_rate:.6g} with "
            f"noise multiplier sigma = {self.noise_multiplier:g}",
        ]
        if self.target_epsilon is not None:
            lines.append(
                f"sigma was solved for epsilon <= {self.target_epsilon:g} by RDP, so that a budget "
                f"holds it; {self.noise_multiplier_pld:g} is enough by PLD alone"
            )
        lines += ["", "This holds if:", *(f"  - {each}" for each in ASSUMPTIONS), ""]
        lines.append(
            "If records were sampled and clipped instead of persons, the same numbers would mean, "
            "for a person with"
        )
        lines += [f"  {k:>3} records: epsilon = {_shown(e)} (PLD)" for k, e in self.records]
        return "\n".join(lines)


def privacy_statement(
    *, sample_rate: float, steps: int, noise_multiplier: float, delta: float
) -> Statement:
    """The statement of one training.

    Guarantees: neither epsilon is below the true one.
    Source of the comparison: k records of a person, each drawn by itself, move the sum by a
        binomial number of clips: a mixture of Gaussians (Choquette-Choo et al. 2024,
        arXiv:2312.15551), composed as PLD.
    """
    events = [dp_sgd_event(sample_rate, steps, noise_multiplier)]
    return Statement(
        claim=Claim(
            epsilon_pld=epsilon_pld(events, delta),
            epsilon_rdp=epsilon_rdp(events, delta),
            delta=delta,
            unit=UNIT,
            adjacency=ADJACENCY,
            sampling=SAMPLING,
            noise=NOISES[0],
        ),
        sample_rate=sample_rate,
        steps=steps,
        noise_multiplier=noise_multiplier,
        records=tuple(
            (k, epsilon_pld_of_group(sample_rate, steps, noise_multiplier, delta, records=k))
            for k in GROUPS
        ),
    )


def from_options(
    *,
    subjects: int | None = None,
    batch_size: float | None = None,
    noise_multiplier: float | None = None,
    epochs: float | None = None,
    delta: float = 1e-5,
    sample_rate: float | None = None,
    steps: int | None = None,
    target_epsilon: float | None = None,
) -> Statement:
    """The statement for what a user typed.

    Steps from epochs are rounded up. With `target_epsilon` the noise multiplier is solved for
    by RDP, rounded up: then both accountants are within the target.

    Raises:
        ParamsInvalid: too much, too little or something impossible was given.
    """
    if not 0 < delta < 1:
        raise ParamsInvalid(f"--delta {delta:g} must be above 0 and below 1.")
    if subjects is not None and subjects < 1:
        raise ParamsInvalid(f"--subjects {subjects} must be at least 1.")
    if subjects is not None and delta >= 1 / subjects:
        raise ParamsInvalid(
            f"--delta {delta:g} must be below 1/subjects={1 / subjects:g}: a larger one allows to "
            "publish a person outright."
        )
    rate = _sample_rate(subjects, batch_size, sample_rate)
    count = _steps(rate, epochs, steps)
    if (noise_multiplier is None) == (target_epsilon is None):
        raise ParamsInvalid("Give either --noise-multiplier or --target-epsilon.")
    if noise_multiplier is not None:
        _positive("--noise-multiplier", noise_multiplier)
        return privacy_statement(
            sample_rate=float(rate), steps=count, noise_multiplier=noise_multiplier, delta=delta
        )
    target = _positive("--target-epsilon", target_epsilon)
    solved = solve_noise_multiplier(float(rate), count, target, delta, "rdp")
    found = privacy_statement(
        sample_rate=float(rate), steps=count, noise_multiplier=solved, delta=delta
    )
    return replace(
        found,
        target_epsilon=target,
        noise_multiplier_pld=solve_noise_multiplier(float(rate), count, target, delta, "pld"),
    )


def _sample_rate(
    subjects: int | None, batch_size: float | None, sample_rate: float | None
) -> Fraction:
    if sample_rate is not None:
        if batch_size is not None:
            raise ParamsInvalid("Give either --sample-rate, or --subjects with --batch-size.")
        rate = _exact("--sample-rate", sample_rate)
    elif subjects is None or batch_size is None:
        raise ParamsInvalid("Give --subjects with --batch-size, or --sample-rate.")
    else:
        rate = _exact("--batch-size", batch_size) / subjects
    if not rate <= 1:
        raise ParamsInvalid(
            f"The sample rate is {float(rate):g}; no step can draw more than everybody (1)."
        )
    return rate


def _steps(rate: Fraction, epochs: float | None, steps: int | None) -> int:
    if (epochs is None) == (steps is None):
        raise ParamsInvalid("Give either --epochs or --steps.")
    if steps is not None:
        if steps < 1:
            raise ParamsInvalid(f"--steps {steps} must be at least 1.")
        return steps
    return math.ceil(_exact("--epochs", epochs) / rate)


def _exact(name: str, value: float | None) -> Fraction:
    """The decimal that was typed, so that rounding up does not add a step for a stray bit."""
    return Fraction(repr(_positive(name, value)))


def _positive(name: str, value: float | None) -> float:
    if value is None or not (math.isfinite(value) and value > 0):
        raise ParamsInvalid(f"{name} {value:g} must be finite and above 0.")
    return float(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "without bound"
