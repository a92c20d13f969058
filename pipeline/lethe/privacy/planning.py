"""From declared numbers to the one plan that decides what runs and what it costs."""

from dataclasses import replace

from lethe.config.params import Params
from lethe.config.training import Adaptive, Mechanism
from lethe.privacy.accounting import solve_noise_multiplier
from lethe.privacy.plan import AdaptiveClip, Plan


def plan_from(params: Params) -> Plan:
    """The plan of `training.mechanism` at the budget's delta.

    Where an epsilon is declared instead of the noise, the noise is solved for by the
    declared accountant. The same declarations give the same plan.

    Guarantees: with a declared epsilon the plan costs at most that, by that accountant.

    Raises:
        ParamsInvalid: no noise reaches the declared epsilon.
    """
    declared = params.training.mechanism
    noise_multiplier = declared.noise_multiplier
    if noise_multiplier is None:
        if declared.epsilon is None:
            raise ValueError("Mechanism checks that one of the two is declared")
        noise_multiplier = solve_noise_multiplier(
            declared.sample_rate,
            declared.steps,
            declared.epsilon,
            params.budget.delta,
            declared.accountant,
        )
    plan = plan_at(declared, noise_multiplier=noise_multiplier, delta=params.budget.delta)
    return replace(plan, initial_seed=params.training.initial_seed)


def plan_at(
    declared: Mechanism,
    *,
    noise_multiplier: float,
    delta: float,
    clip_norm: float | None = None,
    people: int | None = None,
) -> Plan:
    """The declared plan at a given noise, and with another clip or number of people if given."""
    batch = declared.sample_rate * (people or declared.expected_subjects)
    return Plan(
        sample_rate=declared.sample_rate,
        steps=declared.steps,
        records_per_person=declared.records_per_person,
        clip_norm=declared.clip_norm if clip_norm is None else clip_norm,
        noise_multiplier=noise_multiplier,
        expected_batch_size=batch,
        delta=delta,
        noise=declared.noise,
        adaptive=_adaptive(declared.adaptive, batch),
    )


def _adaptive(declared: Adaptive | None, expected_batch_size: float) -> AdaptiveClip | None:
    if declared is None:
        return None
    count_noise = declared.count_noise
    return AdaptiveClip(
        quantile=declared.quantile,
        learning_rate=declared.learning_rate,
        # Andrew et al. (2021), section 3.1: a twentieth costs next to nothing.
        count_noise=expected_batch_size / 20 if count_noise is None else count_noise,
    )
