"""The seam of stores: one of ten lines, which no other module knows, takes part in an erasure."""

from collections.abc import Iterator, Sequence

import pytest

from lethe.core.errors import StoreUnavailable
from lethe.core.outcomes import Outcome, Result, Traces
from lethe.rights.receipt_facts import receipt_card
from lethe.stores.store import Held, Person, Store
from tests.fake_stores import Killed
from tests.rights.desk import Desk, desk
from tests.stores.store_contract import Made, StoreContract

__all__ = ["desk"]


class Notes(Store):
    name = "notes"

    def __init__(self) -> None:
        self.notes = {"ada": "likes tea", "bo": "reads at night"}

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        for each in people:
            there = self.notes.pop(each.traces.key, None)
            result = Result.ERASED if there else Result.ABSENT
            yield [Outcome(self.name, result, int(there is not None))]

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        there = Outcome(self.name, Result.PRESENT, 1, reason="a note is there")
        absent = Outcome(self.name, Result.ABSENT)
        return [[there if each.traces.key in self.notes else absent] for each in people]

    def export(self, person: Person) -> list[Held]:
        note = self.notes.get(person.traces.key)
        return [Held("notes", ({"note": note},))] if note else []

    def unseen(self) -> tuple[str, ...]:
        return ("notes on paper",)


class AwayNotes(Notes):
    away = False

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        return super().look(people) if not self.away else self._away()

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        return super().forget(people) if not self.away else self._away()

    def _away(self) -> list[list[Outcome]]:
        raise StoreUnavailable("The notes do not answer.")


class TestNotes(StoreContract):
    @pytest.fixture
    def made(self) -> Made:
        notes = AwayNotes()
        ada, bo, nobody = (Person(Traces(key, None)) for key in ("ada", "bo", "nobody"))
        return Made(notes, ada, bo, nobody, away=lambda: setattr(notes, "away", True))


@pytest.fixture
def notes(desk: Desk) -> Notes:
    made = Notes()
    desk.places.stores.append(made)
    return made


def test_a_new_store_forgets_with_the_others_and_stands_in_the_receipt(
    desk: Desk,
    notes: Notes,
) -> None:
    ada, nobody = desk.ask("ada"), desk.ask("nobody")
    assert set(desk.run().closed) == {ada, nobody}
    assert notes.notes == {"bo": "reads at night"}
    assert (desk.results(ada)["notes"], desk.results(nobody)["notes"]) == ("erased", "absent")
    assert {"store": "notes", "what": "notes on paper"} in desk.receipt(ada)["unseen"]
    page = receipt_card(desk.receipt(ada), digest="d" * 64).page()
    assert "erased: 1" in page and "notes on paper" in page


def test_a_new_store_keeps_its_records_where_only_a_use_ends(desk: Desk, notes: Notes) -> None:
    asked = desk.ask("ada", kind="withdraw")
    desk.run()
    assert "ada" in notes.notes
    assert desk.results(asked)["notes"] == "kept"


def test_what_a_new_store_still_has_keeps_the_request_open(desk: Desk, notes: Notes) -> None:
    asked = desk.ask("ada")
    desk.places.after = lambda deed: notes.notes.update(ada="likes tea")  # written by somebody
    assert "notes: a note is there" in desk.run().problems[asked]
    assert desk.requests.receipts() == []
    desk.places.after = lambda deed: None
    assert desk.run().closed == {asked: 1}
    assert "ada" not in notes.notes


def test_a_new_store_that_does_not_answer_for_one_holds_up_nobody_else(
    desk: Desk,
    notes: Notes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [desk.ask(who) for who in ("ada", "dan", "bo")]

    def failing(people: Sequence[Person]) -> Iterator[list[Outcome]]:
        for each in people:
            if each.traces.key == "dan":
                raise StoreUnavailable("The notes do not answer.")
            yield from Notes.forget(notes, [each])

    monkeypatch.setattr(notes, "forget", failing)
    summary = desk.run()
    assert set(summary.closed) == {asked[0], asked[2]}
    assert summary.problems == {asked[1]: "The notes do not answer."}
    monkeypatch.undo()
    assert set(desk.run().closed) == {asked[1]}


def test_killed_in_a_new_store_the_next_run_goes_on(
    desk: Desk,
    notes: Notes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = desk.ask("ada")

    def dying(people: Sequence[Person]) -> Iterator[list[Outcome]]:
        next(Notes.forget(notes, people))
        raise Killed

    monkeypatch.setattr(notes, "forget", dying)
    with pytest.raises(Killed):
        desk.run()
    monkeypatch.undo()
    assert desk.run().closed == {asked: 1}
    assert desk.results(asked)["notes"] == "erased", "it was there, and is gone"


def test_a_store_that_answers_for_too_few_is_a_fault_that_is_not_swallowed(
    desk: Desk,
    notes: Notes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk.ask("ada")
    monkeypatch.setattr(notes, "forget", lambda people: iter(()))
    with pytest.raises(ValueError, match="more people than it answered"):
        desk.run()
    assert desk.requests.receipts() == []


def test_a_request_that_was_half_done_before_the_store_was_there_gets_it_too(desk: Desk) -> None:
    asked = desk.ask("ada")
    desk.places.remote = "The remote does not answer."
    desk.run()
    made = Notes()
    desk.places.stores.append(made)
    desk.places.remote = None
    assert desk.run().closed == {asked: 1}
    assert "ada" not in made.notes
