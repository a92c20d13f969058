"""Nobody's size holds up others: who has little in a store leaves it first, and who has very much
leaves once the others are out of every store of people."""

import datetime as dt
from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from lethe.core.errors import ErasureRefused
from lethe.core.outcomes import Outcome, Result
from lethe.rights.case import Case
from lethe.rights.erasure import MANY
from tests.fake_stores import Killed
from tests.rights.desk import Desk, desk

__all__ = ["desk"]

SIZES = {"big": 100_000, "none": 0, "few": 3, "other": 20}


def request(name: str, count: int | None) -> Any:
    stores = [
        {"store": "source", "count": count},
        {"store": "vault", "count": 10**6 - (count or 0)},
    ]
    content = {"models": [], "stores": stores}
    found = SimpleNamespace(at=dt.datetime(2026, 6, 1, tzinfo=dt.UTC), content=content)
    return SimpleNamespace(request_id=name, marks={} if count is None else {"found": found})


class _Store:
    name = "source"

    def __init__(self, refused: str | None) -> None:
        self.asked: list[str] = []
        self.refused = refused

    def forget(self, people: Sequence[Any]) -> Iterator[list[Outcome]]:
        for person in people:
            self.asked.append(person.name)
            if person.name == self.refused:
                raise ErasureRefused("not as declared")
            yield [Outcome("source", Result.ERASED, 1)]


@pytest.mark.parametrize("refused", [None, "big", "none", "few"])
def test_who_has_little_leaves_first_whoever_is_refused(refused: str | None) -> None:
    store, done = _Store(refused), []
    case: Any = SimpleNamespace(
        person=lambda each: SimpleNamespace(name=each.request_id, keeps_records=False),
        problem=lambda each, _: None,
        mark_or_report=lambda each, *_: done.append(each.request_id),
    )
    case._forget = partial(Case._forget, case)
    Case.forget(case, store, [request(*each) for each in SIZES.items()])  # type: ignore[arg-type]
    order = ["none", "few", "other", "big"]
    assert store.asked == order
    assert done == [name for name in order if name != refused]


def test_who_was_not_looked_up_yet_has_nothing_there() -> None:
    store = _Store(None)
    case: Any = SimpleNamespace(
        person=lambda each: SimpleNamespace(name=each.request_id, keeps_records=False),
        mark_or_report=lambda *_: None,
    )
    batch = [request("big", 9), request("expired", None)]
    case._forget = partial(Case._forget, case)
    Case.forget(case, store, batch)  # type: ignore[arg-type]
    assert store.asked == ["expired", "big"]


def _large_among_others(desk: Desk) -> list[str]:
    desk.places.rows["ada"] = MANY + 1
    return [desk.ask(who) for who in ("ada", "bo", "nobody", "dan")]


def test_others_are_out_of_every_store_of_people_before_who_has_very_much(desk: Desk) -> None:
    asked = _large_among_others(desk)
    left: list[set[str]] = []

    def during(deed: str) -> None:
        if deed == "source" and "ada" not in desk.places.source:
            left.append(set(desk.places.vault) | desk.places.source)

    desk.places.after = during
    assert set(desk.run().closed) == set(asked)
    assert left == [{"ada", "cleo", "twin"}]
    assert desk.places.trainings == 1
    assert desk.places.deeds.count("compact") == 1


def test_as_many_rows_as_others_have_are_no_reason_to_wait(desk: Desk) -> None:
    desk.places.rows["ada"] = MANY
    asked = [desk.ask("ada"), desk.ask("bo")]
    assert set(desk.run().closed) == set(asked)
    assert desk.places.deeds.count("mentioned") == 1


def test_a_run_that_ends_at_who_has_very_much_has_taken_out_the_others(desk: Desk) -> None:
    asked = _large_among_others(desk)

    def during(deed: str) -> None:
        if deed == "source" and "bo" not in desk.places.source and "dan" not in desk.places.vault:
            raise Killed

    desk.places.before = during
    for _ in range(2):  # however often
        with pytest.raises(Killed):
            desk.run()
    assert desk.places.source == {"ada", "cleo", "twin"}
    assert set(desk.places.vault) == {"ada", "cleo"}
    desk.places.before = lambda deed: None
    assert set(desk.run().closed) == set(asked)
    assert desk.places.trainings == 1


def test_who_has_very_much_and_is_refused_holds_up_nobody(desk: Desk) -> None:
    large, *others = _large_among_others(desk)

    def during(deed: str) -> None:
        if deed == "source" and "dan" not in desk.places.vault and "bo" not in desk.places.vault:
            raise ErasureRefused("not as declared")

    desk.places.before = during
    summary = desk.run()
    assert set(summary.closed) == set(others)
    assert set(summary.problems) == {large}


def test_who_asks_while_very_much_is_erased_joins_the_same_training(desk: Desk) -> None:
    asked = _large_among_others(desk)

    def during(deed: str) -> None:
        if deed == "source" and "ada" not in desk.places.source and len(asked) == 4:
            asked.append(desk.ask("cleo"))

    desk.places.after = during
    assert set(desk.run().closed) == set(asked)
    assert desk.places.trainings == 1
