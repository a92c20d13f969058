"""Sums computed anew from a run's own steps, and what is left of its releases without them."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lethe.attacks.run.residuals import check_residuals, steps_to_look_at
from lethe.attacks.run.sums import PersonSums
from lethe.attacks.statistics import Check
from lethe.privacy.plan import AdaptiveClip
from lethe.training.engines.reference import PlainEngine
from lethe.training.models import binary_loss
from tests.attacks.run import honest
from tests.attacks.run.honest import Hooks, Recorded

FEATURES = 9
PEOPLE = honest.people(600, features=FEATURES)
STEPS = 120


def _network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU(), nn.Linear(4, 1))


def _record(hooks: Hooks | None = None, **changes: object) -> Recorded:
    given = {"steps": STEPS, "noise_multiplier": 1.5, "expected_batch_size": 60.0, **changes}
    return honest.record(honest.plan_of(**given), PEOPLE, _network(), hooks=hooks)


def _checks(run: Recorded, *, model: nn.Module | None = None) -> list[Check]:
    return check_residuals(
        run.plan,
        model or run.model,
        run.loss_fn,
        run.data,
        iter(run.steps),
        random=np.random.default_rng(3),
    )


def _failed(run: Recorded, **given: nn.Module) -> set[str]:
    return {c.name.partition(".")[2] for c in _checks(run, **given) if not c.passed}


@pytest.fixture(scope="module")
def sound() -> Recorded:
    return _record()


def test_sums_are_those_of_the_plain_engine() -> None:
    model, random = _network(), np.random.default_rng(0)
    for clip in (1e-3, 0.3, 50.0):
        run = honest.record(honest.plan_of(steps=1, clip_norm=clip), PEOPLE, model)
        step = run.steps[0]
        model.load_state_dict(step.weights)
        part = PEOPLE.batch(torch.from_numpy(step.drawn))
        expected, norms = PlainEngine(model, binary_loss)(*part, clip_norm=clip)
        found = PersonSums(model, binary_loss, PEOPLE)
        assert found.known(step)
        total = found.of(step, noise=0.01, random=random)
        exact = torch.cat([t.flatten() for t in expected]).double().numpy()
        assert np.linalg.norm(exact - total.total) <= total.doubt
        within = float((norms <= clip).sum()) - len(norms) / 2
        assert total.within[0] <= within <= total.within[1]


CHANGES: dict[str, dict[str, object]] = {
    "plain": {},
    "discrete": {"noise": "discrete"},
    "adaptive": {"adaptive": AdaptiveClip(quantile=0.5, learning_rate=0.2, count_noise=6.0)},
    "hardly any noise": {"noise_multiplier": 0.01, "steps": 30},
    "much noise": {"noise_multiplier": 20.0, "steps": 30},
    "one step": {"steps": 1},
    "nobody drawn": {"sample_rate": 1e-4, "steps": 20},
    "everybody drawn": {"sample_rate": 1.0, "steps": 20},
    "everybody at the clip": {"clip_norm": 1e-3, "steps": 30},
    "nobody at the clip": {"clip_norm": 1e3, "steps": 30},
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_honest_run_passes(name: str) -> None:
    run = _record(**CHANGES[name])
    checks = _checks(run)
    assert [c.name for c in checks if not c.passed] == []
    assert sum(c.false_alarm_rate for c in checks) <= 2e-7
    assert {c.name.partition(".")[0] for c in checks} == {"noise_of_run"}


@pytest.mark.parametrize("engine", ["plain", "functional", "opacus"])
def test_every_engines_sums_are_known(engine: str) -> None:
    plan = honest.plan_of(steps=6, noise_multiplier=0.01)
    assert _failed(honest.record(plan, PEOPLE, _network(), engine=engine)) == set()


def test_random_honest_plans_pass() -> None:
    random = np.random.default_rng(5)
    for _ in range(12):
        noise = float(np.exp(random.uniform(np.log(0.01), np.log(20))))
        law = str(random.choice(["gaussian", "discrete"]))
        run = _record(
            noise_multiplier=noise,
            sample_rate=float(np.exp(random.uniform(np.log(1e-3), 0))),
            steps=int(random.integers(1, 12)),
            clip_norm=float(np.exp(random.uniform(-4, 3))),
            noise=law,
        )
        assert _failed(run) == set(), run.plan


def _one_less(number: int, sums: list[Tensor], noisy: list[Tensor]) -> list[Tensor]:
    return [noisy[0], noisy[1], noisy[2], sums[3]]


def _stops(number: int, sums: list[Tensor], noisy: list[Tensor]) -> list[Tensor]:
    return noisy if number < 80 else sums


def _twice_the_sum(number: int, sums: list[Tensor]) -> list[Tensor]:
    return [2 * t for t in sums]


def _a_step_is_left_out(number: int, sums: list[Tensor]) -> list[Tensor]:
    return [t * 0 for t in sums] if number % 3 == 1 else sums


HOOKS: dict[str, tuple[Hooks, str]] = {
    "a layer without noise": (Hooks(released=_one_less), "every_tensor"),
    "noise that stops": (Hooks(released=_stops), "every_step"),
    "the sum of another clip": (Hooks(summed=_twice_the_sum), "along_sum"),
    "nobody where somebody was drawn": (Hooks(summed=_a_step_is_left_out), "along_sum"),
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_run_with_a_fault_is_named(name: str) -> None:
    hooks, check = HOOKS[name]
    assert check in _failed(_record(hooks))


def _changed(run: Recorded, change: Callable[[int], dict[str, object]]) -> Recorded:
    steps = [replace(step, **change(step.number)) for step in run.steps]  # type: ignore[arg-type]
    return replace(run, steps=steps)


def test_other_people_than_were_drawn_are_seen(sound: Recorded) -> None:
    other = [np.flatnonzero(np.random.default_rng(n).random(600) < 0.1) for n in range(STEPS)]
    assert "along_sum" in _failed(_changed(sound, lambda n: {"drawn": other[n]}))


def test_another_clip_than_the_plans_is_seen(sound: Recorded) -> None:
    assert "clip" in _failed(_changed(sound, lambda n: {"clip_norm": 1.0 if n else 0.9}))


def test_the_last_step_must_be_among_them(sound: Recorded) -> None:
    assert _failed(replace(sound, steps=sound.steps[:-1])) == {"looked_at"}


def test_a_step_must_release_every_parameter(sound: Recorded) -> None:
    short = _changed(sound, lambda n: {"release": sound.steps[n].release[:3]})
    assert "looked_at" in _failed(short)


def test_what_is_not_on_the_grid_is_seen() -> None:
    run = _record(noise="discrete", steps=20)
    moved = _changed(run, lambda n: {"release": tuple(t * 1.00001 for t in run.steps[n].release)})
    assert "grid" in _failed(moved)


def test_a_count_without_its_noise_is_seen() -> None:
    adaptive = AdaptiveClip(quantile=0.5, learning_rate=0.2, count_noise=6.0)
    exact = Hooks(released=lambda number, sums, noisy: [*noisy[:-1], sums[-1]])
    assert "count" in _failed(_record(exact, adaptive=adaptive))


class Mixing(nn.Module):
    """Standardizes over the batch, as long as it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] > 8:
            x = (x - x.mean(0)) / (x.std(0) + 1e-3)
        out: Tensor = self.last(x)
        return out


