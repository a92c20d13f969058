"""The points of a sweep: one plan each, all else as `params.yaml` declares it."""

import math
from collections.abc import Sequence
from dataclasses import replace

from lethe.config.params import Params
from lethe.core.errors import ParamsInvalid
from lethe.privacy.accounting import solve_noise_multiplier
from lethe.privacy.plan import Plan
from lethe.privacy.planning import plan_at

EPSILONS = (0.25, 0.5, 1.0, 2.0, 4.0)
_CLIPS = (0.5, 1.0, 2.0)  # times the declared clip_norm
_MOST = 200


def numbers(text: str, *, option: str) -> tuple[float, ...]:
    """`0.5,1,2` → the numbers, rising, each once.

    Raises:
        ParamsInvalid: not a list of finite numbers above 0; names the option.
    """
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(math.isfinite(each) and each > 0 for each in found):
        raise ParamsInvalid(
            f"{option} takes numbers above 0 with commas between, like 0.5,1,2; not {text!r}."
        )
    return tuple(found)


def grid(
    params: Params,
    *,
    epsilons: Sequence[float] | None = None,
    noise_multipliers: Sequence[float] | None = None,
    clips: Sequence[float] | None = None,
    people: int | None = None,
) -> list[Plan]:
    """A plan for each price and clip; the cheapest first.

    Args:
        epsilons: solved for the noise by the declared accountant; `EPSILONS` if neither is given.
        noise_multipliers: instead of epsilons.
        clips: clip norms; half, once and twice the declared one if not given.
        people: of a stand-in, which normalizes its steps; the declared number if not given.

    Raises:
        ParamsInvalid: both prices are given, a target cannot be reached, there are too many, or
            the declared adaptive clip cannot be had at one of them.
    """
    declared, delta = params.training.mechanism, params.budget.delta
    if epsilons is not None and noise_multipliers is not None:
        raise ParamsInvalid("Give either --epsilon or --noise-multiplier: each decides the other.")
    clips = clips or [declared.clip_norm * each for each in _CLIPS]
    if noise_multipliers is None:
        noise_multipliers = [
            solve_noise_multiplier(
                declared.sample_rate, declared.steps, each, delta, declared.accountant
            )
            for each in epsilons or EPSILONS
        ]
    if len(noise_multipliers) * len(clips) > _MOST:
        raise ParamsInvalid(
            f"{len(noise_multipliers) * len(clips)} points are more than {_MOST}. Give fewer."
        )
    return [
        replace(
            plan_at(
                declared,
                noise_multiplier=noise_multiplier,
                delta=delta,
                clip_norm=clip,
                people=people,
            ),
            initial_seed=params.training.initial_seed,
        )
        for noise_multiplier in sorted(noise_multipliers, reverse=True)
        for clip in clips
    ]
