"""The two networks that the literature times, and one training step of each in every way.

The steps of one task do the same work: the same people, loss and optimizer. All of them
end with new weights; the private ones draw, clip, sum and add noise.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.gsm_exp_weights import GradSampleModuleExpandedWeights
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from benchmarks.timing import Step
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import Plan
from lethe.training.engines.choose import make_engine
from lethe.training.engines.contract import Engine, LossFn
from lethe.training.engines.reference import OpacusGhostEngine
from lethe.training.loop import DpStep
from lethe.training.models import binary_loss, class_loss

SUBJECTS = 2048
SAMPLE_RATE = 0.05
PARTS = 8  # of a plain step that a user takes piece by piece


@dataclass(frozen=True)
class Task:
    """One network and what it is trained on. Shapes: features [SUBJECTS, records, *shape]."""

    name: str
    network: Callable[[], nn.Module]
    loss: LossFn
    shape: tuple[int, ...]
    records: int
    classes: int

    def people(self, device: str) -> tuple[Tensor, Tensor, Tensor]:
        """Made-up features, mask and labels."""
        made = torch.Generator().manual_seed(0)
        places = (SUBJECTS, self.records)
        features = torch.randn(*places, *self.shape, generator=made)
        labels = torch.randint(0, max(2, self.classes), places, generator=made)
        mask = torch.ones(places, dtype=torch.bool)
        found = (features, mask, labels.float() if self.classes == 1 else labels)
        return tuple(each.to(device) for each in found)  # type: ignore[return-value]

    def plan(self) -> Plan:
        return Plan(
            sample_rate=SAMPLE_RATE,
            steps=1000,
            records_per_person=self.records,
            clip_norm=1.0,
            noise_multiplier=1.0,
            expected_batch_size=float(SUBJECTS),
            delta=1e-5,
        )


def _mlp() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    )


def _cnn() -> nn.Module:
    """Source: Papernot et al. (2021), arXiv:2007.14191, table 1; 26,010 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 8, stride=2, padding=3), nn.Tanh(), nn.MaxPool2d(2, stride=1)),
        *(nn.Conv2d(16, 32, 4, stride=2), nn.Tanh(), nn.MaxPool2d(2, stride=1)),
        *(nn.Flatten(), nn.Linear(32 * 4 * 4, 32), nn.Tanh(), nn.Linear(32, 10)),
    )


MLP = Task("MLP", _mlp, binary_loss, (128,), 4, 1)
CNN = Task("CNN", _cnn, class_loss, (1, 28, 28), 1, 10)
TASKS = {task.name: task for task in (MLP, CNN)}


def plain_step(task: Task, device: str, *, parts: int = 1) -> Step:
    """Without privacy, as a user writes it; or its batch in parts, which a cache may like."""
    features, _, labels = task.people(device)
    rows, targets = features.flatten(0, 1), labels.flatten()
    model = task.network().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pieces = list(zip(rows.chunk(parts), targets.chunk(parts), strict=True))

    def run() -> None:
        optimizer.zero_grad()
        for x, y in pieces:
            (task.loss(model(x), y).sum() / len(rows)).backward()
        optimizer.step()

    return run


def private_step(task: Task, device: str, *, engine: str = "auto") -> Step:
    """The project's own step, whole: draw, clipped sum, noise, update."""
    people = task.people(device)
    step, model = dp_step(task, device, engine=engine)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def run() -> None:
        step.draw(round(SUBJECTS / SAMPLE_RATE))
        noisy = step.noisy(step.clipped_sum(*people))
        for parameter, gradient in zip(model.parameters(), noisy, strict=True):
            parameter.grad = gradient / SUBJECTS
        optimizer.step()

    return run


def dp_step(task: Task, device: str, *, engine: str = "auto") -> tuple[DpStep, nn.Module]:
    model = task.network().to(device)
    if engine == "opacus_ghost":  # make_engine would ask it for several records a person
        return _dp_step(task, model, OpacusGhostEngine(model, task.loss)), model
    chosen = make_engine(engine, model, task.loss, record_shape=task.shape, classes=task.classes)
    return _dp_step(task, model, chosen), model


def _dp_step(task: Task, model: nn.Module, engine: Engine) -> DpStep:
    return DpStep(task.plan(), model, engine, Keystream.from_system())


def opacus_step(task: Task, device: str, *, mode: str) -> Step:
    """Opacus with its own optimizer and noise; a person's records lie along the second axis.

    Args:
        mode: hooks, functorch or ew (expanded weights). Where a person has several records
            only hooks and functorch clip per person.
    """
    features, _, labels = task.people(device)
    model = task.network().to(device)
    wrapped: nn.Module = (
        GradSampleModuleExpandedWeights(model)
        if mode == "ew"
        else GradSampleModule(model, force_functorch=mode == "functorch")
    )
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=SUBJECTS,
    )
    x = features if task.records > 1 else features[:, 0]

    def run() -> None:
        optimizer.zero_grad()
        outputs = wrapped(x)
        flat = outputs.flatten(0, 1) if task.records > 1 else outputs
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            (task.loss(flat, labels.flatten()).sum() / labels.numel()).backward()
        optimizer.step()

    return run
