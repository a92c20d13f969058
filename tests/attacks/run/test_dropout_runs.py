"""What a network drew as it trained is drawn again, however the training computed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lethe.attacks.run.residuals import check_residuals
from lethe.attacks.run.sums import PersonSums
from lethe.training.models import binary_loss
from tests.attacks.recorded_run import PLAN, people, run

# Hardly any noise: a single person's other dropout would be seen beside it.
NEARLY_EXACT = replace(PLAN, steps=12, noise_multiplier=1e-3, initial_seed=4)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 1))


WAYS: dict[str, dict[str, Any]] = {
    "at once": {},
    "by three processes": {"processes": 3},
    "killed and gone on with": {"killed_at": (3, 8)},
    "in parts that are not all kept": {"limit": 9_000},
}


@pytest.mark.parametrize("way", WAYS)
def test_dropout_is_drawn_again_however_the_run_was_computed(way: str, tmp_path: Path) -> None:
    made = run(tmp_path / "run", plan=NEARLY_EXACT, build=network, **WAYS[way])
    assert made.failed() == []
    steps = list(made.recomputation().steps())
    for seed, sound in ((4, True), (5, False)):
        sums = PersonSums(network(), binary_loss, people(), seed=seed)
        checks = check_residuals(made.plan, sums, iter(steps), random=np.random.default_rng())
        assert all(check.passed for check in checks) is sound
