"""Of every kept step, the length of what left: what noise and the clips of those drawn make."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lethe.attacks.run.lengths import Lengths
from lethe.attacks.run.steps import RunStep
from lethe.privacy.plan import AdaptiveClip, Plan
from tests.attacks.run.honest import plan_of

SIZES = (90_000, 300)
PLAN = plan_of(steps=40, noise_multiplier=1.5, clip_norm=0.3)


def _steps(plan: Plan, *, drawn: int, length: float = 1.0) -> list[RunStep]:
    """Honest ones; `length`: of their sums, as a part of what it may be at most."""
    random = np.random.default_rng(4)
    found = []
    for number in range(plan.steps):
        sums = random.standard_normal(sum(SIZES))
        sums *= length * drawn * plan.clip_norm / np.linalg.norm(sums)
        noise = plan.gradient_noise_multiplier * plan.clip_norm
        noisy = torch.from_numpy(sums + noise * random.standard_normal(sum(SIZES))).float()
        people = np.arange(drawn)
        found.append(RunStep(number, plan.clip_norm, people, {}, tuple(noisy.split(SIZES))))
    return found


def _passes(plan: Plan, steps: list[RunStep]) -> bool:
    look = Lengths(plan, sum(SIZES))
    for step in steps:
        look.at(step)
    (check,) = look.checks()
    assert 0 < check.false_alarm_rate <= 1e-8
    return check.passed


@pytest.mark.parametrize("drawn", [0, 1, 100, 5_000])
@pytest.mark.parametrize("length", [0.0, 0.5, 1.0])
def test_honest_steps_pass_whatever_their_sums_are(drawn: int, length: float) -> None:
    adaptive = AdaptiveClip(quantile=0.5, learning_rate=0.2, count_noise=10.0)
    for plan in (PLAN, replace(PLAN, noise="discrete"), replace(PLAN, adaptive=adaptive)):
        short = replace(plan, steps=6)
        assert _passes(short, _steps(short, drawn=drawn, length=length))


FAULTS = {"no noise": 0.0, "half of the noise": 0.5, "twice the noise": 2.0}


@pytest.mark.parametrize("name", FAULTS)
def test_one_step_of_a_large_network_is_seen(name: str) -> None:
    steps = _steps(PLAN, drawn=100, length=0.0)
    wrong = tuple(t * FAULTS[name] for t in steps[23].release)
    steps[23] = replace(steps[23], release=wrong)
    assert not _passes(PLAN, steps)


def test_one_layer_of_one_step_is_seen() -> None:
    steps = _steps(PLAN, drawn=5, length=0.0)
    steps[11] = replace(steps[11], release=(steps[11].release[0], torch.zeros(300)))
    assert not _passes(PLAN, steps)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_does_not_pass(value: float) -> None:
    steps = _steps(PLAN, drawn=5)
    steps[11] = replace(steps[11], release=(steps[11].release[0], torch.full((300,), value)))
    assert not _passes(PLAN, steps)


def test_it_is_said_where_the_length_alone_shows_little() -> None:
    for drawn, seen in ((100, 40), (5_000, 0)):
        look = Lengths(PLAN, sum(SIZES))
        for step in _steps(PLAN, drawn=drawn):
            look.at(step)
        assert f"of {seen} of these" in look.checks()[0].meaning
