"""A training's model tried at the run's own sizes and values, before anything is reserved.

Everything is made up from public declarations. What is refused here has spent nothing.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lethe.config.training import Training
from lethe.core.errors import TrainingRefused
from lethe.data.encoding import Encoder
from lethe.data.possible import possible_records
from lethe.privacy.plan import Plan
from lethe.training.description import Architecture
from lethe.training.engines.choose import make_engine, refuse_unclippable, whole_numbers
from lethe.training.engines.contract import Engine
from lethe.training.engines.fixed_randomness import FixedRandomness, seeded
from lethe.training.engines.separation import EXTREME, USUAL, TriedRecords, refuse_mixing
from lethe.training.loop import Task, prepared_engine
from lethe.training.models import build_model, loss_for

_FEW = 7  # records
_SHORT = 1e-3


def rehearse(
    training: Training, plan: Plan, encoder: Encoder, *, root: Path, processes: int = 1
) -> None:
    """Builds the declared model and tries it as the run will use it; see `separation`.

    Raises:
        TrainingRefused: it mixes people, keeps something of them, is of other numbers than
            float32, or one person moves its clipped sum by more than the clip.
        ParamsInvalid: it cannot be built.
    """
    architecture = Architecture.of(training, features=len(encoder.names), outputs=encoder.outputs)
    network = build_model(architecture, root=root)
    loss_fn = loss_for(encoder.outputs)

    def make(count: int, kind: str, numbers: torch.Generator) -> Tensor:
        return possible_records(encoder, count, extreme=kind == EXTREME, numbers=numbers)

    people = people_at_once(plan, training.physical_batch // max(1, processes))
    shape, outputs = (len(encoder.names),), encoder.outputs
    refuse_unclippable(network)
    tried = TriedRecords(make, outputs, sizes_of(plan, people))
    refuse_mixing(network, loss_fn, tried)
    engine = make_engine(training.engine, network, loss_fn, record_shape=shape, classes=outputs)
    refuse_moving(engine, network, tried, plan, people=max(people))


def refuse_unsound(task: Task, *, device: str) -> None:
    """Likewise of a network that somebody has at hand, on records of 0 and 1.

    Raises:
        TrainingRefused: as `rehearse`.
    """
    plan, network = task.plan, task.model.to(device)
    engine = prepared_engine(task, network)
    shape = tuple(task.data.features.shape[2:])
    people = people_at_once(plan, task.physical_batch)
    tried = TriedRecords(whole_numbers(shape), task.classes, sizes_of(plan, people))
    refuse_mixing(network, task.loss_fn, tried)
    refuse_moving(engine, network, tried, plan, people=max(people))


def sizes_of(plan: Plan, people: Sequence[int]) -> list[int]:
    """Of batches, in records: each of the run's, one of a person less, one of a record less."""
    places = plan.records_per_person
    run = {count * places for count in people}
    less = {size - less for size in run for less in (1, places) if size > less}
    return sorted({_FEW, *run, *less})


def people_at_once(plan: Plan, physical_batch: int) -> list[int]:
    """Of how many people the parts of the run's steps are: the usual full one, and the rest."""
    expected = max(1, round(plan.expected_batch_size))
    if expected <= physical_batch:
        return [expected]
    return sorted({max(1, physical_batch), max(1, expected % max(1, physical_batch))})


def refuse_moving(
    engine: Engine, model: nn.Module, tried: TriedRecords, plan: Plan, *, people: int
) -> None:
    """Looks at clipped sums of a whole part of a step, with and without one person.

    Raises:
        TrainingRefused: the sum moves by more than the clip.
    """
    numbers, device = torch.Generator().manual_seed(1), next(model.parameters()).device
    model.train()
    places, count = plan.records_per_person, people + 1
    records = torch.cat(
        [
            tried.make(people * places, USUAL, numbers),
            tried.make(places, EXTREME, numbers),
        ]
    ).unflatten(0, (count, places))
    labels = tried.labels(count * places, numbers).view(count, places)
    mask = torch.arange(places) <= torch.randint(0, places, (count, 1), generator=numbers)
    mask[-1] = True
    given = tuple(t.to(device) for t in (records, mask, labels))
    for who in (people, 0):
        rest = tuple(torch.cat([t[:who], t[who + 1 :]]) for t in given)
        for clip in (plan.clip_norm, plan.clip_norm * _SHORT):  # which cuts nobody, and everybody
            moved = _moved(engine, given, rest, clip)
            if moved > 1 + allowance(count):
                raise TrainingRefused(
                    f"One person moves the clipped sum of {count} people by {moved:.3g} clips in "
                    "training mode; at most 1 is paid for. People mix in the model's gradients: "
                    "look for hooks and backward passes of its own."
                )


def _moved(engine: Engine, people: Sequence[Tensor], rest: Sequence[Tensor], clip: float) -> float:
    """How far the clipped sums of the two are apart, in clips."""
    with seeded(), FixedRandomness():
        (whole, _), (without, _) = (engine(*part, clip_norm=clip) for part in (people, rest))
    apart = [(a - b).double().square().sum() for a, b in zip(whole, without, strict=True)]
    moved = math.sqrt(sum(float(each) for each in apart)) / clip
    if not math.isfinite(moved):
        raise TrainingRefused(
            "The model's losses or gradients are not finite with its first weights. Correct "
            "training.model."
        )
    return moved


def allowance(people: int) -> float:
    """What float32 may add to a sum of so many people, in clips."""
    return 1e-4 + 1e-6 * people
