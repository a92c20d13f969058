"""`lethe epsilon`: the price, what it rests on, and what it would be for records."""

import json
import math
from typing import Any

import pytest

from lethe.core.errors import ParamsInvalid
from lethe.privacy.accounting import dp_sgd_event, epsilon_pld, epsilon_rdp
from lethe.privacy.statement import from_options, privacy_statement


def test_epochs_become_steps_rounded_up() -> None:
    # 60 * 60000 / 256 = 14062.5; published 2.597 and 2.382 (see test_accounting.py).
    found = from_options(
        subjects=60_000, batch_size=256, noise_multiplier=1.1, epochs=60, delta=1e-5
    )
    assert found.steps == 14_063
    assert found.claim.epsilon_rdp == pytest.approx(2.597, abs=1e-3)
    assert found.claim.epsilon_pld == pytest.approx(2.382, abs=1e-3)


def test_a_stray_bit_adds_no_step() -> None:
    assert from_options(sample_rate=0.1, epochs=30, noise_multiplier=5.0).steps == 300
    assert from_options(sample_rate=0.07, epochs=7, noise_multiplier=5.0).steps == 100


def test_sizes_and_rate_say_the_same() -> None:
    by_sizes = from_options(subjects=1000, batch_size=100, noise_multiplier=4.0, epochs=10)
    by_rate = from_options(sample_rate=0.1, noise_multiplier=4.0, steps=100)
    assert by_sizes == by_rate


def test_records_instead_of_persons_cost_more_with_every_record() -> None:
    # By dp_accounting's mixture-of-Gaussians PLD; one record a person is 1.83.
    found = privacy_statement(sample_rate=0.01, steps=1000, noise_multiplier=1.0, delta=1e-5)
    assert found.claim.epsilon_pld == pytest.approx(1.83, abs=0.005)
    expected = ((2, 3.98), (3, 6.34), (5, 11.64), (10, 27.9))
    assert found.records == tuple((k, pytest.approx(e, abs=0.005)) for k, e in expected)


def test_statement_names_every_assumption() -> None:
    text = str(from_options(sample_rate=0.01, noise_multiplier=1.0, steps=1000))
    for word in (
        *("1.828 (PLD)", "2.101 (RDP)", "delta = 1e-05", "person", "add or remove one person"),
        *("Poisson", "Shuffled", "at most K records", "clipped", "public constant", "secret"),
        *("tuning", "metrics", "PLD is tighter", "10 records: epsilon = 27.900"),
    ):
        assert word in text


def test_json_is_plain_and_has_both_accountants() -> None:
    data = from_options(sample_rate=0.01, noise_multiplier=1.0, steps=1000).to_data()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["epsilon_rdp"] == pytest.approx(2.1014, abs=1e-3)
    assert data["epsilon_pld"] == pytest.approx(1.8283, abs=1e-3)
    assert data["unit"] == "person"
    assert data["delta"] == 1e-5


def test_what_has_no_bound_is_null_in_json() -> None:
    data = from_options(sample_rate=0.1, noise_multiplier=0.001, steps=300).to_data()
    assert json.dumps(data, allow_nan=False)
    assert data["if_records_were_protected"]["10"] is None
    assert "without bound" in str(from_options(sample_rate=0.1, noise_multiplier=0.001, steps=300))


def test_target_is_kept_by_both_accountants() -> None:
    found = from_options(sample_rate=0.1, steps=300, target_epsilon=1.0, delta=1e-5)
    event = dp_sgd_event(0.1, 300, found.noise_multiplier)
    assert epsilon_rdp([event], 1e-5) == found.claim.epsilon_rdp <= 1.0
    assert epsilon_pld([event], 1e-5) == found.claim.epsilon_pld <= 1.0
    assert found.noise_multiplier_pld is not None
    assert found.noise_multiplier_pld < found.noise_multiplier
    assert epsilon_pld([dp_sgd_event(0.1, 300, found.noise_multiplier_pld)], 1e-5) <= 1.0
    assert found.to_data()["target_epsilon"] == 1.0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "--sample-rate"),
        ({"sample_rate": 0.1, "noise_multiplier": 1.0}, "--epochs or --steps"),
        ({"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 1, "epochs": 1}, "--epochs or"),
        ({"sample_rate": 0.1, "steps": 10}, "--noise-multiplier or --target-epsilon"),
        (
            {"sample_rate": 0.1, "steps": 10, "noise_multiplier": 1.0, "target_epsilon": 1.0},
            "--noise-multiplier or --target-epsilon",
        ),
        ({"subjects": 100, "noise_multiplier": 1.0, "steps": 10}, "--batch-size"),
        ({"batch_size": 10, "noise_multiplier": 1.0, "steps": 10}, "--subjects"),
        ({"subjects": 0, "batch_size": 1, "noise_multiplier": 1.0, "steps": 10}, "--subjects 0"),
        (
            {"sample_rate": 0.1, "batch_size": 1, "noise_multiplier": 1.0, "steps": 10},
            "either --sample-rate",
        ),
        (
            {"subjects": 10, "batch_size": 20, "noise_multiplier": 1.0, "steps": 1},
            "more than everybody",
        ),
        ({"sample_rate": 1.1, "noise_multiplier": 1.0, "steps": 1}, "more than everybody"),
        ({"sample_rate": 0.0, "noise_multiplier": 1.0, "steps": 1}, "--sample-rate 0"),
        ({"sample_rate": math.nan, "noise_multiplier": 1.0, "steps": 1}, "--sample-rate nan"),
        ({"sample_rate": 0.1, "noise_multiplier": 0.0, "steps": 1}, "--noise-multiplier 0"),
        ({"sample_rate": 0.1, "noise_multiplier": -1.0, "steps": 1}, "--noise-multiplier -1"),
        ({"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 0}, "--steps 0"),
        ({"sample_rate": 0.1, "noise_multiplier": 1.0, "epochs": -1}, "--epochs -1"),
        ({"sample_rate": 0.1, "target_epsilon": 0.0, "steps": 1}, "--target-epsilon 0"),
        ({"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 1, "delta": 0.0}, "--delta 0"),
        ({"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 1, "delta": 1.0}, "--delta 1"),
        (
            {"subjects": 100_000, "batch_size": 1, "noise_multiplier": 1.0, "steps": 1},
            "below 1/subjects",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ParamsInvalid) as refused:
        from_options(**options)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)
