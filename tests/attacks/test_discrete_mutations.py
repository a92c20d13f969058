"""A run with discrete noise passes the audit; each way to break it turns the audit red."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lethe.attacks.mechanism import check_noise
from lethe.config import workspace
from lethe.core.errors import AuditContradiction
from lethe.core.files import read_json
from lethe.data.batches import PersonData
from lethe.privacy.noise import discrete
from lethe.privacy.noise.discrete import DiscreteNoise, grid_step, to_grid
from lethe.privacy.noise.discrete_gaussian import DiscreteGaussian
from lethe.privacy.noise.gaussian import GaussianNoise
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import Plan
from lethe.stages import audit
from lethe.stages import train as train_stage
from lethe.training import loop
from lethe.training.description import Architecture
from lethe.training.engines.choose import make_engine
from lethe.training.models import binary_loss, build_model
from tests import trained_run
from tests.attacks import looks

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which a sound run with discrete noise was trained."""
    root = tmp_path_factory.mktemp("discrete")
    declared = trained_run.params(noise="discrete")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        trained_run.write_people(declared)
        train_stage.run(declared, now=trained_run.NOW)
        looks.examine_run(declared)
    return root


@pytest.fixture
def trained(run_once: Path, tmp_path: Path, monkeypatch: Patch) -> Path:
    """A copy of it, and the working directory."""
    root = tmp_path / "workspace"
    shutil.copytree(run_once, root)
    monkeypatch.chdir(root)
    return root


def _audit() -> dict[str, Any]:
    return audit.run(trained_run.params(noise="discrete"), now=trained_run.NOW)


def test_a_sound_run_passes_and_says_what_its_noise_was(trained: Path) -> None:
    report = _audit()
    assert report["failed"] == []
    assert report["false_alarm_rate"] <= 1e-6
    assert "noise.grid" in {check["name"] for check in report["checks"]}
    assert json.loads(workspace.report_path("train").read_text())["noise"] == "discrete"
    assert read_json(workspace.MODEL / "model.json")["plan"]["noise"] == "discrete"


def half_scale_on_the_right_grid(patch: Patch) -> None:
    draw = DiscreteGaussian.draw
    patch.setattr(
        DiscreteGaussian, "draw", lambda self, count: draw(self, count).div(2).round().long()
    )


def half_scale_on_a_grid_twice_as_fine(patch: Patch) -> None:
    patch.setattr(discrete, "grid_step", lambda *words: grid_step(*words) / 2)


def no_noise_but_rounding(patch: Patch) -> None:
    patch.setattr(
        DiscreteGaussian, "draw", lambda self, count: torch.zeros(count, dtype=torch.int64)
    )


def _grid_of(patch: Patch, stretch: Callable[[Tensor], float]) -> None:
    """`add`, with a step that is stretched by what the data says."""
    add = DiscreteNoise.add

    def stretched(
        self: DiscreteNoise, sums: Sequence[Tensor], *, standard_deviation: float
    ) -> list[Tensor]:
        by = stretch(torch.cat([t.flatten() for t in sums]))
        return add(self, sums, standard_deviation=standard_deviation * by)

    patch.setattr(DiscreteNoise, "add", stretched)


def a_grid_that_depends_on_the_data(patch: Patch) -> None:
    _grid_of(patch, lambda flat: 1 + 1e-3 * float(flat.abs().max().clamp_max(1)))


def a_grid_that_depends_on_the_data_a_little(patch: Patch) -> None:
    _grid_of(patch, lambda flat: 1.00001 if bool(flat.any()) else 1.0)


def noise_on_the_grid_and_sums_beside_it(patch: Patch) -> None:
    def add(
        self: DiscreteNoise, sums: Sequence[Tensor], *, standard_deviation: float
    ) -> list[Tensor]:
        step = grid_step(self._noise_multiplier, standard_deviation, sum(t.numel() for t in sums))
        return [
            t + (self._integers.draw(t.numel()).double() * step).float().view_as(t) for t in sums
        ]

    patch.setattr(DiscreteNoise, "add", add)


def a_grid_shifted_by_a_sum(patch: Patch) -> None:
    """Rounded to steps, but counted from the sums' mean in place of 0."""
    patch.setattr(discrete, "to_grid", lambda flat, step: to_grid(flat - flat.mean(), step))
    add = DiscreteNoise.add

    def put_back(self: DiscreteNoise, sums: Sequence[Tensor], **words: float) -> list[Tensor]:
        mean = torch.cat([t.flatten() for t in sums]).mean()
        return [t + mean for t in add(self, sums, **words)]

    patch.setattr(DiscreteNoise, "add", put_back)


def floating_point_noise_in_its_place(patch: Patch) -> None:
    patch.setattr(
        loop, "make_noise", lambda plan, keystream, device: GaussianNoise(keystream, device)
    )


def rounding_is_not_paid_for(patch: Patch) -> None:
    patch.setattr(discrete, "grid_step", lambda multiplier, deviation, count: deviation / 2.0**24)


MUTATIONS: dict[Callable[[Patch], None], str] = {
    half_scale_on_the_right_grid: "noise.scale",
    half_scale_on_a_grid_twice_as_fine: "noise.scale",
    no_noise_but_rounding: "noise.scale",
    a_grid_that_depends_on_the_data: "noise.grid",
    a_grid_that_depends_on_the_data_a_little: "noise.grid",
    noise_on_the_grid_and_sums_beside_it: "noise.grid",
    a_grid_shifted_by_a_sum: "noise.grid",
    floating_point_noise_in_its_place: "noise.grid",
    rounding_is_not_paid_for: "noise.grid",
}


IN_THE_STAGE = (
    half_scale_on_the_right_grid,
    a_grid_that_depends_on_the_data_a_little,
    floating_point_noise_in_its_place,
)


@pytest.mark.parametrize("mutation", IN_THE_STAGE, ids=lambda m: m.__name__)
def test_the_audit_turns_red(
    mutation: Callable[[Patch], None], trained: Path, monkeypatch: Patch
) -> None:
    if mutation is not floating_point_noise_in_its_place:  # it goes through a whole audit
        looks.only(monkeypatch, "noise")
    mutation(monkeypatch)
    with pytest.raises(AuditContradiction):
        _audit()
    failed = json.loads(workspace.report_path("audit").read_text())["failed"]
    assert MUTATIONS[mutation] in failed


@pytest.mark.parametrize("mutation", [None, *MUTATIONS], ids=lambda m: m.__name__ if m else "sound")
def test_the_audits_look_at_noise_sees_it(
    mutation: Callable[[Patch], None] | None, monkeypatch: Patch
) -> None:
    plan = replace(trained_run.plan_of(trained_run.params(noise="discrete")), records_per_person=1)
    model = build_model(Architecture("mlp", (8,), 6, 1))
    numbers = torch.Generator().manual_seed(2)
    data = PersonData(
        torch.randn(60, 1, 6, generator=numbers),
        torch.ones(60, 1, dtype=torch.bool),
        torch.ones(60, 1),
        np.arange(60, dtype=np.uint32),
    )

    def step_of(plan: Plan) -> loop.DpStep:
        engine = make_engine("auto", model, binary_loss, record_shape=(6,), classes=1)
        return loop.DpStep(plan, model, engine, Keystream.from_system())

    if mutation is not None:
        mutation(monkeypatch)
    failed = {check.name for check in check_noise(step_of, plan, data) if not check.passed}
    assert failed >= {MUTATIONS[mutation]} if mutation else not failed
