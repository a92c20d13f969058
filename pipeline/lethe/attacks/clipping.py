"""Single steps of the run's own people, with and without one of them, and against autograd.

What depends on real people is a ratio to the clip, and is not private.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lethe.attacks import replay
from lethe.attacks.statistics import Check, at_most, worse
from lethe.data.batches import PersonData
from lethe.privacy.plan import Plan
from lethe.training import loop
from lethe.training.engines.contract import LossFn, trainable_parameters

CLIP_TOLERANCE = 1e-4  # of the clip: float32 sums of a few hundred people
REFERENCE_TOLERANCE = 1e-3  # of the clip: another order of the same float32 operations
PEOPLE_AT_ONCE = 512
_REFERENCE_PEOPLE = 24

StepOf = Callable[[Plan], loop.DpStep]


@dataclass
class _Worst:
    """The largest of each error so far, in clips."""

    moved: float = 0.0
    alone: float = 0.0
    apart: float = 0.0
    repeated: float = 0.0


def check_clipping(
    step_of: StepOf,
    plan: Plan,
    data: PersonData,
    loss_fn: LossFn,
    *,
    replays: int,
    random: np.random.Generator,
) -> list[Check]:
    """Steps of the run's own people, with and without one of them, and against plain autograd.

    That one is a person as they are, one whose only record stands in all K places, and one
    with records far outside the domain.
    """
    worst = _Worst()
    for clip_plan in (plan, replace(plan, clip_norm=plan.clip_norm * 1e-3)):
        step = step_of(clip_plan)
        for _ in range(replays):
            _look(step, data, loss_fn, worst, random)
    return [
        at_most(
            "clipping.sensitivity",
            worst.moved,
            1 + CLIP_TOLERANCE,
            meaning="one person moves the sum by the clip at most (in clips)",
        ),
        at_most(
            "clipping.full_length",
            worst.alone,
            CLIP_TOLERANCE,
            meaning="a person beyond the clip is cut to it exactly (relative error)",
        ),
        at_most(
            "clipping.per_person",
            worst.apart,
            REFERENCE_TOLERANCE,
            meaning="the sum is that of each person's own clipped gradient (error in clips)",
        ),
        at_most(
            "clipping.records_count_once",
            worst.repeated,
            CLIP_TOLERANCE,
            meaning="a record that stands in all K places counts as once (error in clips)",
        ),
    ]


def _look(
    step: loop.DpStep,
    data: PersonData,
    loss_fn: LossFn,
    worst: _Worst,
    random: np.random.Generator,
) -> None:
    """One drawn batch, and one person beside it."""
    clip = step.plan.clip_norm
    device = next(step.model.parameters()).device
    drawn = torch.from_numpy(random.permutation(step.draw(len(data)))[:PEOPLE_AT_ONCE])
    others = data.batch(drawn, device)
    person = data.batch(torch.from_numpy(random.integers(len(data), size=1)), device)
    without = _sum(step, others)
    for one in variants(person, step.model):
        both = [torch.cat(pair) for pair in zip(others, one, strict=True)]
        shift = _sum(step, both) - without
        own = _sum(step, one)
        expected, norm = _reference(step.model, loss_fn, one, clip)
        worst.moved = worse(worst.moved, length(shift) / clip)
        worst.apart = worse(worst.apart, length(own - expected) / clip)
        if norm > clip:
            worst.alone = worse(worst.alone, abs(length(own) / clip - 1))
    once = _sum(step, [t[:, :1] for t in person])
    full = _sum(step, _in_all_places(person))
    worst.repeated = worse(worst.repeated, length(full - once) / clip)
    few = tuple(t[:_REFERENCE_PEOPLE] for t in others)
    expected, _ = _reference(step.model, loss_fn, few, clip)
    error = length(_sum(step, few) - expected)
    worst.apart = worse(worst.apart, error / clip / max(1.0, math.sqrt(len(few[0]))))


Batch = tuple[Tensor, Tensor, Tensor]


def _in_all_places(person: Batch) -> Batch:
    """The person's first record in each of the K places."""
    features, mask, labels = person
    places = mask.shape[1]
    shape = [1, places, *([1] * (features.ndim - 2))]
    return features[:, :1].repeat(shape), mask[:, :1].repeat(1, places), labels[:, :1].repeat(
        1, places
    )  # fmt: skip


def variants(person: Batch, model: nn.Module) -> list[Batch]:
    features, mask, labels = person
    found = [person, _in_all_places(person)]
    # Where records are row numbers of a table, far outside the domain is outside the table.
    if not any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in model.modules()):
        for label in (labels, torch.zeros_like(labels), torch.ones_like(labels)):
            found.append((features * 1e4, torch.ones_like(mask), label))
    return found


def _reference(
    model: nn.Module, loss_fn: LossFn, people: Sequence[Tensor], clip: float
) -> tuple[Tensor, float]:
    """The clipped sum by plain autograd, person by person, and the longest gradient.

    On purpose none of the training's own code: what is shared would be wrong in both.
    """
    parameters = trainable_parameters(model)
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    longest = 0.0
    for features, mask, labels in zip(*people, strict=True):
        if not mask.any():
            continue
        loss = loss_fn(model(features[mask]), labels[mask]).mean()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        own = flat(
            [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters, found, strict=True)
            ]
        )
        norm = length(own)
        longest = max(longest, norm)
        total += own * min(1.0, clip / norm) if norm > 0 else 0.0
    return total, longest


def _sum(step: loop.DpStep, people: Sequence[Tensor]) -> Tensor:
    """The clipped sum of these people, without what an adaptive clip counts beside it."""
    features, mask, labels = people
    return flat(replay.gradients(step.plan, step.clipped_sum(features, mask, labels)))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors]).cpu().double()


def length(values: Tensor) -> float:
    return float(values.norm())
