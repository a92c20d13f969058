"""The optimizers are PyTorch's, the schedule too; and a restored one goes on exactly."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lethe.config.training import Optimizer
from lethe.core.errors import TrainingRefused
from lethe.privacy.plan import Plan
from lethe.training.checkpoint import Checkpoint
from lethe.training.optimizer import Updater

STEPS = 12
DECLARED = [
    Optimizer(learning_rate=0.3),
    Optimizer(learning_rate=0.3, momentum=0.9, schedule="cosine"),
    Optimizer(name="adam", learning_rate=0.05),
    Optimizer(name="adam", learning_rate=0.05, averaging=0.8, schedule="cosine"),
    Optimizer(learning_rate=0.3, momentum=0.5, averaging=0.9),
]
PLAN = Plan(
    sample_rate=0.5,
    steps=STEPS,
    records_per_person=1,
    clip_norm=1.0,
    noise_multiplier=1.0,
    expected_batch_size=1.0,
    delta=1e-5,
)


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def gradients() -> list[list[Tensor]]:
    numbers = torch.Generator().manual_seed(7)
    shapes = [p.shape for p in model().parameters()]
    return [[torch.randn(s, generator=numbers) for s in shapes] for _ in range(STEPS)]


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def by_torch(declared: Optimizer) -> list[Tensor]:
    """The weights after each step by PyTorch's own optimizer and scheduler."""
    network = model()
    optimizer: Any = (
        torch.optim.Adam(network.parameters(), lr=declared.learning_rate)
        if declared.name == "adam"
        else torch.optim.SGD(
            network.parameters(), lr=declared.learning_rate, momentum=declared.momentum
        )
    )
    scheduler: Any = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
        if declared.schedule == "cosine"
        else torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    )
    seen = []
    for own in gradients():
        for p, g in zip(network.parameters(), own, strict=True):
            p.grad = g.clone()
        optimizer.step()
        scheduler.step()
        seen.append(weights(network).clone())
    return seen


@pytest.mark.parametrize("declared", DECLARED, ids=repr)
def test_every_optimizer_moves_as_pytorchs_own(declared: Optimizer) -> None:
    network, expected = model(), by_torch(declared)
    updater = Updater(network, declared, STEPS)
    for own, after in zip(gradients(), expected, strict=True):
        updater.step(own)
        torch.testing.assert_close(weights(network), after, rtol=1e-5, atol=1e-6)
    updater.finish()
    if declared.averaging:
        # Geometric weights that sum to one: arXiv:1412.6980, section 3, for the correction.
        shares = [declared.averaging ** (STEPS - 1 - t) for t in range(STEPS)]
        mean = sum(s * w for s, w in zip(shares, expected, strict=True)) / sum(shares)
        torch.testing.assert_close(weights(network), mean, rtol=1e-5, atol=1e-6)
    else:
        torch.testing.assert_close(weights(network), expected[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("declared", DECLARED, ids=repr)
@pytest.mark.parametrize("stop", [1, 7, STEPS - 1])
def test_a_restored_optimizer_goes_on_bit_for_bit(
    declared: Optimizer, stop: int, tmp_path: Path
) -> None:
    unbroken, broken, resumed = model(), model(), model()
    whole = Updater(unbroken, declared, STEPS)
    for own in gradients():
        whole.step(own)
    whole.finish()
    before = Updater(broken, declared, STEPS)
    for own in gradients()[:stop]:
        before.step(own)
    Checkpoint(tmp_path / "c", PLAN, "run-1").save(stop, broken, before, clip_norm=0.7)
    with torch.no_grad():
        for p in resumed.parameters():
            p.fill_(math.pi)  # whatever the new process began with
    after = Updater(resumed, declared, STEPS)
    done = Checkpoint(tmp_path / "c", PLAN, "run-1").resume(resumed, after)
    assert done is not None
    assert (done.step, done.clip_norm) == (stop, 0.7)
    for own in gradients()[stop:]:
        after.step(own)
    after.finish()
    assert torch.equal(weights(resumed), weights(unbroken))


@pytest.mark.parametrize("other", DECLARED[1:], ids=repr)
def test_the_state_of_another_optimizer_is_refused(other: Optimizer, tmp_path: Path) -> None:
    network = model()
    saved = Checkpoint(tmp_path / "c", PLAN, "run-1")
    saved.save(1, network, Updater(network, DECLARED[0], STEPS), clip_norm=1.0)
    with pytest.raises(TrainingRefused, match="another model or optimizer"):
        saved.resume(network, Updater(network, other, STEPS))
