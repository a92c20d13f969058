"""An erasure in steps: what a step does alone, again, late, and out of turn.

That all steps together do what a run does is tested where runs are: `desk` carries each of those
tests out both ways.
"""

import datetime as dt

import pytest

from lethe.core.errors import Busy, ParamsInvalid, VaultMismatch
from lethe.rights.erasure_steps import (
    LOOK_HOLDS,
    STEPS,
    gather,
    take,
    waiting_for_model,
)
from lethe.stores.requests.requests import CLOSED, OPEN
from tests.library import declare
from tests.rights.desk import NOW, Desk, at_once

__all__ = ["at_once"]
BEFORE_MODELS = ("collect", "suppress", "erase_source", "erase_history")
DONE = (*BEFORE_MODELS, "retrain", "retire")


def _take(desk: Desk, *names: str) -> None:
    for name in names:
        desk.step(name)


def test_each_step_does_its_part_and_no_more(at_once: Desk) -> None:
    asked = at_once.ask("ada")
    seen = {}
    for name in STEPS:
        before = len(at_once.places.deeds)
        at_once.step(name)
        seen[name] = at_once.places.deeds[before:]
    assert seen == {
        "collect": ["people", "traces", "look"],
        "suppress": ["suppress", "remember"],
        "erase_source": ["mentioned", "source", "forget", "compact"],
        "erase_history": ["models", "purge"],
        "retrain": ["retrain"],
        "retire": ["retire", "purge"],
        "verify": ["look"],
        "receipt": [],
    }
    assert at_once.request(asked).state == CLOSED


def test_a_step_again_does_nothing_again(at_once: Desk) -> None:
    asked = at_once.ask("ada")
    for name in STEPS:
        at_once.step(name)
        deeds = [each for each in at_once.places.deeds if each != "look"]
        if name != "receipt":
            at_once.step(name)
        assert [each for each in at_once.places.deeds if each != "look"] == deeds
    assert at_once.places.trainings == 1
    assert [each.request_id for each in at_once.requests.receipts()] == [asked]


@pytest.mark.parametrize("name", [name for name in STEPS if name != "collect"])
def test_a_step_out_of_turn_does_nothing(at_once: Desk, name: str) -> None:
    """But that a training takes along whoever asked."""
    asked = at_once.ask("ada")
    at_once.step(name)
    request = at_once.request(asked)
    assert request.state == OPEN
    assert ("found" in request.marks) == (name == "retrain")
    if name != "retrain":
        assert at_once.places.deeds == []
        assert "ada" in at_once.places.source


def test_there_are_no_other_steps(at_once: Desk) -> None:
    with pytest.raises(ParamsInvalid, match="collect, suppress, erase_source"):
        at_once.step("erase")


def test_two_commands_do_not_work_on_requests_at_once(at_once: Desk, tmp_path: object) -> None:
    desk = Desk(f"sqlite:///{tmp_path}/requests.db")
    other = Desk(f"sqlite:///{tmp_path}/requests.db")
    with desk.requests, other.requests, desk.requests.alone():
        with pytest.raises(Busy):
            other.step("collect")
        with pytest.raises(Busy):
            gather(other.case())


def test_what_each_step_found_is_said_together_and_found_out_anew(at_once: Desk) -> None:
    asked = at_once.ask("ada")

    def away(deed: str) -> None:
        if deed in ("forget", "models"):
            raise VaultMismatch(f"no {deed} today")

    at_once.places.before = away
    _take(at_once, *BEFORE_MODELS)
    said = at_once.request(asked).problem or ""
    assert "no forget today" in said and "no models today" in said
    assert at_once.step("erase_source").problems == {asked: "no forget today"}, "its own alone"
    assert (at_once.request(asked).problem or "").count("no forget today") == 1
    at_once.places.before = lambda deed: None
    at_once.step("collect")
    assert at_once.request(asked).problem is None
    _take(at_once, *STEPS)
    assert at_once.request(asked).state == CLOSED


