"""Sums computed anew from a run's own steps, and what is left of its releases without them."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lethe.attacks.run.residuals import affordable_steps, check_residuals, steps_to_look_at
from lethe.attacks.run.steps import RunStep
from lethe.attacks.run.sums import PersonSums
from lethe.attacks.statistics import Check
from lethe.config.params import load_params
from lethe.config.sections import Audit
from lethe.data.batches import PersonData
from lethe.data.encoding import Encoder
from lethe.privacy.plan import AdaptiveClip
from lethe.training.description import Architecture
from lethe.training.engines.reference import PlainEngine
from lethe.training.models import binary_loss, build_model, loss_for
from tests.attacks.run import honest
from tests.attacks.run.honest import Hooks, Recorded
from tests.conftest import PROJECT

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
    sums = PersonSums(model or run.model, run.loss_fn, run.data, seed=run.plan.initial_seed)
    return check_residuals(run.plan, sums, iter(run.steps), random=np.random.default_rng(3))


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


def _dropout() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))


class Loud(nn.Module):
    """Draws in every way that can be drawn again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + 0.1 * torch.randn_like(x) + 0.1 * torch.rand(x.shape)
        hidden = nn.functional.alpha_dropout(self.first(x), 0.2, self.training)
        kept = torch.bernoulli(torch.full_like(hidden, 0.7))
        noise = torch.empty_like(hidden).exponential_().clamp_max(3.0)
        out: Tensor = self.last(hidden.tanh() * kept + 0.1 * noise)
        return out


class OneByOne(nn.Module):
    """Cannot be vectorized, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.hidden = nn.Linear(FEATURES, 1), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        sign = 1.0 if float(x.sum()) > -1e9 else -1.0
        out: Tensor = self.last(self.hidden(x) * sign)
        return out


def _at_random(model: nn.Module, hooks: Hooks | None = None, *, engine: str = "auto") -> Recorded:
    plan = honest.plan_of(steps=14, noise_multiplier=1.5, sample_rate=0.1, initial_seed=9)
    return honest.record(plan, PEOPLE, model, hooks=hooks, engine=engine)


@pytest.mark.parametrize("engine", ["bookkeeping", "functional", "opacus", "plain"])
def test_what_dropout_drew_is_drawn_again(engine: str) -> None:
    assert _failed(_at_random(_dropout(), engine=engine)) == set()


@pytest.mark.parametrize("make", [Loud, OneByOne])
def test_so_is_what_else_a_network_draws(make: Callable[[], nn.Module]) -> None:
    exact = honest.plan_of(steps=3, noise_multiplier=0.01, sample_rate=0.1, initial_seed=9)
    assert _failed(honest.record(exact, PEOPLE, make())) == set()


def test_somebody_without_records_adds_nothing_where_people_come_one_by_one() -> None:
    model = OneByOne()
    drawn = np.array([0, 5, 100, 7])  # 0 and 100 have none
    run = honest.record(honest.plan_of(steps=1), PEOPLE, nn.Linear(FEATURES, 1))
    step = replace(run.steps[0], weights=model.state_dict(), drawn=drawn)
    sums, random = PersonSums(model, binary_loss, PEOPLE), np.random.default_rng()
    assert sums.known(step)
    some = sums.of(replace(step, drawn=drawn[[1, 3]]), noise=0.01, random=random)
    assert np.array_equal(sums.of(step, noise=0.01, random=random).total, some.total)
    nobody = sums.of(replace(step, drawn=drawn[[0, 2]]), noise=0.01, random=random)
    assert not nobody.total.any()


AT_RANDOM: dict[str, tuple[Hooks, str]] = {
    "no noise": (Hooks(released=lambda number, sums, noisy: sums), "every_step"),
    "half of it": (
        Hooks(
            released=lambda n, sums, noisy: [(a + b) / 2 for a, b in zip(sums, noisy, strict=True)]
        ),
        "scale",
    ),
    "one layer without": (
        Hooks(released=lambda number, sums, noisy: [*noisy[:-1], sums[-1]]),
        "every_tensor",
    ),
}


@pytest.mark.parametrize("name", AT_RANDOM)
def test_a_fault_of_a_network_with_dropout_is_named(name: str) -> None:
    hooks, check = AT_RANDOM[name]
    assert check in _failed(_at_random(_dropout(), hooks))


class Unknown(nn.Module):
    """Draws what nobody can draw again."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(FEATURES, 1)
        self.random = np.random.default_rng()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x * (0.5 + self.random.random()))
        return out


def test_a_network_whose_sums_nobody_knows_is_contradicted() -> None:
    run = honest.record(honest.plan_of(steps=4), PEOPLE, nn.Linear(FEATURES, 1))
    steps = [replace(s, weights={f"last.{n}": t for n, t in s.weights.items()}) for s in run.steps]
    assert _failed(replace(run, steps=steps), model=Unknown()) == {"known_sums", "looked_at"}


