"""Each store away, before, in the middle and after: the others go on, and nothing is signed."""

from collections.abc import Iterator, Sequence

import pytest

from lethe.core.errors import (
    Busy,
    ErasureRefused,
    LetheError,
    SchemaMismatch,
    SourceUnavailable,
    StoreUnavailable,
)
from lethe.core.outcomes import Outcome, Result
from lethe.rights import case
from lethe.stores.requests.requests import OPEN
from lethe.stores.store import Person
from tests.fake_stores import NAME, FakeWorkspace, Source
from tests.rights.desk import Desk, desk

__all__ = ["desk"]

DEEDS = {  # of each store, what is asked of it
    "source": ("traces", "source", "compact"),
    "vault": ("forget", "remember", "suppress"),
    "dvc": ("purge", "look"),
    "registry": ("models", "retire"),
}


def away(desk: Desk, store: str, *, after: str | None) -> None:
    """Takes a store away now, or once something was done."""
    error: LetheError = StoreUnavailable(f"The {store} does not answer.")

    def take(deed: str) -> None:
        if after is None or deed == after:
            desk.places.fails |= dict.fromkeys(DEEDS[store], error)

    if after is None:
        take("")
    desk.places.after = take


def gone_from(places: FakeWorkspace) -> dict[str, bool]:
    return {
        "source": "ada" not in places.source,
        "vault": "ada" not in places.vault,
        "dvc": 1 not in places.data,
        "registry": not places.trained[f"{NAME}/2"],
    }


@pytest.mark.parametrize(
    ("store", "after", "elsewhere"),
    [
        ("registry", None, {"source", "vault", "dvc"}),
        ("registry", "source", {"source", "vault", "dvc"}),
        ("registry", "purge", {"source", "vault", "dvc"}),
        ("registry", "retrain", {"source", "vault", "dvc"}),
        ("source", "suppress", {"vault", "dvc", "registry"}),
        ("source", "source", {"source", "vault", "dvc", "registry"}),
        ("vault", "source", {"source", "dvc", "registry"}),
        ("dvc", None, {"source", "vault"}),
        ("dvc", "forget", {"source", "vault"}),
        ("dvc", "retire", {"source", "vault", "dvc", "registry"}),
    ],
)
def test_one_store_away_holds_up_no_other_and_no_receipt_is_signed(
    desk: Desk, store: str, after: str | None, elsewhere: set[str]
) -> None:
    away(desk, store, after=after)
    asked = desk.ask("ada")
    summary = desk.run()
    assert f"The {store} does not answer" in summary.problems[asked]
    assert desk.request(asked).problem == summary.problems[asked]
    assert desk.request(asked).state == OPEN
    assert desk.requests.receipts() == []
    assert {name for name, gone in gone_from(desk.places).items() if gone} == elsewhere
    desk.places.fails.clear()
    desk.places.after = lambda deed: None
    assert desk.run().closed == {asked: 1}
    assert all(gone_from(desk.places).values())
    assert desk.request(asked).problem is None
    assert desk.results(asked) == dict.fromkeys(("source", "vault", "cache", "registry"), "erased")
    assert desk.places.trainings == 1


def test_two_stores_away_are_both_named(desk: Desk) -> None:
    away(desk, "registry", after=None)
    desk.places.remote = "The remote does not answer."
    asked = desk.ask("ada")
    problem = desk.run().problems[asked]
    assert "The registry does not answer" in problem and "The remote does not answer" in problem
    assert problem.count("The registry") == 1


def test_no_model_is_trained_while_nobody_can_say_which_to_replace(desk: Desk) -> None:
    away(desk, "registry", after=None)
    desk.ask("ada")
    desk.run()
    assert desk.places.trainings == 0
    assert desk.places.in_use == {f"{NAME}/2"}


def test_what_a_store_deletes_once_it_is_back_is_overwritten_too(desk: Desk) -> None:
    away(desk, "source", after="suppress")
    asked = desk.ask("ada")
    desk.run()
    assert "overwritten" not in desk.request(asked).marks
    desk.places.fails.clear()
    desk.places.after = lambda deed: None
    before = len(desk.places.deeds)
    desk.run()
    deeds = desk.places.deeds[before:]
    assert deeds.index("source") < deeds.index("compact")


AWAY = (
    StoreUnavailable("The source does not answer."),
    SourceUnavailable("The source does not answer."),
    Busy("The source is held by another."),
)


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("yielded", [False, True])
def test_a_store_that_lets_everybody_wait_is_asked_for_one_of_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: LetheError, yielded: bool
) -> None:
    monkeypatch.setattr(case, "SILENCE_S", 0.0)
    asked = [desk.ask(who) for who in ("ada", "bo", "cleo")]
    tries: list[str] = []

    def silent(_: Source, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        for each in people:
            tries.append(each.traces.key)
            if not yielded:
                raise error
            yield [Outcome("source", Result.UNREACHABLE, reason=str(error))]

    monkeypatch.setattr(Source, "forget", silent)
    problems = desk.run().problems
    assert set(problems) == set(asked)
    assert all(str(error).rstrip(".") in problem for problem in problems.values())
    assert len(tries) == 1


@pytest.mark.parametrize("error", [ErasureRefused, SchemaMismatch])
def test_who_is_refused_however_late_holds_up_nobody_behind(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: type[LetheError]
) -> None:
    monkeypatch.setattr(case, "SILENCE_S", 0.0)
    ada, bo, cleo = (desk.ask(who) for who in ("ada", "bo", "cleo"))
    forget = Source.forget

    def refusing(self: Source, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        for each in people:
            if each.traces.key == "ada":
                raise error("A kept row points at her.")
            yield from forget(self, [each])

    monkeypatch.setattr(Source, "forget", refusing)
    summary = desk.run()
    assert set(summary.problems) == {ada}
    assert set(summary.closed) == {bo, cleo}


def test_who_is_locked_for_a_moment_holds_up_nobody_behind(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bo = desk.ask("ada"), desk.ask("bo")
    forget = Source.forget

    def locked(self: Source, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        for each in people:
            if each.traces.key == "ada":
                yield [Outcome("source", Result.UNREACHABLE, reason="Her row is locked.")]
            else:
                yield from forget(self, [each])

    monkeypatch.setattr(Source, "forget", locked)
    summary = desk.run()
    assert (set(summary.problems), set(summary.closed)) == ({ada}, {bo})


def test_a_retraining_that_cannot_be_registered_leaves_every_other_store_done(desk: Desk) -> None:
    desk.places.fails["retrain"] = StoreUnavailable("The model registry does not answer.")
    asked = desk.ask("ada")
    assert "The model registry does not answer" in desk.run().problems[asked]
    assert {n for n, gone in gone_from(desk.places).items() if gone} == {"source", "vault", "dvc"}
    assert desk.requests.receipts() == []
