"""The seam of rights: one of ten lines, which no other module knows, goes to its receipt."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest

from lethe.core.errors import StoreUnavailable
from lethe.core.outcomes import Outcome, Result, Traces
from lethe.people.references import traces_to_bytes
from lethe.rights.case import Case, CaseSummary
from lethe.rights.receipt_facts import receipt_card
from lethe.rights.receipts import Signer, facts_of
from lethe.rights.right import Right, Step
from lethe.stores.requests.requests import OPEN, Request
from tests.fake_stores import Killed
from tests.rights.desk import NOW, SEED, Desk, desk

__all__ = ["desk"]


def correct(case: Any, batch: Sequence[Request]) -> None:
    for request in batch:
        case.services.emails[case.traces(request).key] = "new@example.org"
        case.mark(request, "corrected", [Outcome("source", Result.ERASED, 1, ("people.email",))])


def is_right(case: Any, batch: Sequence[Request]) -> list[list[Outcome]]:
    return [[Outcome("source", Result.KEPT, reason="the new value is there")] for _ in batch]


CORRECT = Right(
    "correct",
    asked="to have data corrected",
    did="corrected",
    steps=(Step("corrected", correct),),
    look=is_right,
    deadline=lambda received_at: received_at + dt.timedelta(days=7),
)


def ask(desk: Desk, key: str) -> str:
    request_id = f"correct-{key}"
    return desk.requests.receive(
        request_id,
        kind=CORRECT.kind,
        purpose=None,
        reference=key.encode(),
        encrypted=desk.places.encrypt(traces_to_bytes(Traces(key, None)), about=request_id),
        received_at=NOW,
        due_at=CORRECT.deadline(NOW),
    ).request_id


def run(desk: Desk, right: Right = CORRECT) -> CaseSummary:
    made: Case = Case(
        [right], desk.places, desk.requests, Signer(SEED), CaseSummary(), clock=lambda: NOW
    )
    return made.run()


def test_a_new_right_goes_through_its_step_to_a_receipt(desk: Desk) -> None:
    asked, erasure = ask(desk, "ada"), desk.ask("bo")
    assert run(desk).closed == {asked: 1}
    assert desk.places.emails["ada"] == "new@example.org"
    assert desk.request(erasure).state == OPEN, "it takes up its own requests alone"
    receipt = desk.receipt(asked)
    assert (receipt["kind"], receipt["result"]) == ("correct", "corrected")
    assert receipt["due_at"] == (NOW + dt.timedelta(days=7)).isoformat()
    assert list(receipt["steps"]) == ["corrected", "verified"]
    page = receipt_card(receipt, digest="d" * 64).page()
    assert "Somebody asked on 2026-06-01 to have data corrected" in page
    assert desk.request(asked).encrypted is None, "what led to the person is gone"


def test_erasures_do_not_take_up_requests_of_a_right_that_they_do_not_know(desk: Desk) -> None:
    asked = ask(desk, "ada")
    desk.run()
    assert desk.request(asked).state == OPEN
    assert "ada" in desk.places.source


def test_a_step_that_is_killed_is_done_in_the_next_run(desk: Desk) -> None:
    asked = ask(desk, "ada")

    def dying(case: Any, batch: Sequence[Request]) -> None:
        raise Killed

    with pytest.raises(Killed):
        run(desk, Right("correct", "x", "x", (Step("corrected", dying), *CORRECT.steps)))
    assert run(desk).closed == {asked: 1}


def test_a_step_that_is_not_done_leaves_the_request_open_before_the_next(desk: Desk) -> None:
    asked, done = ask(desk, "ada"), []

    def refused(case: Any, batch: Sequence[Request]) -> None:
        for request in batch:
            case.mark_or_report(
                request, "first", [Outcome("list", Result.UNREACHABLE, reason="it is away")]
            )

    steps = (Step("first", refused), Step("second", lambda case, batch: done.append(1)))
    right = Right("correct", "x", "x", steps, look=is_right)
    assert run(desk, right).problems == {asked: "list: it is away"}
    assert (done, desk.requests.receipts()) == ([], [])


def test_a_last_look_that_fails_or_finds_something_signs_nothing(desk: Desk) -> None:
    asked = ask(desk, "ada")

    def away(case: Any, batch: Sequence[Request]) -> list[list[Outcome]]:
        raise StoreUnavailable("The source does not answer.")

    def there(case: Any, batch: Sequence[Request]) -> list[list[Outcome]]:
        return [[Outcome("source", Result.PRESENT, 1, reason="the old value is there")]]

    for look, message in ((away, "does not answer"), (there, "the old value is there")):
        right = Right("correct", "x", "x", CORRECT.steps, look=look)
        assert message in run(desk, right).problems[asked]
    assert desk.requests.receipts() == []
    assert run(desk).closed == {asked: 1}
    assert facts_of(desk.requests.receipts()[0].text)["request"] == asked