def test_the_model_is_left_as_it_was(sound: Recorded) -> None:
    model = _network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert _failed(sound, model=model) == set()
    assert not model.training
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())


@pytest.mark.parametrize(("coordinates", "least"), [(70, 300), (50_000, 30), (5_000_000, 9)])
def test_steps_are_of_every_phase_and_the_last_one(coordinates: int, least: int) -> None:
    plan = honest.plan_of(steps=300)
    seen: set[int] = set()
    for seed in range(20):
        random = np.random.default_rng(seed)
        chosen = steps_to_look_at(plan, coordinates, 300, range(300), random)
        assert chosen == sorted(set(chosen))
        assert chosen[-1] == 299
        assert least <= len(chosen) <= 300
        assert all(any(n // 75 == phase for n in chosen) for phase in range(4))
        assert any(b - a == 1 for a, b in pairwise(chosen))
        seen |= set(chosen)
    assert len(seen) > 60 if coordinates > 50_000 else len(seen) > 250


@pytest.mark.parametrize("affordable", [0, 1, 4, 5, 8, 9, 12])
def test_no_more_steps_than_the_work_allows_but_always_the_last_and_one_of_each_third(
    affordable: int,
) -> None:
    plan = honest.plan_of(steps=300)
    seen: set[int] = set()
    for seed in range(200):
        chosen = steps_to_look_at(plan, 70, affordable, range(300), np.random.default_rng(seed))
        assert max(4, affordable - 8) <= len(chosen) <= max(4, affordable)
        assert chosen == sorted(set(chosen)) and chosen[-1] == 299
        parts = 3 if affordable < 9 else 4
        assert all(any(n * parts // 300 == part for n in chosen[:-1]) for part in range(parts))
        seen |= set(chosen)
    assert len(seen) > 200  # any step may be one of them


@pytest.mark.parametrize("steps", range(1, 7))
def test_a_short_run_is_looked_at_whole_or_in_four_steps(steps: int) -> None:
    plan = honest.plan_of(steps=steps)
    chosen = steps_to_look_at(plan, 70, 0, range(steps), np.random.default_rng(steps))
    assert len(chosen) == len(set(chosen)) == min(steps, 4)


def test_however_little_may_be_done_noise_in_the_last_step_alone_is_seen() -> None:
    """Whoever knows which step is looked at adds noise to that one."""
    only_last = Hooks(released=lambda number, sums, noisy: noisy if number == STEPS - 1 else sums)
    run = _record(only_last)
    chosen = steps_to_look_at(run.plan, 45, 1, range(STEPS), np.random.default_rng(8))
    assert "every_step" in _failed(replace(run, steps=[run.steps[n] for n in chosen]))


def test_fewer_than_four_steps_are_no_look(sound: Recorded) -> None:
    assert "looked_at" in _failed(replace(sound, steps=sound.steps[-3:]))
    assert "looked_at" not in _failed(replace(sound, steps=sound.steps[-4:]))


def test_of_the_demonstration_every_step_is_looked_at() -> None:
    """By counting, under the default of `look_operations`, with twice the people of a draw."""
    declared = load_params(PROJECT / "params.yaml")
    encoder = Encoder.from_params(declared)
    features, mechanism = len(encoder.names), declared.training.mechanism
    shape = Architecture.of(declared.training, features=features, outputs=encoder.outputs)
    model = build_model(shape)
    drawn = np.arange(2 * int(mechanism.expected_batch_size))
    kept = mechanism.records_per_person
    data = PersonData(
        torch.zeros(len(drawn), kept, features),
        torch.ones(len(drawn), kept, dtype=torch.bool),
        torch.zeros(len(drawn), kept),
        drawn.astype(np.uint32),
    )
    sums = PersonSums(model, loss_for(encoder.outputs), data)
    first = RunStep(0, 1.0, drawn, model.state_dict(), ())
    assert declared.audit.look_operations == Audit().look_operations
    affordable = affordable_steps(sums, first, [drawn], declared.audit.look_operations)
    plan = honest.plan_of(steps=mechanism.steps)
    numbers = range(mechanism.steps)
    chosen = steps_to_look_at(plan, sums.coordinates, affordable, numbers, np.random.default_rng(1))
    assert chosen == [*numbers]


def test_work_is_counted_and_not_timed() -> None:
    run = _at_random(_dropout())
    small, large = (
        nn.Linear(FEATURES, 1),
        nn.Sequential(nn.Linear(FEATURES, 512), nn.Linear(512, 1)),
    )
    found = []
    for model in (small, large):
        first = replace(run.steps[0], weights=model.state_dict())
        sums = PersonSums(model, binary_loss, PEOPLE)
        assert sums.known(first)
        found.append(sums.operations(first))
        assert sums.operations(first) == found[-1]
    assert found[1] > 512 * 9 * 4 + found[0]
