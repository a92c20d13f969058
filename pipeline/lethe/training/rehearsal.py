"""A training's model tried at the run's own sizes and values, before anything is reserved.

Everything is made up from public declarations. What is refused here has spent nothing.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lethe.config.training import Training
from lethe.core.errors import ParamsInvalid, TrainingRefused
from lethe.data.encoding import Encoder
from lethe.data.possible import possible_records
from lethe.privacy.plan import Plan
from lethe.training.description import Architecture
from lethe.training.engines.choose import make_engine, refuse_unclippable, whole_numbers
from lethe.training.engines.contract import Engine
from lethe.training.engines.fixed_randomness import FixedRandomness, seeded
from lethe.training.engines.reference import PlainEngine
from lethe.training.engines.separation import EXTREME, USUAL, TriedRecords, refuse_mixing
from lethe.training.loop import Task, prepared_engine
from lethe.training.models import LossFn, build_model, loss_for
from lethe.training.person_randomness import PersonRandomness
from lethe.training.transcript import draws_size

_FEW = 7  # records
_SHORT = 1e-3
_SUMMED = 48  # people whose sum is computed one by one


def rehearse(
    training: Training, plan: Plan, encoder: Encoder, *, root: Path, processes: int = 1
) -> None:
    """Builds the declared model and tries it as the run will use it; see `separation`.

    Raises:
        TrainingRefused: it mixes people, keeps something of them, is of other numbers than
            float32 or computes in shorter ones, draws what cannot be drawn again, or one person
            moves its clipped sum by more than the clip.
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
    refuse_short_numbers(network, tried)
    refuse_unknown_sums(engine, network, loss_fn, tried, plan, people=max(people))


def refuse_large_draws(plan: Plan, megabytes: int) -> None:
    """Raises: ParamsInvalid: what the steps draw has no place in the declared transcript."""
    needed = 2 * draws_size(plan.steps, plan.expected_batch_size) / 2**20
    if needed > megabytes:
        raise ParamsInvalid(
            f"audit.transcript_megabytes={megabytes} has no place for who is drawn in "
            f"{plan.steps} steps: declare {math.ceil(needed)} or more, or fewer steps."
        )


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
    refuse_short_numbers(network, tried)
    refuse_unknown_sums(engine, network, task.loss_fn, tried, plan, people=max(people))


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
    model.train()
    count = people + 1
    given = _made_up(model, tried, plan.records_per_person, count)
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


class _Kinds(TorchDispatchMode):
    """Sees of which numbers a pass makes what it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.short: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and each.is_floating_point() and each.element_size() < 4:
                self.short.add(str(each.dtype).removeprefix("torch."))
        return made


def refuse_short_numbers(model: nn.Module, tried: TriedRecords) -> None:
    """Raises: TrainingRefused: a pass computes in float16 or the like, as under autocast."""
    records = tried.make(_FEW, USUAL, torch.Generator().manual_seed(2))
    with seeded(), torch.no_grad(), _Kinds() as kinds:
        model.train()(records.to(next(model.parameters()).device))
    if kinds.short:
        raise TrainingRefused(
            f"The model computes in {min(kinds.short)}. A person's gradient would be rounded so "
            "coarsely that no audit could distinguish it from noise that is missing. Leave out "
            "autocast, half() and bfloat16()."
        )


def refuse_unknown_sums(
    engine: Engine, model: nn.Module, loss_fn: LossFn, tried: TriedRecords, plan: Plan, people: int
) -> None:
    """Looks whether a step's sum can be computed anew, as the audit does: person by person.

    Raises:
        TrainingRefused: what the model draws as it trains cannot be drawn again.
    """
    model.train()
    few = min(max(2, people), _SUMMED)
    given = _made_up(model, tried, plan.records_per_person, few)
    tokens, clip = np.arange(few, dtype=np.uint32) + 5, plan.clip_norm
    sums = []
    for each in (engine, engine, PlainEngine(model, loss_fn)):
        with PersonRandomness(plan.initial_seed, 1, tokens):
            sums.append(torch.cat([t.flatten().double() for t in each(*given, clip_norm=clip)[0]]))
    for other in sums[1:]:
        if float((sums[0] - other).norm()) > 1e-3 * clip * math.sqrt(few):
            raise TrainingRefused(
                "The model's sum over the same people is another one when they pass one by one, or "
                "again: it draws random numbers that nobody can draw again, so that no audit could "
                "know its noise. Draw a row for each record, records along the first axis, by "
                "torch's own functions; or leave it out."
            )


def _made_up(model: nn.Module, tried: TriedRecords, places: int, count: int) -> tuple[Tensor, ...]:
    """Records, mask and labels of so many people, the last one with extreme records."""
    numbers, device = torch.Generator().manual_seed(1), next(model.parameters()).device
    records = torch.cat(
        [
            tried.make((count - 1) * places, USUAL, numbers),
            tried.make(places, EXTREME, numbers),
        ]
    ).unflatten(0, (count, places))
    labels = tried.labels(count * places, numbers).view(count, places)
    mask = torch.arange(places) <= torch.randint(0, places, (count, 1), generator=numbers)
    mask[-1] = True
    return tuple(t.to(device) for t in (records, mask, labels))


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
