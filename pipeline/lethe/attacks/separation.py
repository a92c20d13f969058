"""Does one person move the sum by the clip at most, in the mode and at the sizes of the run?

The run's model is tried as before the training, and on the run's own people, in training mode:
whole draws, in the parts that the run sums them by. Random numbers are constants meanwhile, so
that with and without one person everybody else's dropout is the same.
"""

import math
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from lethe.attacks import replay
from lethe.attacks.attack import Attack, Target, register
from lethe.attacks.clipping import flat, length, variants
from lethe.attacks.statistics import Check, at_most, holds, worse
from lethe.core.errors import LetheError
from lethe.data.batches import PersonData
from lethe.data.possible import possible_records
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import MECHANISM, Plan
from lethe.training import loop
from lethe.training.engines.fixed_randomness import FixedRandomness, seeded
from lethe.training.engines.separation import EXTREME, TriedRecords, refuse_mixing
from lethe.training.rehearsal import allowance, people_at_once, sizes_of

_DRAWS = 2
_RECORDS = "a record's output, and what the model keeps, do not depend on records beside it"
_PEOPLE = "in training mode, at the run's sizes, a person moves the sum by the clip at most"


@register
class Separation(Attack):
    """The run's model on the run's people, in training mode; no false alarms."""

    name = "separation"
    covers = ("separation",)
    mechanisms = (MECHANISM,)

    def run(self, target: Target) -> list[Check]:
        plan, made = target.plan, target.made
        if not isinstance(plan, Plan) or made is None or not len(target.data):
            return [holds("separation.records", False, meaning=_RECORDS)]
        physical = made.training.physical_batch
        # The sums first: they choose how exactly a GPU multiplies.
        return [*_people(target, plan, physical), _records(target, plan, physical)]


def _records(target: Target, plan: Plan, physical: int) -> Check:
    """As `refuse_mixing` before the training; half of the records are the run's own."""
    data, encoder = target.data, target.encoder
    own = data.features[data.mask]

    def make(count: int, kind: str, numbers: torch.Generator) -> Tensor:
        if kind == EXTREME or not len(own):
            return possible_records(encoder, count, extreme=True, numbers=numbers)
        return own[torch.randint(len(own), (count,), generator=numbers)]

    model = deepcopy(target.model).to(target.device)
    sizes = sizes_of(plan, people_at_once(plan, physical))
    try:
        refuse_mixing(model, target.loss_fn, TriedRecords(make, encoder.outputs, sizes))
    except LetheError as refusal:
        return holds("separation.records", False, meaning=f"{_RECORDS}. {refusal}")
    return holds("separation.records", True, meaning=_RECORDS)


def _people(target: Target, plan: Plan, physical: int) -> list[Check]:
    model: nn.Module = deepcopy(target.model).to(target.device).train()
    random = np.random.default_rng()
    most = min(len(target.data), 2 * math.ceil(plan.expected_batch_size)) + 1
    try:
        named, classes = str(target.report.get("engine")), target.encoder.outputs
        task = loop.Task(plan, target.data, model, target.loss_fn, named, classes, physical)
        engine = loop.prepared_engine(task, model)
        step = loop.DpStep(plan, model, engine, Keystream.from_system())
        moved = 0.0
        for _ in range(_DRAWS):
            moved = worse(moved, _moved(target, step, physical, random))
    except (LetheError, RuntimeError, ValueError, IndexError) as error:
        meaning = f"{_PEOPLE}; the replay ended with {type(error).__name__}"
        return [holds("separation.sensitivity", False, meaning=meaning)]
    return [
        at_most("separation.sensitivity", moved, 1 + allowance(most), meaning=_PEOPLE),
    ]


def _moved(target: Target, step: loop.DpStep, physical: int, random: np.random.Generator) -> float:
    """The farthest that one person moves the sum of one draw, in clips."""
    data = target.data
    drawn = torch.from_numpy(random.permutation(step.draw(len(data))))
    others = data.batch(drawn)
    without = _sum(target, step, physical, others)
    person = data.batch(torch.from_numpy(random.integers(len(data), size=1)))
    farthest = 0.0
    for one in variants(person, step.model)[:3]:
        for pair in ((one, others), (others, one)):
            both = tuple(torch.cat(parts) for parts in zip(*pair, strict=True))
            shift = _sum(target, step, physical, both) - without
            farthest = worse(farthest, length(shift) / step.clip_norm)
    return farthest


def _sum(target: Target, step: loop.DpStep, physical: int, people: tuple[Tensor, ...]) -> Tensor:
    """The clipped sum of these people, in the parts that the run sums them by."""
    features, mask, labels = people
    count = len(mask)
    # One token for all: what the model draws for somebody is the same beside one person more.
    data = PersonData(features, mask, labels, np.zeros(count, dtype=np.uint32))
    task = loop.Task(step.plan, data, step.model, target.loss_fn, physical_batch=physical)
    with seeded(), FixedRandomness():
        sums = loop.summed(step, task, torch.arange(count), device=target.device)
    return flat(replay.gradients(step.plan, sums))
