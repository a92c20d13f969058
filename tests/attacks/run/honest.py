"""Runs as they are recorded: honest ones by the code that trains, and ones with a fault put in.

`record` takes steps by `loop.DpStep` on invented people and gives each as a `RunStep`. A hook may
change what was drawn, what was summed, or what was released, in any step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lethe.attacks.run.noise_law import Residuals
from lethe.attacks.run.steps import RunStep
from lethe.data.batches import PersonData
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import Plan
from lethe.training.engines.choose import make_engine
from lethe.training.engines.contract import LossFn
from lethe.training.loop import DpStep
from lethe.training.models import binary_loss
from tests import plans

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Hooks:
    """Each is given the step's number; what it gives back takes the place of what it was given."""

    drawn: Callable[[int, Positions], Positions] = lambda number, drawn: drawn
    summed: Callable[[int, list[Tensor]], list[Tensor]] = lambda number, sums: sums
    released: Callable[[int, list[Tensor], list[Tensor]], list[Tensor]] = (
        lambda number, sums, noisy: noisy
    )


@dataclass(frozen=True)
class Recorded:
    """A run, and all that a look at it is given."""

    plan: Plan
    data: PersonData
    model: nn.Module
    steps: list[RunStep] = field(repr=False)
    loss_fn: LossFn = binary_loss

    @property
    def drawn(self) -> list[Positions]:
        return [step.drawn for step in self.steps]

    def with_noise(self, noise: npt.NDArray[np.float64], sums: Sequence[Tensor]) -> "Recorded":
        """The same steps, each releasing its sum and other noise [steps, coordinates]."""
        made = []
        for step, row, total in zip(self.steps, noise, sums, strict=True):
            parts = (total + torch.from_numpy(row)).float().split([t.numel() for t in step.release])
            shaped = zip(parts, step.release, strict=True)
            made.append(replace(step, release=tuple(p.view_as(t) for p, t in shaped)))
        return replace(self, steps=made)


def people(
    count: int, *, records: int = 4, features: int = 69, seed: int = 1, scale: float = 1.0
) -> PersonData:
    """Invented people, of one to `records` records; one in a hundred has none."""
    numbers = torch.Generator().manual_seed(seed)
    present = torch.randint(1, records + 1, (count, 1), generator=numbers)
    mask = torch.arange(records) < present
    mask[::100] = False
    x = (torch.rand(count, records, features, generator=numbers) < 0.15).float() * scale
    y = (torch.rand(count, records, generator=numbers) < 0.2).float()
    return PersonData(x * mask[..., None], mask, y * mask, np.arange(count, dtype=np.uint32) * 3)


def plan_of(**changes: object) -> Plan:
    """The demo's plan, but for so few people."""
    return replace(plans.CHARGED, **changes)  # type: ignore[arg-type]


def logistic(features: int = 69) -> nn.Module:
    return nn.Linear(features, 1)


def record(
    plan: Plan,
    data: PersonData,
    model: nn.Module,
    *,
    hooks: Hooks | None = None,
    learning_rate: float = 1.0,
    engine: str = "auto",
    loss_fn: LossFn = binary_loss,
    key: bytes = bytes(range(32)),
) -> Recorded:
    """A run by the code that trains, of plain SGD; of the same draws and noise every time."""
    hooks = hooks or Hooks()
    keystream = Keystream(key)
    shape = tuple(data.features.shape[2:])
    made = make_engine(engine, model, loss_fn, record_shape=shape, classes=1)
    step, steps = DpStep(plan, model, made, keystream), []
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()
    for number in range(plan.steps):
        step.number = number
        drawn = hooks.drawn(number, step.draw(len(data)))
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        batch = data.batch(torch.from_numpy(drawn))
        with step.randomness(data.tokens[drawn], batch[0]):
            sums = step.clipped_sum(*batch)
        noisy = hooks.released(number, sums, step.noisy(hooks.summed(number, sums)))
        clip = step.clip_norm
        count = float(noisy[-1]) if plan.adaptive is not None else None
        released = step.follow(noisy)
        steps.append(RunStep(number, clip, drawn, weights, tuple(released), count))
        with torch.no_grad():
            for parameter, noisy_sum in zip(trained, released, strict=True):
                parameter -= learning_rate * noisy_sum / plan.expected_batch_size
    return Recorded(plan, data, model, steps, loss_fn)


def residuals_of(
    values: npt.NDArray[np.float64],
    *,
    tensors: Sequence[int] = (),
    slack: float = 0.0,
    grid: float = 1e-7,
    along: npt.NDArray[np.float64] | None = None,
    beside: npt.NDArray[np.float64] | None = None,
) -> Residuals:
    """What a look at steps finds whose noise, in deviations, is `values` [steps, coordinates].

    Args:
        tensors: how many coordinates each has; they are one tensor by default.
        beside: numbers that were there before; by default, the steps' own.
        along: what lies along the sum and the weights; by default, along fixed directions.
    """
    steps, coordinates = values.shape
    sizes = np.array(tensors or [coordinates])
    ends = np.cumsum(sizes)[:-1]
    squares = [np.square(part).sum(1) for part in np.split(values, ends, axis=1)]
    if along is None:
        directions = np.random.default_rng(3).standard_normal((coordinates, 2))
        along = values @ (directions / np.linalg.norm(directions, axis=0))
    return Residuals(
        numbers=np.arange(steps),
        values=values,
        tensor_of=np.repeat(np.arange(len(sizes)), sizes),
        columns=np.arange(min(coordinates, 256)),
        slack=np.full(steps, slack),
        grid=grid,
        squares=np.stack(squares, axis=1),
        sizes=sizes,
        by_coordinate=np.square(values).sum(0),
        beside=np.arange(steps)[:, None].astype(np.float64) if beside is None else beside,
        along=along,
    )