def test_what_the_look_finds_is_done_again_before_there_is_a_receipt(at_once: Desk) -> None:
    asked = at_once.ask("ada")
    _take(at_once, *DONE)
    at_once.places.source.add("ada")
    summary = at_once.step("verify")
    assert "lethe erase verify" in summary.problems[asked]
    at_once.step("receipt")
    assert at_once.request(asked).state == OPEN
    _take(at_once, *STEPS)
    assert at_once.request(asked).state == CLOSED
    assert at_once.places.source.isdisjoint({"ada"})


def test_a_receipt_says_when_the_look_began(at_once: Desk) -> None:
    asked = at_once.ask("ada")
    _take(at_once, *DONE)

    def slow(deed: str) -> None:
        at_once.now += dt.timedelta(minutes=5) if deed == "look" else dt.timedelta(0)

    at_once.places.before = slow
    _take(at_once, "verify")
    at_once.now = NOW + LOOK_HOLDS
    at_once.step("receipt")
    receipt = at_once.receipt(asked)
    assert receipt["steps"]["verified"] == NOW.isoformat()
    assert receipt["closed_at"] == (NOW + LOOK_HOLDS).isoformat()


@pytest.mark.parametrize("since", [LOOK_HOLDS + dt.timedelta(seconds=1), -dt.timedelta(hours=1)])
def test_a_look_of_another_hour_is_none(at_once: Desk, since: dt.timedelta) -> None:
    """A task that is cleared a day later, or a clock that went back: it is looked for again."""
    asked = at_once.ask("ada")
    _take(at_once, *DONE, "verify")
    at_once.now += since
    at_once.places.source.add("ada")
    summary = at_once.step("receipt")
    assert asked in summary.problems
    assert at_once.request(asked).state == OPEN


def test_a_look_before_the_last_deed_is_none(at_once: Desk) -> None:
    asked = at_once.ask("ada")
    _take(at_once, *DONE, "verify")
    at_once.now += dt.timedelta(minutes=1)
    at_once.requests.mark(asked, "retired", {"stores": []}, now=at_once.now)
    looks = at_once.places.deeds.count("look")
    at_once.step("receipt")
    assert at_once.places.deeds.count("look") == looks + 1


def test_who_asks_meanwhile_is_in_the_same_training(at_once: Desk) -> None:
    first = at_once.ask("ada")
    _take(at_once, *BEFORE_MODELS)
    later = at_once.ask("bo")
    assert {each.request_id for each in gather(at_once.case())} == {first, later}
    assert "bo" not in at_once.places.source
    _take(at_once, "retrain", "retire", "verify", "receipt")
    assert at_once.places.trainings == 1
    assert {each.request_id for each in at_once.requests.receipts()} == {first, later}


def test_a_run_is_waited_for_by_those_whose_model_is_in_use(at_once: Desk) -> None:
    at_once.ask("nobody")
    _take(at_once, *BEFORE_MODELS)
    assert waiting_for_model(at_once.case()) == []
    asked = at_once.ask("ada")
    names = {each.request_id for each in gather(at_once.case())}
    assert asked in names, "with whoever is answered at the same time"
    _take(at_once, "retrain")
    assert waiting_for_model(at_once.case()) == []


def test_who_asks_during_a_training_elsewhere_is_in_the_next(at_once: Desk) -> None:
    first = at_once.ask("ada")
    _take(at_once, *BEFORE_MODELS)
    later = at_once.ask("bo")
    take(at_once.case(), "retrain", elsewhere=True)
    assert "retrained" in at_once.request(first).marks
    assert at_once.request(later).marks == {}
    assert "bo" in at_once.places.source


def test_a_delay_is_waited_for_step_by_step_too(at_once: Desk) -> None:
    at_once.params = declare("sqlite:///x.db", erasure__delay_days=7)
    asked = at_once.ask("ada")
    _take(at_once, *BEFORE_MODELS)
    assert gather(at_once.case()) == []
    summary = take(at_once.case(), "retrain")
    assert summary.waiting == {asked: NOW + dt.timedelta(days=7)}
    assert at_once.places.trainings == 0
    at_once.now += dt.timedelta(days=7)
    _take(at_once, *STEPS)
    assert at_once.request(asked).state == CLOSED
