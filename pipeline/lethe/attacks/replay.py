"""Runs the training loop again on made-up people whose share in every step can be read off.

A step of SGD with learning rate `expected_batch_size` moves the weights by exactly the
noisy sum that the loop released, if the loop divides by that public constant. So the
weights between two steps show what the mechanism gave out, and nothing inside it has to
be asked. The made-up people have one coordinate of the sum each, all to themselves;
further coordinates belong to nobody and hold noise alone.

The keys, and so the draws and the noise, are fresh: a replay repeats nothing of the run
that is audited, and costs no budget, since nothing of a real person is released by it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from pyroaring import BitMap
from torch import Tensor, nn

from lethe.attacks import threads
from lethe.attacks.statistics import Floats
from lethe.config.training import Optimizer
from lethe.data.batches import PersonData
from lethe.privacy.plan import Plan
from lethe.training import loop, parallel
from lethe.training.engines.contract import LossFn, trainable_parameters
from lethe.training.parallel import Admission

QUIET = 1e-3  # noise multiplier under which a single person's share is plain to see
_LOUDEST = 1e3  # length of a record, in clips
_MOST_COORDINATES = 100_000  # looked at in each of the real model's steps


@dataclass(frozen=True)
class ReleasedSteps:
    """What a replayed training gave out.

    Shapes: sums [steps, coordinates], in the order of the model's parameters; `per_tensor`
        says how many coordinates each tensor has; clips [steps], each step's clip.
    """

    sums: Floats
    per_tensor: tuple[int, ...]
    trained: loop.TrainedModel
    clips: Floats

    def tensors(self) -> list[Floats]:
        ends = np.cumsum(self.per_tensor)[:-1]
        return np.split(self.sums, ends, axis=1)


class TwoHeads(nn.Module):
    """Two layers of the same shape that see the same record: their gradients are equal.

    Clipping each layer for itself, or giving both the same noise, shows.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left = nn.Linear(width, 1, bias=False)
        self.right = nn.Linear(width, 1, bias=False)
        with torch.no_grad():
            self.left.weight.zero_()
            self.right.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.left(x) + self.right(x)
        return out


def output_as_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """A loss whose gradient is the record itself, whatever the weights are."""
    return outputs[..., 0]


def made_up_people(
    people: int, *, records: int, clip_norm: float, spare: int
) -> tuple[PersonData, Floats]:
    """People with one coordinate each, and the length of each one's share at that clip.

    Every other person is far beyond the clip: one loud record and `records` - 1 of zeros
    if even-numbered by pairs, else as many loud ones as allowed. The others stay at half
    the clip, which must come through as it is.
    Shapes: features [people, records, people + spare]; lengths [people], of the two heads
        together.
    """
    features = torch.zeros(people, records, people + spare)
    lengths = np.empty(people)
    for person in range(people):
        if person % 2:
            # Two heads see it: the gradient is sqrt(2) times the record.
            features[person, :, person] = clip_norm / 2 / 2**0.5
            lengths[person] = clip_norm / 2
        else:
            loud = 1 if person % 4 else records
            features[person, :loud, person] = _LOUDEST * clip_norm
            lengths[person] = clip_norm
    mask = torch.ones(people, records, dtype=torch.bool)
    data = PersonData(
        features, mask, torch.zeros(people, records), np.arange(people, dtype=np.uint32)
    )
    return data, lengths


def without_records(data: PersonData) -> PersonData:
    """The same people with nothing in their places: their sum is zero whoever is drawn."""
    return PersonData(data.features, torch.zeros_like(data.mask), data.labels, data.tokens)


def first(data: PersonData, count: int) -> PersonData:
    return PersonData(
        data.features[:count], data.mask[:count], data.labels[:count], data.tokens[:count]
    )


def released_sums(
    plan: Plan,
    data: PersonData,
    model: nn.Module,
    loss_fn: LossFn,
    *,
    steps: int,
    engine: str = "auto",
    classes: int = 1,
    device: str = "cpu",
    physical_batch: int = 4096,
    processes: int = 1,
    admission: Admission | None = None,
    on_step: Callable[[int], None] | None = None,
) -> ReleasedSteps:
    """Trains `model` for `steps` under `plan` and returns what each step released.

    Args:
        processes: over how many the run that is audited was trained; threads play them.

    Only `steps` of the plan is replaced; and delta, which is no part of the mechanism and
    would refuse few people.
    """
    replayed = replace(plan, steps=steps, delta=min(plan.delta, 1e-9))
    parameters = trainable_parameters(model)
    keep = [_places(p.numel()) for p in parameters]
    before = [_seen(p, places) for p, places in zip(parameters, keep, strict=True)]
    rows: list[Floats] = []

    def look(number: int, _: int) -> None:
        now = [_seen(p, places) for p, places in zip(parameters, keep, strict=True)]
        rows.append(np.concatenate([b - n for b, n in zip(before, now, strict=True)]))
        before[:] = now
        if on_step is not None:
            on_step(number)

    reserved = admission or Admission("replay", BitMap(data.tokens))
    task = parallel.Task(replayed, data, model, loss_fn, engine, classes, physical_batch)
    with threads.helped(processes, task, reserved, device=device) as others:
        trained = loop.train(
            task,
            reserved,
            Optimizer(name="sgd", learning_rate=plan.expected_batch_size),
            loop.Execution(device=device, progress=look, others=others),
        )
    sizes = tuple(b.size for b in before)
    clips = np.full(len(rows), plan.clip_norm)
    if plan.adaptive is not None:
        clips[: len(trained.clips)] = trained.clips[: len(rows)]
    return ReleasedSteps(np.array(rows).reshape(len(rows), sum(sizes)), sizes, trained, clips)


def noise_multiplier(plan: Plan) -> float:
    """Noise of the gradients' sum, in clips, that the plan's fields ask for.

    On purpose not `Plan.gradient_noise_multiplier`. Where a count with noise s and
    sensitivity 1/2 is released beside it, 1/z^2 = 1/z_sum^2 + 1/(2s)^2 (Andrew et al. 2021).
    """
    if plan.adaptive is None:
        return plan.noise_multiplier
    z, count = plan.noise_multiplier, 2 * plan.adaptive.count_noise
    return z * count / math.sqrt(count**2 - z**2)


def gradients(plan: Plan, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of what a step sums or releases, the part that is not an adaptive clip's count."""
    return tensors if plan.adaptive is None else tensors[:-1]


def noise_scale(plan: Plan, coordinates: int) -> float:
    """The standard deviation that the plan's noise must have in so many coordinates.

    At the first clip, where it is adaptive. Of discrete noise it is 2^24 steps of the grid.
    The formula is derived in `discrete_noise`; on purpose it is not read from there.
    """
    stated = noise_multiplier(plan) * plan.clip_norm
    if plan.noise != "discrete":
        return stated
    rounding = 2 * plan.noise_multiplier * coordinates**0.5
    return stated * 1.0001 * 2**24 / ((2**48 - 64) ** 0.5 - rounding)


@contextmanager
def one_thread() -> Iterator[None]:
    """Replayed steps are so small that waiting for a second thread takes the longer part."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _places(count: int) -> Tensor | slice:
    """All places of a tensor, or as many of them, evenly spread, as are looked at."""
    if count <= _MOST_COORDINATES:
        return slice(None)
    return torch.linspace(0, count - 1, _MOST_COORDINATES).long()


def _seen(parameter: Tensor, places: Tensor | slice) -> Floats:
    flat = parameter.detach().cpu().flatten()[places]
    values: Floats = flat.double().numpy().copy()
    return values
