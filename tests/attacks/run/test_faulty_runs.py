"""Whole trainings with a fault in them, through the train stage: the audit of the run names it.

Each is the code that trains with a line or two exchanged, as somebody might write it by mistake.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lethe.attacks import own_run
from lethe.attacks.run import examine
from lethe.config.params import Params, parse_params
from lethe.core.errors import AuditContradiction
from lethe.stages import audit
from lethe.stages import train as train_stage
from lethe.training import dpsgd_fit, loop
from lethe.training.optimizer import Updater
from tests import trained_run
from tests.attacks import looks
from tests.attacks.rewriting import rewrite

Patch = pytest.MonkeyPatch
Fault = Callable[[Patch], None]


def _params() -> Params:
    raw = trained_run.raw()
    raw["training"]["mechanism"] |= {
        "steps": 60,
        "sample_rate": 0.3,
        "noise_multiplier": 1.5,
        "clip_norm": 0.1,
    }
    raw["training"]["optimizer"] = {"learning_rate": 0.3, "momentum": 0.8, "averaging": 0.9}
    raw["training"]["hidden"] = [16]
    return parse_params(raw)


PARAMS = _params()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("before")
    with Patch.context() as patch:
        patch.chdir(root)
        trained_run.write_people(PARAMS)
    return root


@pytest.fixture
def here(before: Path, tmp_path: Path, monkeypatch: Patch) -> Iterator[None]:
    """A workspace before training; the process of the examination is played in this one."""
    shutil.copytree(before, tmp_path / "workspace")
    monkeypatch.chdir(tmp_path / "workspace")
    looks.only(monkeypatch, "run")

    def answered(command: list[str], **words: Any) -> subprocess.CompletedProcess[bytes]:
        examine.main(*command[-2:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(own_run.subprocess, "run", answered)
    yield


def _rewritten(patch: Patch, owner: Any, name: str, *changes: tuple[str, str]) -> None:
    rewrite(patch, owner, name, *changes[0], *changes[1:], names={"np": np, "torch": torch})
    if owner is loop and name == "train":
        patch.setattr(dpsgd_fit, "train", loop.train)


_NOISY = "noisy = step.noisy(sums)"
_DRAWN = "drawn = torch.from_numpy(step.draw(len(data)))"


def _in_train(*changes: tuple[str, str]) -> Fault:
    return lambda patch: _rewritten(patch, loop, "train", *changes)


def thirty_plain_steps_afterwards(patch: Patch) -> None:
    finish = Updater.finish

    def tuned(self: Updater) -> None:
        finish(self)
        with torch.no_grad():
            for parameter in self._parameters:
                parameter.add_(1e-3)

    patch.setattr(Updater, "finish", tuned)


def averages_of_what_was_not_noised(patch: Patch) -> None:
    change = "updater.step([g / plan.expected_batch_size for g in step.follow(noisy)])"
    mixed = "[0.9 * g + 0.1 * s for g, s in zip(step.follow(noisy), sums)]"
    clean = f"updater.step([g / plan.expected_batch_size for g in {mixed}])"
    _rewritten(patch, loop, "train", (change, clean))


def a_bias_of_the_labels(patch: Patch) -> None:
    begins = "    model.train()\n"
    first = "list(model.parameters())[-1].fill_(data.labels.mean())"
    knows = f"    with torch.no_grad():\n        {first}\n"
    _rewritten(patch, loop, "train", (begins, begins + knows))


def another_average_than_is_declared(patch: Patch) -> None:
    _rewritten(patch, Updater, "step", ("keep = self._declared.averaging", "keep = 0.8"))


FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "30 plain steps afterwards": (thirty_plain_steps_afterwards, {"run.weights"}),
    "what was not noised is mixed in": (averages_of_what_was_not_noised, {"run.weights"}),
    "a bias of the labels": (a_bias_of_the_labels, {"run.start"}),
    "another average": (another_average_than_is_declared, {"run.weights"}),
    "noise that stops at two thirds": (
        _in_train(
            (_NOISY, "noisy = step.noisy(sums) if number < 40 else [s.clone() for s in sums]")
        ),
        {"noise_of_run.every_step"},
    ),
    "one step without noise": (
        _in_train(
            (_NOISY, "noisy = step.noisy(sums) if number != 31 else [s.clone() for s in sums]")
        ),
        {"noise_of_run.every_step"},
    ),
    "half the noise in one layer": (
        _in_train((_NOISY, f"{_NOISY}; noisy[0] = (noisy[0] + sums[0]) / 2")),
        {"noise_of_run.every_tensor"},
    ),
    "one parameter without noise": (
        _in_train((_NOISY, f"{_NOISY}; noisy[0][0, 0] = sums[0][0, 0]")),
        {"noise_of_run.every_coordinate"},
    ),
    "the noise of the step before": (
        _in_train(
            ("taken = done", "last = None; taken = done"),
            (
                _NOISY,
                f"{_NOISY}; fresh = [n - s for n, s in zip(noisy, sums)]; "
                "noisy = noisy if last is None or number % 2 else "
                "[s + n for s, n in zip(sums, last)]; last = fresh",
            ),
        ),
        {"noise_of_run.steps_differ"},
    ),
    "noise taken back in the next step": (
        _in_train(
            ("taken = done", "last = None; taken = done"),
            (
                _NOISY,
                f"{_NOISY}; fresh = [n - s for n, s in zip(noisy, sums)]; "
                "noisy = noisy if last is None else [n - l for n, l in zip(noisy, last)]; "
                "last = fresh",
            ),
        ),
        {"noise_of_run.steps_independent"},
    ),
    # Never beyond 1.8 deviations, so that this does not miss; its law is 3 deviations of luck away.
    "uniform noise": (
        _in_train(
            (
                _NOISY,
                "z = plan.noise_multiplier * plan.clip_norm * 12**0.5; "
                "noisy = [s + z * (torch.rand_like(s) - 0.5) for s in sums]",
            )
        ),
        {"noise_of_run.tails"},
    ),
    "somebody twice in a draw": (
        _in_train(
            (_DRAWN, "d = step.draw(len(data)); drawn = torch.from_numpy(np.append(d, d[:1]))")
        ),
        {"draws_of_run.nobody_twice"},
    ),
    "those of one record drawn twice as often": (
        _in_train(
            (
                _DRAWN,
                "d = np.union1d(step.draw(len(data)), np.intersect1d(step.draw(len(data)), "
                "np.flatnonzero(data.mask.sum(1).numpy() == 1))); drawn = torch.from_numpy(d)",
            )
        ),
        {"draws_of_run.by_records"},
    ),
    "the same batch in every step": (
        _in_train(
            ("taken = done", "first = step.draw(len(data)); taken = done"),
            (_DRAWN, "drawn = torch.from_numpy(first)"),
        ),
        {"draws_of_run.people"},
    ),
    "other people than were drawn": (
        _in_train(
            (
                "sums = sum_of(drawn)",
                "sums = sum_of(torch.arange(len(data))) if number % 2 else sum_of(drawn)",
            )
        ),
        {"noise_of_run.along_sum"},
    ),
    "a wider clip than is charged": (
        lambda patch: _rewritten(
            patch, loop.DpStep, "clipped_sum", ("clip_norm=self.clip_norm)", "clip_norm=0.4)")
        ),
        {"noise_of_run.along_sum"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_run_is_contradicted_by_name(name: str, here: None, monkeypatch: Patch) -> None:
    fault, named = FAULTS[name]
    with monkeypatch.context() as patch:
        fault(patch)
        train_stage.run(PARAMS, now=trained_run.NOW)
    with pytest.raises(AuditContradiction) as said:
        audit.run(PARAMS, now=trained_run.NOW)
    assert all(check in str(said.value) for check in named), str(said.value)


@pytest.mark.parametrize("number", range(3))
def test_a_sound_run_is_not(number: int, here: None) -> None:
    train_stage.run(PARAMS, now=trained_run.NOW)
    assert audit.run(PARAMS, now=trained_run.NOW)["failed"] == []
