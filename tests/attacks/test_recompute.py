"""An honest run's weights are what its releases make; what else touched them is contradicted."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lethe.attacks.run.recorded import Recorded, Unrecorded
from lethe.config.training import Optimizer
from lethe.privacy.plan import AdaptiveClip
from lethe.training import loop, transcript
from lethe.training.optimizer import Updater
from tests.attacks.recorded_run import PLAN, SGD, Build, network, people, run

Patch = pytest.MonkeyPatch
ADAM = Optimizer(name="adam", learning_rate=0.02)


class Frozen(nn.Module):
    """A layer that does not train, a buffer, and a layer that records reach in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.first.bias.requires_grad_(False)
        self.last = nn.Linear(6, 1)
        self.register_buffer("scale", torch.full((6,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(x)) * self.scale)
        return out


def _frozen() -> nn.Module:
    torch.manual_seed(4)
    return Frozen()


class Tied(nn.Module):
    """One parameter by two names, and a mask of infinite numbers, as attention has one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(5, 5), nn.Linear(5, 5)
        self.again.weight = self.first.weight
        self.last = nn.Linear(5, 1)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, -torch.inf, 0.0, torch.inf]))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.again(torch.tanh(self.first(x)))
        out: Tensor = self.last(torch.where(self.mask.isfinite(), hidden, 0.0))
        return out


def _tied() -> nn.Module:
    torch.manual_seed(6)
    return Tied()


def _wide() -> nn.Module:
    """Larger than the part of a tensor that one thread takes at a time."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(5, 9001), nn.Tanh(), nn.Linear(9001, 1))


def _configuration(number: int) -> dict[str, Any]:
    chosen = random.Random(number)
    optimizer = Optimizer(
        name=chosen.choice(["sgd", "adam"]),
        learning_rate=chosen.choice([0.001, 0.3, 4.0]),
        momentum=chosen.choice([0.0, 0.5, 0.9]),
        averaging=chosen.choice([0.0, 0.9, 0.99]),
        schedule=chosen.choice(["constant", "cosine"]),
    )
    adaptive = AdaptiveClip(quantile=0.5, learning_rate=0.2, count_noise=2.0)
    steps = chosen.choice([1, 7, 20, 33])
    kind = chosen.choice(["gaussian", "discrete", "adaptive"])
    plan = replace(
        PLAN,
        steps=steps,
        noise="discrete" if kind == "discrete" else "gaussian",
        adaptive=adaptive if kind == "adaptive" else None,
    )
    killed = sorted(chosen.sample(range(1, steps), k=min(steps - 1, chosen.choice([0, 0, 1, 2]))))
    return {
        "plan": plan,
        "optimizer": optimizer,
        "build": chosen.choice([network, network, _frozen]),
        "killed_at": tuple(killed),
        "every": chosen.choice([1, 5, 8]),
        "processes": chosen.choice([1, 1, 1, 3]),
        "limit": chosen.choice([2**30, 2**30, 1, 3_000, 6_000]),
    }


@pytest.mark.parametrize("number", range(80))
def test_an_honest_run_is_recomputed_to_the_last_bit(number: int, tmp_path: Path) -> None:
    made = run(tmp_path / "run", **_configuration(number))
    assert made.failed() == []
    assert made.recomputation().kept[-1] == made.plan.steps - 1


@pytest.mark.parametrize("number", range(0, 80, 8))
def test_so_is_one_that_another_kind_of_machine_trained(
    number: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Nothing is equal to the bit then; errors of another processor's rounding are tolerated."""
    made = run(tmp_path / "run", **_configuration(number))
    monkeypatch.setattr(Recorded, "same_build", False)
    monkeypatch.setattr(Recorded, "same_arithmetic", False)
    assert made.failed() == []
    spread = torch.Generator().manual_seed(number)
    rounded = {
        name: tensor * (1 + 2.0**-24 * torch.randn(tensor.shape, generator=spread).clamp(-1, 1))
        for name, tensor in made.released.items()
    }
    assert made.with_released(**rounded).failed() == []
    name = list(made.released)[-1]
    moved = made.released[name] + 0.01 * max(1e-2, float(made.released[name].abs().max()))
    if made.optimizer.name == "sgd":
        assert made.with_released(**{name: moved}).failed() == ["run.weights"]


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
def test_so_is_a_network_that_several_threads_compute(optimizer: Optimizer, tmp_path: Path) -> None:
    made = run(tmp_path / "run", optimizer=optimizer, build=_wide, plan=replace(PLAN, steps=4))
    assert made.failed() == []


# Mutations: each is an ordinary run in which the code that trains does something else besides.


def _every_step(patch: Patch, change: Callable[[Updater, list[Tensor]], list[Tensor]]) -> None:
    step = Updater.step
    patch.setattr(Updater, "step", lambda self, gradients: step(self, change(self, gradients)))


def _plain_gradient(model_parameters: list[nn.Parameter], model: nn.Module) -> list[Tensor]:
    data = people()
    outputs = model(data.features.flatten(0, 1))[..., 0]
    loss = nn.functional.binary_cross_entropy_with_logits(outputs, data.labels.flatten())
    return list(torch.autograd.grad(loss, model_parameters))


def fine_tuned(patch: Patch) -> None:
    """Thirty plain steps of SGD on the people after the training."""
    refuse = loop.refuse_not_finite

    def then_on(model: nn.Module) -> None:
        refuse(model)
        for _ in range(30):
            parameters = list(model.parameters())
            for p, g in zip(parameters, _plain_gradient(parameters, model), strict=True):
                p.data.add_(g, alpha=-0.1)

    patch.setattr(loop, "refuse_not_finite", then_on)


def _sums(patch: Patch) -> list[list[Tensor]]:
    """Every step's sum before noise, as it comes."""
    seen: list[list[Tensor]] = []
    noisy = loop.DpStep.noisy

    def look(self: loop.DpStep, sums: list[Tensor]) -> list[Tensor]:
        seen.append([each.clone() for each in sums])
        return noisy(self, sums)

    patch.setattr(loop.DpStep, "noisy", look)
    return seen


def averaged_without_noise(patch: Patch) -> None:
    """The model is the mean of the released weights and those of the sums alone."""
    seen, finish = _sums(patch), Updater.finish

    def finished(self: Updater) -> None:
        finish(self)
        for p, *sums in zip(self._parameters, *seen, strict=True):
            p.data.add_(sum(sums), alpha=-0.01)

    patch.setattr(Updater, "finish", finished)


def momentum_without_noise(patch: Patch) -> None:
    seen = _sums(patch)
    _every_step(
        patch,
        lambda self, gradients: [g + 0.1 * s for g, s in zip(gradients, seen[-1], strict=True)],
    )


def stopped_early(patch: Patch) -> None:
    """The weights of the step that had the smallest loss are kept."""
    finish, kept = Updater.finish, []
    step = Updater.step

    def stepped(self: Updater, gradients: list[Tensor]) -> None:
        step(self, gradients)
        if self._done == 13:
            kept[:] = [p.detach().clone() for p in self._parameters]

    def finished(self: Updater) -> None:
        finish(self)
        for p, old in zip(self._parameters, kept, strict=True):
            p.data.copy_(old)

    patch.setattr(Updater, "step", stepped)
    patch.setattr(Updater, "finish", finished)


def scaled(patch: Patch) -> None:
    finish = Updater.finish

    def finished(self: Updater) -> None:
        finish(self)
        self._parameters[0].data.mul_(1.0001)

    patch.setattr(Updater, "finish", finished)


def one_bit(patch: Patch) -> None:
    """A message in the last bit of one number."""
    finish = Updater.finish

    def finished(self: Updater) -> None:
        finish(self)
        first = self._parameters[0].data.view(-1)
        first[0] = torch.nextafter(first[0], torch.tensor(torch.inf))

    patch.setattr(Updater, "finish", finished)


def step_skipped(patch: Patch) -> None:
    step = Updater.step

    def stepped(self: Updater, gradients: list[Tensor]) -> None:
        if self._done != 6:
            step(self, gradients)
        else:
            self._done += 1

    patch.setattr(Updater, "step", stepped)


def step_repeated(patch: Patch) -> None:
    step = Updater.step

    def stepped(self: Updater, gradients: list[Tensor]) -> None:
        step(self, gradients)
        if self._done == 6:
            step(self, gradients)

    patch.setattr(Updater, "step", stepped)


def other_rate(patch: Patch) -> None:
    init = Updater.__init__

    def made(self: Updater, model: nn.Module, optimizer: Optimizer, steps: int) -> None:
        init(self, model, replace(optimizer, learning_rate=optimizer.learning_rate * 1.001), steps)

    patch.setattr(Updater, "__init__", made)


def no_noise_on_the_way(patch: Patch) -> None:
    """What is recorded has noise; what the optimizer gets has none."""
    seen = _sums(patch)
    _every_step(
        patch, lambda self, gradients: [each / PLAN.expected_batch_size for each in seen[-1]]
    )


def divided_by_the_drawn(patch: Patch) -> None:
    _every_step(patch, lambda self, gradients: [g * 12.0 / 11.0 for g in gradients])


def weight_decay_by_the_data(patch: Patch) -> None:
    shrink = 1 - 1e-4 * float(people().labels.mean())

    def changed(self: Updater, gradients: list[Tensor]) -> list[Tensor]:
        for p in self._parameters:
            p.data.mul_(shrink)
        return gradients

    _every_step(patch, changed)


def last_step_without_noise(patch: Patch) -> None:
    seen = _sums(patch)

    def changed(self: Updater, gradients: list[Tensor]) -> list[Tensor]:
        return gradients if self._done < 19 else [s / 12.0 for s in seen[-1]]

    _every_step(patch, changed)


MUTATIONS = (
    *(fine_tuned, averaged_without_noise, momentum_without_noise, stopped_early, scaled, one_bit),
    *(step_skipped, step_repeated, other_rate, no_noise_on_the_way, divided_by_the_drawn),
    *(weight_decay_by_the_data, last_step_without_noise),
)


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_what_else_touched_the_weights_is_contradicted(
    mutation: Callable[[Patch], None], optimizer: Optimizer, tmp_path: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        mutation(patch)
        made = run(tmp_path / "run", optimizer=optimizer)
    assert made.failed() == ["run.weights"]


@pytest.mark.parametrize("limit", [1, 3_000])
@pytest.mark.parametrize(
    "mutation", [fine_tuned, scaled, last_step_without_noise], ids=lambda m: m.__name__
)
def test_so_it_is_where_only_a_part_of_the_run_is_kept(
    mutation: Callable[[Patch], None], limit: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        mutation(patch)
        made = run(tmp_path / "run", limit=limit)
    assert made.failed() == ["run.weights"]


def touched_between_two_parts(patch: Patch) -> None:
    """After the second part of three steps is over and recorded, before the third begins."""
    draw = loop.DpStep.draw

    def drawn(self: loop.DpStep, subjects: int) -> Any:
        if self.number == 6:
            for p in self.model.parameters():
                p.data.mul_(1.001)
        return draw(self, subjects)

    patch.setattr(loop.DpStep, "draw", drawn)


@pytest.mark.parametrize("number", range(4))
def test_what_touches_weights_between_parts_is_seen_whether_they_are_kept_or_not(
    number: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        touched_between_two_parts(patch)
        made = run(tmp_path / "run", limit=3_000)
    assert "run.chained" in made.failed()
    with monkeypatch.context() as patch:
        touched_between_two_parts(patch)
        assert run(tmp_path / "whole").failed() == ["run.weights"]


def test_it_is_said_how_much_was_taken_again(tmp_path: Path) -> None:
    found = {}
    for limit in (2**30, 3_000):
        checks = run(tmp_path / f"{limit}", limit=limit).recomputation().checks()
        found[limit] = next(check for check in checks if check.name == "run.taken_again")
    assert found[2**30].statistic == 0
    assert "of 20 steps 20 were kept" in found[2**30].meaning
    assert found[3_000].statistic == pytest.approx(5 / 6)
    assert "of 20 steps 5 were kept" in found[3_000].meaning


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9, 10])
def test_however_little_may_be_kept_four_steps_are(steps: int, tmp_path: Path) -> None:
    """The look at the noise needs so many, and would contradict an honest run with fewer."""
    made = run(tmp_path / "run", plan=replace(PLAN, steps=steps), limit=1)
    assert made.failed() == []
    assert len(made.recomputation().kept) >= min(steps, 4)


def test_draws_are_kept_whole_and_small() -> None:
    random = np.random.default_rng(2)
    for count, rate in ((60_000, 1 / 15), (10**6, 0.5), (10**6, 1e-3), (500, 1.0), (9, 1e-9)):
        drawn = np.flatnonzero(random.random(count) < rate)
        packed = transcript.packed_draw(drawn)
        assert np.array_equal(transcript.unpacked_draw(packed), drawn)
        assert len(packed) <= transcript.draws_size(1, len(drawn))
    twice = np.array([3, 3, 9, 7, 2**32 - 1, 0])
    assert np.array_equal(transcript.unpacked_draw(transcript.packed_draw(twice)), twice)
    with pytest.raises(ValueError):
        transcript.unpacked_draw(b"none")


def _begun_otherwise(change: Callable[[nn.Module], None]) -> Build:
    def build() -> nn.Module:
        model = network()
        with torch.no_grad():
            change(model)
        return model

    return build


def _bias_of_the_labels(model: nn.Module) -> None:
    share = people().labels.mean()
    model[2].bias.fill_(torch.log(share / (1 - share)))  # type: ignore[index, union-attr]


def _another_seed(model: nn.Module) -> None:
    torch.manual_seed(1)
    model[0].reset_parameters()  # type: ignore[index, operator]


def _a_little(model: nn.Module) -> None:
    model[0].weight.mul_(1 + 1e-6)  # type: ignore[index, operator]


@pytest.mark.parametrize("change", [_bias_of_the_labels, _another_seed, _a_little])
def test_first_weights_that_know_somebody_are_contradicted(
    change: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    made = run(tmp_path / "run", begins=_begun_otherwise(change))
    assert made.failed() == ["run.start", "run.weights"]


@pytest.mark.parametrize("name", ["scale", "first.bias"])
def test_a_buffer_or_a_frozen_weight_that_moved_is_contradicted(name: str, tmp_path: Path) -> None:
    made = run(tmp_path / "run", build=_frozen)
    assert made.failed() == []
    moved = made.released[name] + 1e-3
    assert made.with_released(**{name: moved}).failed() == ["run.weights"]


@pytest.mark.parametrize("limit", [2**30, 2_000], ids=["whole", "in parts"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_tied_weights_and_infinite_buffers_are_recomputed(
    elsewhere: bool, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(tmp_path / "run", build=_tied, limit=limit)
    if elsewhere:
        for exact in ("same_build", "same_arithmetic"):
            monkeypatch.setattr(Recorded, exact, property(lambda _: False))
    assert made.failed() == []
    for step in made.recomputation().steps():
        assert torch.equal(step.weights["first.weight"], step.weights["again.weight"])
    for name in ("again.weight", "mask"):
        moved = made.released[name] + torch.full((5,), 1e-2)
        moved[0] = 7.0
        assert made.with_released(**{name: moved}).failed() == ["run.weights"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "infinite"])
def test_a_weight_that_is_no_number_passes_nothing(value: float, tmp_path: Path) -> None:
    made = run(tmp_path / "run")
    assert made.with_released(**{"0.bias": torch.full((4,), value)}).failed() == ["run.weights"]


def test_a_tensor_more_or_less_is_contradicted(tmp_path: Path) -> None:
    made = run(tmp_path / "run")
    assert made.with_released(more=torch.zeros(1)).failed() == ["run.weights"]
    fewer = {n: t for n, t in made.released.items() if n != "0.bias"}
    assert replace(made, released=fewer).failed() == ["run.weights"]


ADAPTIVE = replace(PLAN, adaptive=AdaptiveClip(quantile=0.5, learning_rate=0.2, count_noise=2.0))


def _clip_of_the_data(patch: Patch) -> None:
    follow = loop.DpStep.follow

    def followed(self: loop.DpStep, noisy: list[Tensor]) -> list[Tensor]:
        found = follow(self, noisy)
        self.clip_norm *= 1.001
        return found

    patch.setattr(loop.DpStep, "follow", followed)


@pytest.mark.parametrize("plan", [PLAN, ADAPTIVE], ids=["constant", "adaptive"])
def test_a_clip_that_moves_otherwise_is_contradicted(
    plan: Any, tmp_path: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        _clip_of_the_data(patch)
        made = run(tmp_path / "run", plan=plan)
    assert made.failed() == ["run.clip"]


def _a_byte(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["about.json", "drawn.zlib", "steps.jsonl", "releases/0.f32"])
def test_a_transcript_that_was_changed_or_cut_is_none(name: str, tmp_path: Path) -> None:
    made = run(tmp_path / "run")
    whole = (made.folder / name).read_bytes()
    if name != "about.json":  # of its words, each is held against what is asked
        _a_byte(made.folder, name)
        with pytest.raises(Unrecorded):
            made.failed()
    (made.folder / name).write_bytes(whole[:-9])
    with pytest.raises(Unrecorded):
        made.failed()
    (made.folder / name).unlink()
    with pytest.raises(Unrecorded):
        made.failed()


def test_steps_are_given_as_they_were_taken(tmp_path: Path) -> None:
    made = run(tmp_path / "run", build=_frozen, killed_at=(13,))
    steps = list(made.recomputation().steps([0, 7, 19]))
    assert [step.number for step in steps] == [0, 7, 19]
    first = _frozen().state_dict()
    assert all(torch.equal(steps[0].weights[name], first[name]) for name in first)
    assert not torch.equal(steps[1].weights["last.bias"], first["last.bias"])
    assert [tuple(t.shape) for t in steps[0].release] == [(6, 5), (1, 6), (1,)]
    assert all(np.diff(step.drawn).min() > 0 for step in steps)
    assert len(list(made.recomputation().steps())) == 20


def test_what_is_kept_of_a_long_run_is_bounded_and_drawn_anew_each_time(tmp_path: Path) -> None:
    plan, limit = replace(PLAN, steps=120), 6_000
    kept = set()
    for number in range(6):
        made = run(tmp_path / f"{number}", plan=plan, limit=limit)
        assert made.failed() == []
        files = [*(made.folder / "releases").iterdir(), *(made.folder / "states").iterdir()]
        row = 4 * 29
        assert sum(path.stat().st_size for path in (made.folder / "releases").iterdir()) <= limit
        assert len(files) * row <= limit * 2
        numbers = made.recomputation().kept
        assert 0 < len(numbers) < 120
        assert numbers[-1] == 119
        kept.add(tuple(numbers))
    assert len(kept) > 1
