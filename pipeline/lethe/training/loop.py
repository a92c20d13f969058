"""The training loop: the only place that draws noise, and it cannot run unreserved.

One step is `DpStep`, in three calls that the audit can replay one by one:

    step = DpStep(plan, model, engine, keystream)
    drawn = step.draw(subjects)                       # int64 positions, Poisson
    sums = step.clipped_sum(features, mask, labels)   # list[Tensor], one a parameter
    noisy = step.noisy(sums)                          # list[Tensor], new

`clipped_sum` moves by at most `plan.clip_norm` when a person is added or removed;
`noisy` adds independent normal noise of standard deviation
`plan.noise_multiplier * plan.clip_norm`, or the discrete noise that the plan asks for.
`train` uses exactly these on a `Task`, divides by `plan.expected_batch_size`, and hands the
result to an optimizer, which sees nothing else.

Under a plan with an adaptive clip, both lists have one tensor more: the count of people
within the clip, less half of the people. `follow` takes it off and moves `clip_norm` by it.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pyroaring import BitMap
from torch import Tensor, nn

from lethe.config.training import Optimizer
from lethe.core.errors import NotFinite, TrainingRefused
from lethe.data.batches import PersonData
from lethe.privacy.noise.gaussian import Noise, make_noise
from lethe.privacy.noise.sampling import Keystream, poisson_draw
from lethe.privacy.plan import Plan
from lethe.training.checkpoint import Checkpoint
from lethe.training.engines.choose import make_engine
from lethe.training.engines.contract import (
    Engine,
    LossFn,
    checked_losses,
    person_losses,
    refuse_not_finite,
    trainable_parameters,
    zero_sums,
)
from lethe.training.optimizer import Updater
from lethe.training.person_randomness import PersonRandomness, draws_at_random
from lethe.training.trainer import Progress, Reserved
from lethe.training.transcript import MODEL, UPDATER, Recorder

CLIP_RANGE = 1e4  # how far an adaptive clip may go from the first

SumOf = Callable[[Tensor], list[Tensor]]


class Others(Protocol):
    """The further processes of a training; see `lethe.training.parallel`."""

    def summed(self, step: "DpStep", drawn: Tensor, sum_of: SumOf) -> list[Tensor]:
        """What `sum_of(drawn)` gives, computed by all processes together."""


@dataclass(frozen=True)
class Task:
    """What is trained, on whom, under which plan; over several processes each makes its own.

    `engine`, `classes` and `physical_batch` say how people's gradients are computed, not what
    they are.
    """

    plan: Plan
    data: PersonData
    model: nn.Module
    loss_fn: LossFn
    engine: str = "auto"
    classes: int = 1
    physical_batch: int = 4096

    @property
    def digest(self) -> bytes:
        """SHA-256 over the plan, everybody's records, and how gradients are computed."""
        found = hashlib.sha256(self.plan.digest.encode())
        shapes = [(name, tuple(p.shape)) for name, p in self.model.named_parameters()]
        found.update(repr((self.engine, self.classes, shapes)).encode())
        for tensor in (self.data.features, self.data.mask, self.data.labels):
            found.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
            found.update(tensor.contiguous().numpy().tobytes())
        found.update(self.data.tokens.tobytes())
        return found.digest()


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where a training computes, and how it goes on after a kill; no part of the mechanism.

    Attributes:
        keystream: gives the source of draws and noise, asked for once; another one than the
            system's is for tests alone.
        checkpoint: file to go on from and to save to, every `checkpoint_every` steps.
        progress: called with (step, steps) alone; a loss or a batch's size would leak.
        others: processes that sum a part of each step's people. They have a part in the
            sum alone: draws, noise and weights are this process's.
        transcript: what every step is recorded with, for the audit; nothing is where it is None.
    """

    device: str = "cpu"
    keystream: Callable[[], Keystream] = Keystream.from_system
    checkpoint: Path | None = None
    checkpoint_every: int = 50
    progress: Progress | None = None
    others: Others | None = None
    transcript: Recorder | None = None


class DpStep:
    """One step of the mechanism that `plan.event` describes; see the module."""

    def __init__(self, plan: Plan, model: nn.Module, engine: Engine, keystream: Keystream) -> None:
        self.plan, self.model, self.engine = plan, model, engine
        self._keystream = keystream
        self.clip_norm = plan.clip_norm  # of this step; moved by `follow` alone
        self.number = 0  # of this step; decides what the model draws for whom
        self._at_random: bool | None = None
        device = next(model.parameters()).device
        self._device = device

    @cached_property
    def _noise(self) -> Noise:
        # Made when first asked for: a process that only sums has no keystream to draw from.
        return make_noise(self.plan, self._keystream, self._device)

    def draw(self, subjects: int) -> npt.NDArray[np.int64]:
        """Positions of the people of this step; may be empty. See `poisson_draw`."""
        return poisson_draw(self._keystream, subjects, self.plan.sample_rate)

    def clipped_sum(self, features: Tensor, mask: Tensor, labels: Tensor) -> list[Tensor]:
        """Sum of everybody's clipped gradient, and with an adaptive clip the count within it.

        Guarantee: adding or removing one person moves the sum by at most `clip_norm` in L2,
            and the count by 1/2.
        Shapes: features [persons, K, ...], mask [persons, K], labels [persons, K].

        Raises:
            NotFinite: a person's loss or gradient is NaN or infinite.
            TrainingRefused: more than `plan.records_per_person` records a person.
        """
        if mask.shape[1] > self.plan.records_per_person:
            raise TrainingRefused(
                f"A person comes with {mask.shape[1]} records; the plan allows "
                f"{self.plan.records_per_person}."
            )
        sums, norms = self.engine(features, mask, labels, clip_norm=self.clip_norm)
        if not torch.isfinite(norms).all():
            raise NotFinite(
                "A loss or a gradient is NaN or infinite. The run stops and counts as spent; lower "
                "the learning rate or check the model. To train again is another charge."
            )
        if self.plan.adaptive is not None:
            within = (norms <= self.clip_norm).to(torch.float32)
            sums = [*sums, (within - 0.5).sum().reshape(1)]
        return sums

    def randomness(
        self, tokens: npt.NDArray[np.uint32], features: Tensor
    ) -> AbstractContextManager[Any]:
        """Within it these people are summed: what the model draws is as the audit draws it again.

        Raises, in a sum: TrainingRefused: the model draws by what cannot be drawn again.
        """
        if self._at_random is None:
            self._at_random = draws_at_random(self.model, features.new_zeros(features.shape[1:]))
        if not self._at_random:
            return nullcontext()
        return PersonRandomness(self.plan.initial_seed, self.number, tokens)

    def zeros(self) -> list[Tensor]:
        """What `clipped_sum` gives for nobody."""
        count = [torch.zeros(1, device=self._device)] if self.plan.adaptive is not None else []
        return [*zero_sums(self.model), *count]

    def noisy(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """New tensors: the sums with noise of standard deviation
        `gradient_noise_multiplier * clip_norm`, the count with its own.

        Discrete noise rounds the sums to its grid first, and is as much wider as that costs.
        """
        gradients = sums if self.plan.adaptive is None else sums[:-1]
        scale = self.plan.gradient_noise_multiplier * self.clip_norm
        noisy = self._noise.add(gradients, standard_deviation=scale)
        if self.plan.adaptive is not None:
            noise = self.plan.adaptive.count_noise
            noisy += self._noise.add(sums[-1:], standard_deviation=noise)
        return noisy

    def follow(self, noisy: Sequence[Tensor]) -> list[Tensor]:
        """Moves the clip by the noisy count, if there is one; gives back the gradients alone.

        Post-processing: of what it is given, and of the plan. The clip stays within a
        factor of `CLIP_RANGE` of the first one, since a clip of 0 could not be noised.
        """
        adaptive = self.plan.adaptive
        if adaptive is None:
            return list(noisy)
        share = float(noisy[-1]) / self.plan.expected_batch_size + 0.5
        moved = self.clip_norm * math.exp(-adaptive.learning_rate * (share - adaptive.quantile))
        first = self.plan.clip_norm
        self.clip_norm = min(max(moved, first / CLIP_RANGE), first * CLIP_RANGE)
        return list(noisy[:-1])


@dataclass(frozen=True)
class TrainedModel:
    """What comes out: the model to release, and how it was made.

    `clips` are those of the steps that this process took: made of what was released with
    noise, and so no less private than the model.
    """

    model: nn.Module
    engine: str
    device: str
    steps: int
    clips: tuple[float, ...]


def train(
    task: Task, reservation: Reserved, optimizer: Optimizer, execution: Execution | None = None
) -> TrainedModel:
    """Trains under a plan whose spend is reserved for everybody in `task.data`.

    Guarantee: the model that comes out is what `plan.event` was charged for: `plan.steps`
        steps of `DpStep`, each on a fresh Poisson draw; the rest is post-processing.

    Raises:
        TrainingRefused: somebody in the data is not in the reservation, comes twice, or
            brings too many records; or the model cannot be clipped per person.
        NotFinite: a loss, a gradient or a weight is NaN or infinite; the run counts as spent.
    """
    plan, data = task.plan, task.data
    execution = execution or Execution()
    refuse_unreserved(plan, data, reservation)
    refuse_known_keys(execution)
    model, others = task.model.to(execution.device), execution.others
    engine = prepared_engine(task, model)
    step = DpStep(plan, model, engine, execution.keystream())
    updater = Updater(model, optimizer, plan.steps)
    saved = (
        Checkpoint(execution.checkpoint, plan, reservation.run_id) if execution.checkpoint else None
    )
    resumed = saved.resume(model, updater) if saved else None
    done = 0 if resumed is None else resumed.step
    step.clip_norm = plan.clip_norm if resumed is None else resumed.clip_norm
    taken = done  # counted, not copied from the plan: the audit compares the two
    clips: list[float] = []
    model.train()
    sum_of = partial(summed, step, task, device=execution.device)
    recorder = execution.transcript
    if recorder:
        counts = plan.adaptive is not None
        recorder.begin(
            model,
            partial(_state, model, updater),
            done=done,
            steps=plan.steps,
            drawn=len(data) * plan.sample_rate,
            count=counts,
            device=execution.device,
        )
    for number in range(done, plan.steps):
        step.number = number
        drawn = torch.from_numpy(step.draw(len(data)))
        sums = sum_of(drawn) if others is None else others.summed(step, drawn, sum_of)
        noisy = step.noisy(sums)
        clips.append(step.clip_norm)
        if recorder:
            recorder.step(number, step.clip_norm, drawn.numpy(), noisy)
        updater.step([g / plan.expected_batch_size for g in step.follow(noisy)])
        taken += 1
        if recorder:
            recorder.stepped(number)
        _keep(number + 1, step, updater, execution, saved)
        if execution.progress is not None:
            execution.progress(number + 1, plan.steps)
    updater.finish()
    refuse_not_finite(model.eval())
    return TrainedModel(model, engine.name, execution.device, taken, tuple(clips))


def _keep(
    done: int, step: DpStep, updater: Updater, execution: Execution, saved: Checkpoint | None
) -> None:
    """After a step, what a training goes on from: after the last one always."""
    recorder, last = execution.transcript, done == step.plan.steps
    due = saved is not None and (last or done % execution.checkpoint_every == 0)
    if recorder and (due or last):
        recorder.flush()
    if saved is not None and due:
        saved.save(done, step.model, updater, clip_norm=step.clip_norm)
    if recorder and last:
        recorder.end()  # from here on nothing is drawn again: somebody may see what it became


def _state(model: nn.Module, updater: Updater) -> dict[str, Tensor]:
    """Weights and the optimizer's state, by the names that a transcript gives them."""
    kept, _ = updater.state()
    weights = {f"{MODEL}{name}": tensor for name, tensor in model.state_dict().items()}
    return weights | {f"{UPDATER}{name}": tensor for name, tensor in kept.items()}


