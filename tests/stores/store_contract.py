"""What every store keeps to; one suite, which each store's own test inherits."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from lethe.core.errors import LetheError
from lethe.core.outcomes import Outcome, Result
from lethe.stores.store import Person, Store


@dataclass
class Made:
    """A store that holds Ada and Bo, and knows nothing of anybody else.

    `keeps`: it keeps what it has until the request is closed. `away` makes it answer no more.
    """

    store: Store
    ada: Person
    bo: Person
    nobody: Person
    away: Callable[[], None]
    keeps: bool = False


class StoreContract:
    """Inherit it, and give `made`."""

    @pytest.fixture
    def made(self) -> Made:
        raise NotImplementedError

    def test_whom_it_holds_is_seen_and_exported(self, made: Made) -> None:
        if not made.keeps:
            assert still_there(made, made.ada)
        found = made.store.export(made.ada)
        assert found and all(each.records for each in found)
        assert repr(found).count("ada") == 0, "records are for the person alone, not for a log"

    def test_whom_it_forgets_is_gone_and_nobody_else(self, made: Made) -> None:
        before = still_there(made, made.bo)
        done = forget(made, made.ada)
        assert not any(outcome.is_open for outcome in done)
        assert made.keeps or any(outcome.result == Result.ERASED for outcome in done)
        assert not still_there(made, made.ada)
        assert made.keeps or not made.store.export(made.ada)
        assert still_there(made, made.bo) == before
        assert made.store.export(made.bo)

    def test_forgotten_twice_the_second_finds_nothing(self, made: Made) -> None:
        forget(made, made.ada)
        assert not still_there(made, made.ada)
        again = forget(made, made.ada)
        assert {outcome.result for outcome in again} <= {Result.ABSENT, Result.KEPT}
        assert not still_there(made, made.ada)

    def test_whom_nobody_knows_is_absent_and_nothing_is_exported(self, made: Made) -> None:
        assert not still_there(made, made.nobody)
        assert made.store.export(made.nobody) == []
        assert {o.result for o in forget(made, made.nobody)} <= {Result.ABSENT, Result.KEPT}

    def test_each_of_several_gets_an_answer_in_their_order(self, made: Made) -> None:
        people = [made.nobody, made.ada, made.bo]
        seen = made.store.look(people)
        assert len(seen) == 3
        if not made.keeps:
            assert [any(o.still_there for o in theirs) for theirs in seen] == [False, True, True]
        assert len(list(made.store.forget(people))) == 3
        made.store.overwrite(forgotten=True)
        assert not any(still_there(made, person) for person in people)

    def test_a_look_changes_nothing(self, made: Made) -> None:
        assert look(made, made.ada) == look(made, made.ada)

    def test_outcomes_name_nobody(self, made: Made) -> None:
        outcomes = [*look(made, made.ada), *forget(made, made.ada), *look(made, made.ada)]
        said = json.dumps([outcome.to_data() for outcome in outcomes])
        for trace in (made.ada.traces.key, *made.ada.traces.identifiers):
            assert f'"{trace}"' not in said and (trace.isdigit() or trace not in said)

    def test_a_store_that_is_away_is_not_taken_for_an_empty_one(self, made: Made) -> None:
        made.away()
        for ask in (lambda: look(made, made.nobody), lambda: forget(made, made.ada)):
            try:
                outcomes = ask()
            except LetheError:
                continue
            assert {outcome.result for outcome in outcomes} & {Result.UNREACHABLE, Result.KEPT}

    def test_it_says_in_phrases_what_it_cannot_see(self, made: Made) -> None:
        assert made.store.name and made.store.unseen()
        assert all(isinstance(each, str) for each in made.store.unseen())

    def test_what_is_traced_keeps_its_key_and_its_order(self, made: Made) -> None:
        people = [each.traces for each in (made.bo, made.nobody, made.ada)]
        assert [each.key for each in made.store.trace(people)] == [each.key for each in people]


def look(made: Made, person: Person) -> list[Outcome]:
    (theirs,) = made.store.look([person])
    return theirs


def forget(made: Made, person: Person) -> list[Outcome]:
    (theirs,) = made.store.forget([person])
    made.store.overwrite(forgotten=True)
    return theirs


def still_there(made: Made, person: Person) -> bool:
    return any(outcome.still_there for outcome in look(made, person))
