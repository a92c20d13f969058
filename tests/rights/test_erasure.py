"""Carrying requests out: in order, in batches, through failures, and proved at the end."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import pytest

from lethe.core.errors import Busy, SourceUnavailable
from lethe.people.references import Reference
from lethe.rights.deadlines import due
from lethe.rights.erasure import ErasureSummary
from lethe.rights.receipt_facts import receipt_card
from lethe.rights.receipts import Signer, check, read_public_key
from lethe.stores.requests.requests import CLOSED, JOINED, OPEN
from tests.fake_stores import NAME
from tests.library import declare
from tests.rights.desk import NOW, SEED, Desk, at_once, desk

__all__ = ["at_once", "desk"]


def test_an_erasure_goes_through_every_store_in_its_order(desk: Desk) -> None:
    asked = desk.ask("ada")
    summary = desk.run()
    assert summary.closed == {asked: 1}
    assert desk.places.deeds == [
        *(
            "people",
            "traces",
            "look",
            "suppress",
            "remember",
            "mentioned",
            "source",
            "forget",
            "compact",
            "models",
            "purge",
        ),
        *("retrain", "retire", "purge", "look"),
    ]
    assert desk.places.trained == {f"{NAME}/1": {3, 5}, f"{NAME}/2": set(), f"{NAME}/3": {2, 5}}
    assert desk.places.suppressed == {b"None:ada": NOW}
    receipt = desk.receipt(asked)
    assert receipt["result"] == "erased"
    assert receipt["models"] == [
        {
            "version": f"{NAME}/2",
            "became": "retired",
            "replaced_by": f"{NAME}/3",
            "reason": None,
        }
    ]
    assert desk.results(asked) == dict.fromkeys(("source", "vault", "cache", "registry"), "erased")
    assert receipt["retained"][0]["basis"] == "tax law"
    assert "costs epsilon 0.900 (PLD), 1.040 (RDP)" in desk.reports[0]


def test_what_led_to_the_person_is_gone_once_the_request_is_closed(desk: Desk) -> None:
    asked = desk.ask("ada@example.org", column="readers.email")
    assert b"ada" not in desk.request(asked).request_id.encode()
    desk.run()
    request = desk.request(asked)
    assert request.state == CLOSED
    assert request.encrypted is None
    assert request.entry == desk.places.entry("ada", purpose=None), "it keeps them out for good"
    reports = " ".join(r.text for r in desk.requests.receipts())
    page = receipt_card(desk.receipt(asked), digest="d" * 64).page()
    marks = str([mark.content for mark in request.marks.values()])
    for text in (reports, page, marks):
        assert "ada" not in text


@pytest.mark.parametrize("who", ["nobody", "dan", "twin"])
def test_who_is_in_no_model_costs_no_training(desk: Desk, who: str) -> None:
    asked = desk.ask(who)
    assert desk.run().closed == {asked: 1}
    assert desk.places.trainings == 0
    assert "retrain" not in desk.places.deeds
    assert desk.receipt(asked)["models"] == []


def test_unknown_people_take_the_same_steps_and_close_with_the_others(desk: Desk) -> None:
    known, unknown = desk.ask("ada"), desk.ask("nobody@example.org", column="readers.email")
    assert desk.run().closed == {known: 1, unknown: 2}
    assert desk.results(unknown) == dict.fromkeys(desk.results(known), "absent")
    assert desk.receipt(unknown)["result"] == "nothing found"
    assert set(desk.request(unknown).marks) == set(desk.request(known).marks)


@pytest.mark.parametrize("kind", ["erase", "withdraw", "object"])
@pytest.mark.parametrize("value", ["ada", " ada", "bo"])
def test_an_identifier_that_nobody_has_is_not_somebody_elses_key(
    desk: Desk, value: str, kind: str
) -> None:
    """The value is the key of somebody else, who asked for nothing."""
    asked = desk.ask(value, column="readers.email", kind=kind)
    assert desk.run().closed == {asked: 1}
    places = desk.places
    assert {"ada", "bo"} <= places.source
    assert {"ada", "bo"} <= set(places.vault)
    assert places.in_use == {"reading/2"}
    assert places.trainings == 0
    assert places.remembered == set() or not places.remembered & {"ada", "bo"}
    purposes = (None, desk.params.purpose)
    entries = {places.entry(key, purpose=why) for key in ("ada", "bo") for why in purposes}
    assert not entries & set(places.suppressed)
    assert len(places.suppressed) == 1  # the same step is taken, for nobody
    assert desk.receipt(asked)["result"] == "nothing found"


def test_the_same_identifier_that_nobody_has_is_one_person(desk: Desk) -> None:
    one, other = (desk.ask("ada", column="readers.email", kind=k) for k in ("erase", "withdraw"))
    joined = desk.ask("ada", column="readers.phone")
    assert set(desk.run().closed) == {one, other, joined}
    assert len({desk.request(each).entry for each in (one, joined)}) == 2


def test_somebody_in_an_older_model_alone_is_erased_without_a_training(desk: Desk) -> None:
    asked = desk.ask("cleo")
    desk.run()
    assert desk.places.trainings == 0
    assert desk.places.trained[f"{NAME}/1"] == set()
    assert desk.places.in_use == {f"{NAME}/2"}
    assert desk.receipt(asked)["models"][0]["became"] == "retired"


def test_ten_requests_are_one_training_and_ten_receipts(desk: Desk, tmp_path: Path) -> None:
    more = [f"reader {number}" for number in range(6)]
    desk.places.source |= set(more)
    desk.places.emails |= dict.fromkeys(more, "x")
    asked = [desk.ask(who) for who in ["ada", "bo", "cleo", "dan", *more]]
    assert set(desk.run().closed) == set(asked)
    assert desk.places.trainings == 1
    assert [r.request_id for r in desk.requests.receipts()] == asked
    (tmp_path / "receipts.pub").write_bytes(Signer(SEED).public_pem)
    public = read_public_key(tmp_path / "receipts.pub")
    assert check([r.text for r in desk.requests.receipts()], [public]).last == 10


def test_a_hundred_requests_go_through_each_store_as_often_as_one(desk: Desk) -> None:
    more = [f"reader {number}" for number in range(98)]
    desk.places.source |= set(more)
    desk.places.emails |= {who: f"{who}@example.org" for who in more}
    asked = [desk.ask("ada"), desk.ask("dan@example.org", column="readers.email")]
    asked += [desk.ask(who) for who in more]
    assert set(desk.run().closed) == set(asked)
    once = ("people", "traces", "models", "mentioned", "compact", "retrain")
    passes = {deed: desk.places.deeds.count(deed) for deed in (*once, "look", "purge")}
    assert passes == {**dict.fromkeys(once, 1), "look": 2, "purge": 2}
    assert desk.places.deeds[-1] == "look", "the last look is after everything"
    assert desk.places.deeds.count("source") == 100


def test_what_stands_in_the_way_of_one_is_reported_of_them_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [desk.ask(who) for who in ("ada", "bo", "dan", "nobody")]
    gone = desk.ask("x@example.org", column="readers.fax")  # no longer declared
    people = desk.places.people

    def refused(references: Sequence[Reference]) -> list[list[str]]:
        if any(each.column == "readers.fax" for each in references):
            raise SourceUnavailable("No chain of links leads to it.")
        return people(references)

    monkeypatch.setattr(desk.places, "people", refused)
    summary = desk.run()
    assert set(summary.closed) == set(asked)
    assert summary.problems == {gone: "No chain of links leads to it."}
    assert desk.places.trainings == 1


def test_two_requests_of_one_batch_that_are_one_persons_have_one_receipt(desk: Desk) -> None:
    by_mail = desk.ask("dan@example.org", column="readers.email")
    by_key, ada = desk.ask("dan"), desk.ask("ada")
    summary = desk.run()
    assert summary.joined == {by_key: by_mail}
    assert set(summary.closed) == {by_mail, ada}
    assert desk.places.deeds.count("source") == 2


def test_one_of_a_batch_whose_data_came_back_stays_open_alone(desk: Desk) -> None:
    ada, dan = desk.ask("ada"), desk.ask("dan")

    def during(deed: str) -> None:
        if deed == "retire":
            desk.places.source.add("dan")  # a replica that lagged

    desk.places.after = during
    summary = desk.run()
    assert set(summary.closed) == {ada}
    assert "source: still there" in summary.problems[dan]


def test_receipts_of_a_batch_are_of_one_person_each(desk: Desk) -> None:
    ada, dan = desk.ask("ada"), desk.ask("twin")
    desk.run()
    assert desk.results(ada)["cache"] == "erased"
    assert desk.results(dan)["cache"] == "absent"
    assert desk.results(dan)["source"] == "erased"


def test_a_request_that_comes_in_before_the_training_joins_it(desk: Desk) -> None:
    first, later = desk.ask("ada"), []

    def during(deed: str) -> None:
        if deed == "forget" and not later:
            later.append(desk.ask("bo"))

    desk.places.after = during
    assert set(desk.run().closed) == {first, *later}
    assert desk.places.trainings == 1


def test_a_request_that_comes_in_during_the_training_is_taken_up_by_the_same_run(
    at_once: Desk,
) -> None:
    first, later = at_once.ask("ada"), []

    def during(deed: str) -> None:
        if deed == "retrain" and not later:
            later.append(at_once.ask("bo"))

    at_once.places.after = during
    assert set(at_once.run().closed) == {first, *later}
    assert at_once.places.trainings == 2
    assert at_once.places.trained[f"{NAME}/4"] == {5}
    assert at_once.places.trained[f"{NAME}/3"] == set()


def test_requests_are_gathered_until_the_declared_delay_is_over(desk: Desk) -> None:
    desk.params = declare("sqlite:///x.db", erasure__delay_days=7)
    first = desk.ask("ada")
    unknown = desk.ask("nobody")
    assert desk.run().waiting == dict.fromkeys((first, unknown), NOW + dt.timedelta(days=7))
    assert "ada" not in desk.places.source | set(desk.places.vault)
    assert 1 not in desk.places.data, "the data does not wait"
    assert desk.places.trainings == 0
    desk.now += dt.timedelta(days=6)
    second = desk.ask("bo")
    assert set(desk.run().waiting) == {first, unknown, second}
    desk.now += dt.timedelta(days=1)
    assert set(desk.run().closed) == {first, unknown, second}
    assert desk.places.trainings == 1


def test_a_model_that_the_budget_does_not_allow_anew_is_retired_and_that_is_said(
    desk: Desk,
) -> None:
    desk.places.refuses = "budget: Run needs epsilon=1.04"
    asked = desk.ask("ada")
    assert desk.run().closed == {asked: 1}
    assert desk.places.in_use == set()
    (model,) = desk.receipt(asked)["models"]
    assert model["became"] == "retired"
    assert model["replaced_by"] is None
    assert "epsilon=1.04" in model["reason"]
    assert "retired" in desk.reports[-1]
    assert "retired: " in receipt_card(desk.receipt(asked), digest="0").page()


def test_a_model_is_retired_where_training_is_left_to_a_person(desk: Desk) -> None:
    desk.params = declare("sqlite:///x.db", erasure__retrain="manual")
    asked = desk.ask("ada")
    desk.run()
    assert "retrain" not in desk.places.deeds
    assert desk.receipt(asked)["models"][0]["became"] == "retired"


def test_no_model_waits_for_a_training_past_the_deadline(desk: Desk) -> None:
    desk.places.fails["retrain"] = SourceUnavailable("The source does not answer.")
    asked = desk.ask("ada")
    assert desk.run().problems == {asked: "The source does not answer."}
    assert desk.places.in_use == {f"{NAME}/2"}
    desk.now = due(NOW) - dt.timedelta(days=2)
    assert asked in desk.run().closed
    assert desk.places.in_use == set()
    assert "deadline" in desk.receipt(asked)["models"][0]["reason"]


@pytest.mark.parametrize("kind", ["withdraw", "object"])
def test_who_withdraws_or_objects_leaves_training_and_keeps_their_data(
    desk: Desk, kind: str
) -> None:
    asked = desk.ask("ada", kind=kind)
    assert desk.run().closed == {asked: 1}
    assert "ada" in desk.places.source
    assert desk.places.vault["ada"] == 1
    assert desk.places.remembered == set()
    assert desk.places.suppressed == {b"reading:ada": NOW}
    assert desk.places.trained[f"{NAME}/3"] == {2, 5}
    assert desk.results(asked)["source"] == "kept"
    assert desk.receipt(asked)["result"] == "left out of training"


def test_requests_for_another_purpose_are_left_to_its_own_pipeline(desk: Desk) -> None:
    asked = desk.ask("ada", kind="withdraw")
    desk.params = declare("sqlite:///x.db", purpose="letters")
    assert desk.run() == ErasureSummary()
    assert desk.request(asked).state == OPEN


def test_the_same_request_twice_is_one(desk: Desk) -> None:
    first = desk.ask("ada")
    assert desk.ask("ada") == first
    by_mail = desk.ask("ada@example.org", column="readers.email")
    assert by_mail != first, "only a look-up could show it"
    assert desk.run().joined == {by_mail: first}
    assert desk.request(by_mail).state == JOINED
    assert desk.request(by_mail).encrypted is None
    assert len(desk.requests.receipts()) == 1


def test_erased_twice_the_second_finds_nothing(desk: Desk) -> None:
    first = desk.ask("ada")
    desk.run()
    second = desk.ask("ada")
    assert second != first
    desk.run()
    assert desk.receipt(second)["result"] == "nothing found"
    assert desk.places.trainings == 1


def test_what_leads_to_several_people_erases_none_of_them(desk: Desk) -> None:
    asked = desk.ask("bo@example.org", column="readers.email")
    problems = desk.run().problems
    assert "leads to 2 people" in problems[asked]
    assert {"bo", "twin"} <= desk.places.source
    assert desk.request(asked).problem == problems[asked]


def test_a_remote_that_does_not_answer_keeps_the_request_open_and_no_model_in_use(
    desk: Desk,
) -> None:
    desk.places.remote = "The remote does not answer."
    asked = desk.ask("ada")
    assert "The remote does not answer" in desk.run().problems[asked]
    assert desk.request(asked).state == OPEN
    assert desk.requests.receipts() == []
    assert desk.places.in_use == {f"{NAME}/3"}
    desk.places.remote = None
    assert desk.run().closed == {asked: 1}
    assert desk.results(asked) == dict.fromkeys(("source", "vault", "cache", "registry"), "erased")
    assert desk.request(asked).problem is None
    assert desk.places.trainings == 1


@pytest.mark.parametrize(
    "deed", ["suppress", "remember", "source", "forget", "compact", "purge", "look"]
)
def test_a_store_that_fails_for_one_stops_that_request_and_says_why(desk: Desk, deed: str) -> None:
    desk.places.fails[deed] = SourceUnavailable(f"{deed} does not answer.")
    asked = desk.ask("ada")
    problems = desk.run().problems
    assert f"{deed} does not answer" in problems[asked]
    assert desk.request(asked).problem == problems[asked]
    assert desk.requests.receipts() == []
    desk.places.fails.clear()
    assert desk.run().closed == {asked: 1}


def test_what_comes_back_before_the_last_look_is_erased_again(desk: Desk) -> None:
    asked = desk.ask("ada")

    def during(deed: str) -> None:
        if deed == "retrain":
            desk.places.source.add("ada")  # a replica that lagged

    desk.places.after = during
    problems = desk.run().problems
    assert f"source: still there. `lethe erase verify {asked}`" in problems[asked]
    assert desk.requests.receipts() == []
    desk.places.after = lambda deed: None
    assert desk.run().closed == {asked: 1}
    assert "ada" not in desk.places.source


def test_a_model_that_the_pipeline_trained_on_the_person_is_not_taken_for_a_new_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lethe.rights.services import Retraining

    asked = desk.ask("ada")
    monkeypatch.setattr(desk.places, "retrain", lambda: Retraining(f"{NAME}/2"))
    assert f"ended with {NAME}/2" in desk.run().problems[asked]
    assert desk.requests.receipts() == []


@pytest.mark.parametrize("in_use", [False, True])
def test_a_model_registered_after_the_models_were_looked_up_is_retired_by_the_next_run(
    desk: Desk, in_use: bool
) -> None:
    asked = desk.ask("ada")

    def register(deed: str) -> None:
        if deed == ("retrain" if in_use else "purge"):
            version = f"{NAME}/{len(desk.places.trained) + 1}"
            desk.places.trained[version] = {1, 5}
            desk.places.in_use = {version}
            desk.places.after = lambda deed: None

    desk.places.after = register
    assert "registry: still there" in desk.run().problems[asked]
    before = set(desk.places.trained)
    assert desk.run().closed == {asked: 1}
    assert all(1 not in them for them in desk.places.trained.values())
    (used,) = desk.places.in_use
    models = desk.receipt(asked)["models"]
    assert f"{NAME}/2" in {each["version"] for each in models}, "what was ended before stays said"
    assert {each["version"] for each in models} <= before
    assert {each["replaced_by"] for each in models} <= {used, None}


def test_what_comes_back_elsewhere_costs_no_second_training(desk: Desk) -> None:
    asked = desk.ask("ada")
    desk.places.after = lambda deed: desk.places.source.add("ada") if deed == "retrain" else None
    desk.run()
    desk.places.after = lambda deed: None
    count = desk.places.deeds.count("retrain")
    assert desk.run().closed == {asked: 1}
    assert desk.places.deeds.count("retrain") == count


def test_a_second_run_at_the_same_time_is_busy(tmp_path: Path) -> None:
    desk = Desk(f"sqlite:///{tmp_path / 'ledger.db'}")
    desk.ask("ada")
    with desk.requests.alone(), pytest.raises(Busy):
        desk.run()
    assert len(desk.run().closed) == 1
