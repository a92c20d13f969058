"""Is a clip that follows the people's norms paid for: by noise on what it follows, and no more?

An adaptive clip is made of a noisy count and of public constants. So from two clips in a
row the noisy count can be computed back, and where it is known who was drawn, its noise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lethe.attacks.statistics import (
    Check,
    Floats,
    at_most,
    improbable,
    mean_p,
    shape_p,
    variance_p,
    worse,
)
from lethe.data.batches import PersonData
from lethe.privacy.plan import Plan
from lethe.training.engines.contract import LossFn, trainable_parameters
from lethe.training.loop import DpStep

_DRAWS = 2_000
_PEOPLE_AT_ONCE = 64
_NEAR = 1e-3  # of the clip: a norm so near it may be counted either way

Batch = tuple[Tensor, Tensor, Tensor]


def moving_clip(plan: Plan, steps: int) -> Plan:
    """The plan with a clip that grows by about half over a replay of so many steps.

    How the clip is made of the noisy count is post-processing; another rate and quantile
    leave what is released as it is, and let noise that does not follow the clip show.
    """
    if plan.adaptive is None:
        return plan
    moving = replace(plan.adaptive, quantile=0.9, learning_rate=1 / steps)
    return replace(plan, adaptive=moving)


def count_noise(plan: Plan, clips: Floats, within: Floats) -> Floats:
    """[steps - 1] noise of the counts that moved the clips, over what it should be.

    Args:
        within: [steps] people drawn and within the clip, less half of the people drawn.
    """
    if plan.adaptive is None or len(clips) < 2:
        return np.zeros(0)
    share = plan.adaptive.quantile - np.diff(np.log(clips)) / plan.adaptive.learning_rate
    noise: Floats = (share - 0.5) * plan.expected_batch_size - within[:-1]
    return noise / plan.adaptive.count_noise


def check_clip_moves(noises: Sequence[Floats]) -> Check:
    """The noise that whole trainings had in the counts their clips followed."""
    every = np.concatenate(noises)
    return improbable(
        "loop.clip_moves",
        [variance_p(every), mean_p(every), shape_p(every)] if len(every) else [0.0],
        meaning="the clip follows the noisy count, and nothing else of the people",
    )


def check_count(
    step: DpStep,
    data: PersonData,
    loss_fn: LossFn,
    *,
    people_like: Callable[[Batch, nn.Module], list[Batch]],
    replays: int,
    random: np.random.Generator,
) -> list[Check]:
    """The count of single steps: whom it counts, what one person moves it by, and its noise."""
    device = next(step.model.parameters()).device
    moved = wrong = 0.0
    for _ in range(replays):
        drawn = random.permutation(step.draw(len(data)))[:_PEOPLE_AT_ONCE]
        others = data.batch(torch.from_numpy(drawn), device)
        person = data.batch(torch.from_numpy(random.integers(len(data), size=1)), device)
        without = float(step.clipped_sum(*others)[-1])
        for one in people_like(person, step.model):
            both = [torch.cat(pair) for pair in zip(others, one, strict=True)]
            moved = worse(moved, abs(float(step.clipped_sum(*both)[-1]) - without))
        low, high = _counted(step, loss_fn, others)
        wrong = worse(wrong, low - without)
        wrong = worse(wrong, without - high)
    adaptive = step.plan.adaptive
    unit = math.nan if adaptive is None else adaptive.count_noise
    zeros = step.zeros()
    noise = np.array([float(step.noisy(zeros)[-1]) for _ in range(_DRAWS)]) / unit
    return [
        at_most("count.sensitivity", moved, 0.5, meaning="one person moves the count by half"),
        at_most(
            "count.people",
            wrong,
            0.0,
            meaning="the count is of people within the clip, less half of all (in people)",
        ),
        improbable(
            "count.noise",
            [variance_p(noise), mean_p(noise), shape_p(noise)],
            meaning="the count that the clip follows has the plan's noise",
        ),
    ]


def _counted(step: DpStep, loss_fn: LossFn, people: Batch) -> tuple[float, float]:
    """The least and the most that the count may be, by plain autograd person by person."""
    low = high = 0.0
    for features, mask, labels in zip(*people, strict=True):
        norm = 0.0
        if mask.any():
            loss = loss_fn(step.model(features[mask]), labels[mask]).mean()
            found = torch.autograd.grad(loss, trainable_parameters(step.model), allow_unused=True)
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None))
        low += 0.5 if norm <= step.clip_norm * (1 - _NEAR) else -0.5
        high += 0.5 if norm <= step.clip_norm * (1 + _NEAR) else -0.5
    return low, high
