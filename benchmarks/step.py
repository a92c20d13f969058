"""What a step of person-level DP costs beside the same step without privacy."""

import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from pipeline.training.clipping import make_engine
from pipeline.training.loop import DpStep
from pipeline.training.models import binary_loss
from pipeline.training.plan import Plan
from pipeline.training.sampling import Keystream

SUBJECTS, RECORDS, FEATURES = 2048, 4, 128
ROUNDS = 25


def measure() -> list[tuple[str, str, str]]:
    """The MLP 128→256→256→1 on 2,048 persons of 4 records, CPU."""
    torch.manual_seed(0)
    features = torch.randn(SUBJECTS, RECORDS, FEATURES)
    mask = torch.ones(SUBJECTS, RECORDS, dtype=torch.bool)
    labels = torch.randint(0, 2, (SUBJECTS, RECORDS)).float()
    plain = _plain_step(features, labels)
    private = {
        engine: _private_step(engine, features, mask, labels)
        for engine in ("bookkeeping", "opacus_ghost")
    }
    seconds = _interleaved({"plain": plain, **private})
    ratio = _ratios(seconds, "plain")
    noise = _noise_share(features, mask, labels)
    against = _ratios(seconds, "opacus_ghost")
    return [
        ("person-level step / plain step, MLP, CPU", f"{ratio['bookkeeping']:.2f}", "≤ 1.15"),
        ("the same / Opacus ghost", f"{against['bookkeeping']:.2f}", "≤ 0.6"),
        ("Opacus ghost / plain step", f"{ratio['opacus_ghost']:.2f}", ""),
        ("noise and sampling, share of a step", f"{noise:.1%}", "≤ 5 %"),
    ]


def _network() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    )


def _plan() -> Plan:
    return Plan(
        sample_rate=0.05,
        steps=1000,
        records_per_person=RECORDS,
        clip_norm=1.0,
        noise_multiplier=1.0,
        expected_batch_size=float(SUBJECTS),
        delta=1e-5,
    )


def _plain_step(features: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    model = _network()
    flat, targets = features.flatten(0, 1), labels.flatten()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def run() -> None:
        optimizer.zero_grad()
        binary_loss(model(flat), targets).mean().backward()
        optimizer.step()

    return run


def _private_step(
    engine: str, features: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> Callable[[], object]:
    model = _network()
    chosen = make_engine(engine, model, binary_loss, record_shape=(FEATURES,), classes=1)
    step = DpStep(_plan(), model, chosen, Keystream.from_system())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def run() -> None:
        step.draw(SUBJECTS * 20)
        noisy = step.noisy(step.clipped_sum(features, mask, labels))
        for parameter, gradient in zip(model.parameters(), noisy, strict=True):
            parameter.grad = gradient / SUBJECTS
        optimizer.step()

    return run


def _interleaved(steps: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each, round by round, so that a slow moment hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(3):
            step()
    gc.collect()
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _ratios(seconds: dict[str, list[float]], base: str) -> dict[str, float]:
    return {
        name: statistics.median(a / b for a, b in zip(taken, seconds[base], strict=True))
        for name, taken in seconds.items()
    }


def _noise_share(features: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> float:
    model = _network()
    chosen = make_engine("bookkeeping", model, binary_loss, record_shape=(FEATURES,), classes=1)
    step = DpStep(_plan(), model, chosen, Keystream.from_system())
    sums = step.clipped_sum(features, mask, labels)

    def random_part() -> None:
        step.draw(SUBJECTS * 20)
        step.noisy(sums)

    def rest() -> None:
        step.clipped_sum(features, mask, labels)

    seconds = _interleaved({"random": random_part, "rest": rest})
    return statistics.median(
        a / (a + b) for a, b in zip(seconds["random"], seconds["rest"], strict=True)
    )
