"""The mechanism's checks pass what is sound, for every kind of plan, model and person."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lethe.attacks import replay
from lethe.attacks.claims import event_of
from lethe.attacks.mechanism import check_mechanism, check_noise
from lethe.attacks.statistics import ALPHA, FALSE_ALARMS, Check
from lethe.attacks.whole_training import check_refusals
from lethe.data.batches import PersonData
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import Plan
from lethe.training.description import Architecture
from lethe.training.engines.choose import make_engine
from lethe.training.loop import DpStep
from lethe.training.models import binary_loss, build_model, class_loss

PLAN = Plan(
    sample_rate=0.1,
    steps=20,
    records_per_person=3,
    clip_norm=0.7,
    noise_multiplier=1.3,
    expected_batch_size=33.0,
    delta=1e-5,
)


def _people(count: int, *, records: int = 3, classes: int = 1, width: int = 6) -> PersonData:
    """Invented people; the third of them has no record, the others one or more."""
    numbers = torch.Generator().manual_seed(count)
    mask = torch.rand(count, records, generator=numbers) < 0.5
    mask[:, 0] = True
    mask[2:3] = False
    labels = torch.randint(0, max(2, classes), (count, records), generator=numbers)
    return PersonData(
        torch.randn(count, records, width, generator=numbers),
        mask,
        labels.float() if classes == 1 else labels,
        np.arange(count, dtype=np.uint32),
    )


def _checks(
    plan: Plan, data: PersonData, model: nn.Module, *, classes: int = 1, engine: str = "auto"
) -> dict[str, Check]:
    found = check_mechanism(
        plan,
        data,
        model,
        binary_loss if classes == 1 else class_loss,
        engine=engine,
        classes=classes,
        replays=2,
        random=np.random.default_rng(),
    )
    assert len({check.name for check in found}) == len(found)
    return {check.name: check for check in found}


def _failed(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if not check.passed]


def test_a_sound_mechanism_passes_and_says_how_often_it_would_not() -> None:
    checks = _checks(PLAN, _people(300), build_model(Architecture("mlp", (8,), 6, 1)))
    assert _failed(checks) == []
    assert sum(check.false_alarm_rate for check in checks.values()) < FALSE_ALARMS / 2
    assert {check.false_alarm_rate for check in checks.values()} == {0.0, ALPHA}


@pytest.mark.parametrize(
    ("changes", "people"),
    [
        ({"sample_rate": 1.0, "expected_batch_size": 5.0}, 5),
        ({"sample_rate": 1e-4, "records_per_person": 1, "clip_norm": 30.0}, 300),
        ({"noise_multiplier": 25.0, "clip_norm": 1e-3, "expected_batch_size": 4e5}, 200),
    ],
    ids=["everybody in each step", "hardly anybody", "far from one"],
)
def test_plans_at_the_ends_pass(changes: dict[str, float], people: int) -> None:
    plan = replace(PLAN, **changes)
    data = _people(people, records=plan.records_per_person)
    assert _failed(_checks(plan, data, build_model(Architecture("logistic", (), 6, 1)))) == []


def test_classes_and_layers_of_other_kinds_pass() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Dropout(0.5), nn.Linear(8, 4))
    checks = _checks(PLAN, _people(200, classes=4), model, classes=4)
    assert _failed(checks) == []


def test_the_model_is_left_as_it_was() -> None:
    model = build_model(Architecture("mlp", (8,), 6, 1)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _checks(PLAN, _people(50), model)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_replayed_is_a_contradiction() -> None:
    checks = _checks(PLAN, _people(50), nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)))
    assert {"sampling.replay", "clipping.replay", "noise.replay"} <= set(_failed(checks))


def test_a_replay_reads_off_each_persons_share() -> None:
    quiet = replace(PLAN, sample_rate=1.0, noise_multiplier=replay.QUIET)
    made, lengths = replay.made_up_people(4, records=2, clip_norm=0.7, spare=3)
    found = replay.released_sums(
        quiet, made, replay.TwoHeads(7), replay.output_as_loss, steps=2, physical_batch=3
    )
    # all drawn: even people are cut to the clip, odd ones stay at half of it; two equal heads
    assert lengths.tolist() == pytest.approx([0.7, 0.35, 0.7, 0.35])
    row = [length / 2**0.5 for length in lengths] + [0.0] * 3
    expected = np.array([row * 2] * 2)
    assert found.sums == pytest.approx(expected, abs=0.01)


def test_a_replay_divides_by_nothing_but_the_expected_batch() -> None:
    for expected in (1.0, 1e4):
        quiet = replace(
            PLAN, sample_rate=1.0, noise_multiplier=replay.QUIET, expected_batch_size=expected
        )
        made, _ = replay.made_up_people(2, records=1, clip_norm=0.7, spare=1)
        found = replay.released_sums(
            quiet, made, replay.TwoHeads(3), replay.output_as_loss, steps=1
        )
        assert found.sums[0, 0] == pytest.approx(0.7 / 2**0.5, abs=0.01)


def test_half_the_noise_is_caught_with_near_certainty() -> None:
    """Once is enough: a check of these misses half the noise with probability below 1e-99.

    The 4,000 draws have 28,000 values, those of `any_batch` 7,000 for each size. Of half the
    deviation, the squares of 7,000 values sum to 1,750 on average; the check alarms below about
    6,360 (the 0.5e-8 quantile of chi-squared), which a Chernoff bound puts at below 1e-1000. The
    distance of N(0, 1/4) to N(0, 1) is 0.16; Kolmogorov-Smirnov alarms from 0.019 on, and by
    Massart 28,000 values stay under that with probability 2 exp(-2 * 28,000 * 0.14^2) < 1e-470.
    """
    model = build_model(Architecture("logistic", (), 6, 1))
    data = _people(60)

    def weak(plan: Plan) -> DpStep:
        engine = make_engine("auto", model, binary_loss, record_shape=(6,), classes=1)
        half = replace(plan, noise_multiplier=plan.noise_multiplier / 2)
        return DpStep(half, model, engine, Keystream.from_system())

    failed = {check.name for check in check_noise(weak, PLAN, data) if not check.passed}
    assert {"noise.scale", "noise.shape", "noise.any_batch"} <= failed


def test_trainings_without_cover_are_refused() -> None:
    assert [check.passed for check in check_refusals(PLAN)] == [True] * 3


def test_the_event_of_the_fields_is_the_plans() -> None:
    assert event_of(PLAN) == PLAN.event
    assert event_of(replace(PLAN, steps=21)) != PLAN.event
    assert event_of(replace(PLAN, sample_rate=0.05)) != PLAN.event
