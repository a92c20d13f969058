"""Small trainings that are recorded, and what the recomputation says of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pyroaring import BitMap
from torch import Tensor, nn

from lethe.attacks.run.recompute import Recomputation
from lethe.attacks.run.recorded import Recorded
from lethe.attacks.threads import helped
from lethe.config.training import Optimizer
from lethe.data.batches import PersonData
from lethe.privacy.plan import Plan
from lethe.training import begins as journal
from lethe.training import loop
from lethe.training.models import binary_loss
from lethe.training.parallel import Admission
from lethe.training.transcript import Recorder

RUN = "0f" * 16
PLAN = Plan(
    sample_rate=0.2,
    steps=20,
    records_per_person=2,
    clip_norm=0.5,
    noise_multiplier=1.5,
    expected_batch_size=12.0,
    delta=1e-5,
)
SGD = Optimizer(learning_rate=0.3, momentum=0.9, averaging=0.9)
Build = Callable[[], nn.Module]


class Killed(Exception):
    pass


def people(count: int = 60) -> PersonData:
    numbers = torch.Generator().manual_seed(3)
    return PersonData(
        torch.randn(count, 2, 5, generator=numbers),
        torch.rand(count, 2, generator=numbers) < 0.8,
        torch.randint(0, 2, (count, 2), generator=numbers).float(),
        np.arange(count, dtype=np.uint32) * 3,
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


@dataclass(frozen=True)
class Run:
    """One run: `folder` has its transcript. `released` may be changed before it is looked at."""

    folder: Path
    plan: Plan
    optimizer: Optimizer
    build: Build
    released: Mapping[str, Tensor]

    def recomputation(self) -> Recomputation:
        recorded = Recorded(self.folder)
        return Recomputation(recorded, self.plan, self.optimizer, self.build(), self.released)

    def failed(self) -> list[str]:
        return [check.name for check in self.recomputation().checks() if not check.passed]

    def with_released(self, **tensors: Tensor) -> "Run":
        return replace(self, released={**self.released, **tensors})


def run(
    folder: Path,
    *,
    plan: Plan = PLAN,
    optimizer: Optimizer = SGD,
    build: Build = network,
    begins: Build | None = None,
    limit: int = 2**30,
    killed_at: tuple[int, ...] = (),
    every: int = 5,
    processes: int = 1,
) -> Run:
    """Trains with a transcript, killed before each of `killed_at` and gone on with.

    Args:
        begins: what trains in truth, where it is another one than `build` says.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    deaths = list(killed_at)
    data, reserved = people(), Admission(RUN, BitMap(people().tokens))

    def look(number: int, steps: int) -> None:
        if deaths and number == deaths[0]:
            deaths.pop(0)
            raise Killed

    while True:
        task = loop.Task(plan, data, (begins or build)(), binary_loss)
        recorder = Recorder(folder, run_id=RUN, plan=plan.digest, limit=limit)
        with helped(processes, task, reserved, device="cpu") as others:
            execution = loop.Execution(
                checkpoint=folder.with_suffix(".checkpoint"),
                checkpoint_every=every,
                progress=look,
                others=others,
                transcript=recorder,
            )
            try:
                trained = loop.train(task, reserved, optimizer, execution)
            except Killed:
                journal._named.cache_clear()  # another process goes on
                continue
        state = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
        return Run(folder, plan, optimizer, build, state)
