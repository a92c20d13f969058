"""One claim, whatever carries it: it comes back the same, and nothing of it is guessed."""

import json
from dataclasses import replace
from typing import Any

import pytest
from pyroaring import BitMap

from lethe.core.errors import FileDamaged
from lethe.privacy.claim import Claim
from tests.plans import SMALL

PLAN = replace(SMALL, noise="discrete")


def claimed() -> Claim:
    return Claim.of(PLAN.release(BitMap([1, 2])), noise=PLAN.noise)


def test_a_claim_comes_back_from_a_report_and_from_tags() -> None:
    claim = claimed()
    report = json.loads(json.dumps({**claim.to_data(), "subjects": 3}))
    tags = {name: str(value) for name, value in report.items()}
    assert Claim.from_data(report) == Claim.from_data(tags) == claim
    assert (claim.delta, claim.unit, claim.noise) == (1e-5, "person", "discrete")
    assert 0 < claim.epsilon_pld <= claim.epsilon_rdp


def test_a_report_of_the_version_before_calls_the_pld_epsilon_by_its_older_name() -> None:
    data = claimed().to_data()
    data["epsilon"] = data.pop("epsilon_pld")
    assert Claim.from_data(data) == claimed()


def test_a_version_from_before_discrete_noise_had_gaussian_noise() -> None:
    data = claimed().to_data()
    del data["noise"]
    assert Claim.from_data(data).noise == "gaussian"


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"epsilon_pld": None},
            {"epsilon_pld": True},
            {"delta": "small"},
            {"unit": 1},
            {"unit": ""},
        ),
        *({"sampling": ["Poisson"]}, {"noise": None}),
    ],
)
def test_a_garbled_claim_is_no_claim(change: dict[str, Any]) -> None:
    with pytest.raises(FileDamaged, match="claim"):
        Claim.from_data(claimed().to_data() | change)


@pytest.mark.parametrize("name", sorted(set(claimed().to_data()) - {"noise"}))
def test_a_claim_that_lacks_a_fact_is_no_claim(name: str) -> None:
    data = claimed().to_data()
    del data[name]
    with pytest.raises(FileDamaged, match=name):
        Claim.from_data(data)


def test_a_price_that_is_shown_is_never_below_the_price_that_was_paid() -> None:
    claim = replace(claimed(), epsilon_pld=0.90001, epsilon_rdp=float("inf"))
    assert str(claim) == ("epsilon 0.9001 (PLD), without bound (RDP) at delta 1e-05 per person")
