"""A release: all its facts are there, and what cannot be added to people's spend is refused."""

from dataclasses import FrozenInstanceError
from typing import Any

import dp_accounting as dp
import pytest
from pyroaring import BitMap

from lethe.core.errors import LetheError, ParamsInvalid
from lethe.privacy.release import Release
from tests.plans import CHARGED

FACTS: dict[str, Any] = {
    "event": dp.LaplaceDpEvent(2.0),
    "unit": "person",
    "adjacency": "add or remove one person",
    "sampling": "everybody, without sampling",
    "mechanism": "laplace-count",
    "digest": "a" * 64,
    "delta": 1e-6,
    "records_per_person": 1,
    "subjects": BitMap([1, 2]),
}


def test_a_plan_of_dp_sgd_says_what_it_releases_and_for_whom() -> None:
    plan = CHARGED
    found = plan.release(BitMap([3, 4]))
    assert (found.event, found.subjects) == (plan.event, BitMap([3, 4]))
    assert (found.unit, found.adjacency) == ("person", "add or remove one person")
    assert (found.sampling, found.mechanism) == ("Poisson over persons", "dp-sgd")
    assert (found.digest, found.delta, found.records_per_person) == (plan.digest, 1e-5, 4)


def test_a_release_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Release(**FACTS).delta = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unit": "record"}, "the ledger adds up person alone"),
        ({"adjacency": "replace one person"}, "add or remove one person alone"),
        ({"sampling": " "}, "must say its sampling"),
        ({"mechanism": ""}, "must say its mechanism"),
        ({"digest": ""}, "must say its digest"),
        ({"digest": "a" * 65}, "at most 64"),
        ({"mechanism": "m" * 65}, "at most 64"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": float("nan")}, "delta"),
        ({"records_per_person": 0}, "at least one record"),
    ],
)
def test_what_does_not_add_up_to_what_people_spent_is_refused(
    change: dict[str, Any], words: str
) -> None:
    Release(**FACTS)
    with pytest.raises(ParamsInvalid, match=words):
        Release(**FACTS | change)


@pytest.mark.parametrize(
    "event", [dp.NonPrivateDpEvent(), dp.GaussianDpEvent(0.0), dp.LaplaceDpEvent(-1.0)]
)
def test_an_event_that_cannot_be_priced_is_refused(event: dp.DpEvent) -> None:
    with pytest.raises(LetheError):
        Release(**FACTS | {"event": event})
