"""Whole trainings with a fault in them, through the train stage: the audit of the run names it.

Each is the code that trains with a line or two exchanged, as somebody might write it by mistake.
"""

import json
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
from lethe.config import workspace
from lethe.config.params import Params, parse_params
from lethe.core.errors import AuditContradiction
from lethe.privacy.noise import sampling
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
    "sums of the wrong people": (
        _in_train(("sums = sum_of(drawn)", "sums = sum_of((drawn + 1) % len(data))")),
        {"noise_of_run.along_sum"},
    ),
    "noise for large values alone": (
        _in_train(
            (
                _NOISY,
                f"{_NOISY}; noisy = [torch.where(s.abs() > s.abs().median(), n, s) "
                "for n, s in zip(noisy, sums)]",
            )
        ),
        {"noise_of_run.scale"},
    ),
    "noise of the number drawn": (
        _in_train(
            (
                _NOISY,
                "torch.manual_seed(len(drawn)); z = plan.noise_multiplier * plan.clip_norm; "
                "noisy = [s + z * torch.randn_like(s) for s in sums]",
            )
        ),
        {"noise_of_run.steps_differ"},
    ),
    "more noise for more people": (
        _in_train(
            (
                _NOISY,
                f"{_NOISY}; w = (len(drawn) / len(data) / plan.sample_rate) ** 4; "
                "noisy = [s + w * (n - s) for n, s in zip(noisy, sums)]",
            )
        ),
        {"noise_of_run.any_batch"},
    ),
    "everybody of a label drawn more often": (
        _in_train(
            (
                _DRAWN,
                "d = np.union1d(step.draw(len(data)), np.intersect1d(step.draw(len(data)), "
                "np.flatnonzero((data.labels * data.mask).sum(1).numpy() == 0))); "
                "drawn = torch.from_numpy(d)",
            )
        ),
        {"draws_of_run.by_label"},
    ),
    "records clipped one by one": (
        lambda patch: _rewritten(
            patch,
            loop,
            "summed",
            (
                "found = step.clipped_sum(*batch)",
                "found = step.clipped_sum(*(t.flatten(0, 1).unsqueeze(1) for t in batch))",
            ),
        ),
        {"noise_of_run.along_sum"},
    ),
    "a part of the batch with a wider clip": (
        lambda patch: _rewritten(
            patch,
            loop,
            "summed",
            (
                "found = step.clipped_sum(*batch)",
                "w = 4 if len(part) < 64 else 1; step.clip_norm *= w; "
                "found = step.clipped_sum(*batch); step.clip_norm /= w",
            ),
            ("positions.split(task.physical_batch)", "positions.split(64)"),
        ),
        {"noise_of_run.along_sum"},
    ),
    "gradients of old weights": (
        _in_train(
            (
                "taken = done",
                "old = [p.detach().clone() for p in model.parameters()]; taken = done",
            ),
            (
                "sums = sum_of(drawn)",
                "now = [p.detach().clone() for p in model.parameters()]; "
                "[p.data.copy_(o) for p, o in zip(model.parameters(), old)]; "
                "sums = sum_of(drawn); "
                "[p.data.copy_(o) for p, o in zip(model.parameters(), now)]",
            ),
        ),
        {"noise_of_run.along_sum"},
    ),
    "the mean over the real batch": (
        _in_train(("g / plan.expected_batch_size", "g / max(1, len(drawn))")),
        {"run.weights"},
    ),
    "a learning rate of the data": (
        _in_train(("g / plan.expected_batch_size", "g * (1 + data.labels.mean()) / 135")),
        {"run.weights"},
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


DROPOUT = """
import torch

def build(features, outputs):
    first, last = torch.nn.Linear(features, 8), torch.nn.Linear(8, outputs)
    return torch.nn.Sequential(first, torch.nn.Tanh(), torch.nn.Dropout(0.4), last)
"""


def _with_dropout() -> Params:
    Path("own_dropout.py").write_text(DROPOUT)
    raw = trained_run.raw()
    raw["training"] |= {"model": "own_dropout:build"}
    return parse_params(raw)


def test_a_sound_run_of_a_network_with_dropout_is_not(here: None) -> None:
    declared = _with_dropout()
    workspace.PLAN.write_text(json.dumps(trained_run.plan_of(declared).to_data()))
    train_stage.run(declared, now=trained_run.NOW)
    assert audit.run(declared, now=trained_run.NOW)["failed"] == []


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["none", "half"])
def test_missing_noise_of_a_network_with_dropout_is(
    share: float, here: None, monkeypatch: Patch
) -> None:
    declared = _with_dropout()
    workspace.PLAN.write_text(json.dumps(trained_run.plan_of(declared).to_data()))
    less = f"{_NOISY}; noisy = [s + {share} * (n - s) for n, s in zip(noisy, sums)]"
    with monkeypatch.context() as patch:
        _in_train((_NOISY, less))(patch)
        train_stage.run(declared, now=trained_run.NOW)
    with pytest.raises(AuditContradiction, match=r"noise_of_run\.scale"):
        audit.run(declared, now=trained_run.NOW)


def test_the_second_run_of_a_key_that_is_written_in_code_is(here: None, monkeypatch: Patch) -> None:
    monkeypatch.setattr(sampling.os, "urandom", lambda size: bytes(range(size)))
    train_stage.run(PARAMS, now=trained_run.NOW)
    assert audit.run(PARAMS, now=trained_run.NOW)["failed"] == []
    train_stage.run(PARAMS, now=trained_run.NOW)
    with pytest.raises(AuditContradiction, match=r"draws_of_run\.fresh"):
        audit.run(PARAMS, now=trained_run.NOW)