def prepared_engine(task: Task, model: nn.Module) -> Engine:
    """The engine for the task's model, on its device, with products as exact as float32 allows."""
    # TF32 keeps ten bits of a product: a norm measured so may let a gradient past the clip.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    shape = tuple(task.data.features.shape[2:])
    return make_engine(task.engine, model, task.loss_fn, record_shape=shape, classes=task.classes)


def summed(step: DpStep, task: Task, positions: Tensor, *, device: str) -> list[Tensor]:
    """`step.clipped_sum` of the people at `positions`, `task.physical_batch` at a time.

    In how many parts they come changes the order of the float32 additions, nothing else.
    """
    sums = step.zeros()
    for part in positions.split(task.physical_batch):
        batch = task.data.batch(part, device)
        with step.randomness(task.data.tokens[part.numpy()], batch[0]):
            found = step.clipped_sum(*batch)
        for sum_, part_sum in zip(sums, found, strict=True):
            sum_.add_(part_sum)
    return sums


def refuse_known_keys(execution: Execution) -> None:
    """A run that is recorded to be audited is a real one.

    Raises: TrainingRefused: its draws and noise would come from a key that somebody knows.
    """
    if execution.transcript is not None and execution.keystream != Keystream.from_system:
        raise TrainingRefused(
            "A training with a transcript takes its key from the operating system alone: of noise "
            "from a known key nothing is left. Leave Execution.keystream as it is."
        )


