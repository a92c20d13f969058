"""From declared numbers to the one plan that decides what runs and what it costs."""

from lethe.config.params import Params
from lethe.config.training import Mechanism
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
    noise = declared.noise_multiplier
    if noise is None:
        if declared.epsilon is None:
            raise ValueError("Mechanism checks that one of the two is declared")
        noise = solve_noise_multiplier(
            declared.sample_rate,
            declared.steps,
            declared.epsilon,
            params.budget.delta,
            declared.accountant,
        )
    return Plan(
        sample_rate=declared.sample_rate,
        steps=declared.steps,
        records_per_person=declared.records_per_person,
        clip_norm=declared.clip_norm,
        noise_multiplier=noise,
        expected_batch_size=declared.expected_batch_size,
        delta=params.budget.delta,
        noise=declared.noise,
        adaptive=_adaptive(declared),
    )


def _adaptive(declared: Mechanism) -> AdaptiveClip | None:
    if declared.adaptive is None:
        return None
    noise = declared.adaptive.count_noise
    return AdaptiveClip(
        quantile=declared.adaptive.quantile,
        learning_rate=declared.adaptive.learning_rate,
        # Andrew et al. (2021), section 3.1: a twentieth costs next to nothing.
        count_noise=declared.expected_batch_size / 20 if noise is None else noise,
    )
