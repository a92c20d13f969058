"""Outcomes have five results, and read what versions before wrote with three."""

from typing import Any

import pytest

from lethe.core.outcomes import Outcome, Result


def written(result: str, *, count: int = 0, reason: str | None = None) -> dict[str, Any]:
    return {
        "store": "source",
        "result": result,
        "count": count,
        "places": ["loans"],
        "reason": reason,
        "retained": [],
    }


@pytest.mark.parametrize("result", list(Result))
def test_what_is_written_is_read_again(result: Result) -> None:
    count = 0 if result == Result.ABSENT else 3
    outcome = Outcome("source", result, count, ("loans",), "a reason", ({"table": "bills"},))
    assert Outcome.from_data(outcome.to_data()) == outcome


@pytest.mark.parametrize(
    ("before", "result"),
    [
        (written("nothing found"), Result.ABSENT),
        (written("erased", count=2), Result.ERASED),
        (written("not attempted", count=2, reason="still there"), Result.PRESENT),
        (written("not attempted", reason="it does not answer"), Result.UNREACHABLE),
        (
            written("not attempted", reason="stays: only its use for this purpose ends"),
            Result.KEPT,
        ),
    ],
)
def test_three_results_are_read_as_five(before: dict[str, Any], result: Result) -> None:
    assert Outcome.from_data(before).result == result


def test_a_word_that_is_no_result_is_refused() -> None:
    for word in ("", "gone", "Erased", "not  attempted"):
        with pytest.raises(ValueError, match="is not a valid Result"):
            Outcome.from_data(written(word, reason="x"))


@pytest.mark.parametrize(
    ("result", "is_open", "still_there"),
    [
        (Result.ERASED, False, True),  # of a look: what a deed says is no look
        (Result.ABSENT, False, False),
        (Result.PRESENT, True, True),
        (Result.UNREACHABLE, True, True),
        (Result.KEPT, False, False),
    ],
)
def test_what_keeps_a_request_open(result: Result, is_open: bool, still_there: bool) -> None:
    outcome = Outcome("source", result, reason="whatever it says: stays, not attempted, erased")
    assert (outcome.is_open, outcome.still_there) == (is_open, still_there)


@pytest.mark.parametrize("result", ["present", "unreachable", "kept"])
def test_what_stays_needs_a_reason(result: str) -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        Outcome("source", Result(result))


def test_what_is_there_is_never_called_absent() -> None:
    with pytest.raises(ValueError, match="cannot be absent"):
        Outcome("source", Result.ABSENT, 1)