def refuse_unreserved(plan: Plan, data: PersonData, reservation: Reserved) -> None:
    if not isinstance(plan, Plan):
        raise TrainingRefused("Training is driven by a Plan alone.")
    people = BitMap(data.tokens)
    strangers = len(people - reservation.admitted)
    if strangers:
        raise TrainingRefused(
            f"{strangers} people in the data are not in reservation {reservation.run_id}; "
            "nothing was trained."
        )
    if len(people) != len(data):
        raise TrainingRefused(
            f"{len(data) - len(people)} people come more than once in the data; each may have one "
            "place."
        )
    if data.mask.shape[1] > plan.records_per_person:
        raise TrainingRefused(
            f"The data has places for {data.mask.shape[1]} records a person; the plan allows "
            f"{plan.records_per_person}."
        )
    if len(people) and plan.delta >= 1 / len(people):
        raise TrainingRefused(
            f"delta={plan.delta:g} must be below 1/subjects: a larger one allows to publish a "
            "person outright. Lower budget.delta."
        )


def train_plain(task: Task, optimizer: Optimizer, *, device: str = "cpu") -> nn.Module:
    """The same network by the same loop without clip and noise: NOT private, never to release.

    For comparison alone: the plan's draws, steps and optimizer, the mean gradient of
    people instead of the noisy clipped one.
    """
    plan, data, model = task.plan, task.data, task.model.to(device)
    keystream = Keystream.from_system()
    updater = Updater(model, optimizer, plan.steps)
    parameters = trainable_parameters(model)
    for _ in range(plan.steps):
        drawn = torch.from_numpy(poisson_draw(keystream, len(data), plan.sample_rate))
        features, mask, labels = data.batch(drawn, device)
        outputs = model(features.flatten(0, 1))
        losses = checked_losses(task.loss_fn(outputs, labels.flatten()), mask.numel())
        loss = person_losses(losses, mask).sum() / plan.expected_batch_size
        updater.step(list(torch.autograd.grad(loss, parameters)))
    updater.finish()
    return model.eval()