def test_a_network_that_mixes_people_in_training_is_seen() -> None:
    plan = honest.plan_of(steps=STEPS, noise_multiplier=1.5)
    assert "along_sum" in _failed(honest.record(plan, PEOPLE, Mixing()))


def test_of_a_network_that_draws_at_random_is_said_what_was_not_looked_at() -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    plan = honest.plan_of(steps=20, noise_multiplier=1.5)
    run = honest.record(plan, PEOPLE, model, engine="functional")
    checks = {c.name.partition(".")[2]: c for c in _checks(run)}
    assert all(c.passed for c in checks.values())
    assert "NOT looked at" in checks["unknown_sums"].meaning
    assert not {"law", "tails", "mean", "steps_independent"} & set(checks)
    loud = _changed(run, lambda n: {"release": tuple(t * 0 + 1e4 for t in run.steps[n].release)})
    assert "every_step" in _failed(loud)


def test_the_model_is_left_as_it_was(sound: Recorded) -> None:
    model = _network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert _failed(sound, model=model) == set()
    assert not model.training
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())


@pytest.mark.parametrize(("coordinates", "least"), [(70, 300), (50_000, 30), (5_000_000, 5)])
def test_steps_are_of_every_phase_and_the_last_one(coordinates: int, least: int) -> None:
    plan = honest.plan_of(steps=300)
    seen: set[int] = set()
    for seed in range(20):
        random = np.random.default_rng(seed)
        chosen = steps_to_look_at(plan, coordinates, 500, range(300), random)
        assert chosen == sorted(set(chosen))
        assert chosen[-1] == 299
        assert least <= len(chosen) <= 300
        assert all(any(n // 75 == phase for n in chosen) for phase in range(4))
        assert any(b - a == 1 for a, b in pairwise(chosen))
        seen |= set(chosen)
    assert len(seen) > 60 if coordinates > 50_000 else len(seen) > 250
