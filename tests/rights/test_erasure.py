"""Carrying requests out: in order, in batches, through failures, and proved at the end."""

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lethe.config.params import Params
from lethe.core.errors import Busy, LetheError, SourceUnavailable
from lethe.people.references import Reference
from lethe.rights.deadlines import due
from lethe.rights.erasure import ASKED, Erasure, ErasureSummary
from lethe.rights.receipt_facts import receipt_card
from lethe.rights.receipts import Signer, check, facts_of, read_public_key
from lethe.stores.requests.requests import CLOSED, JOINED, OPEN, Request, Requests
from tests.fake_stores import NAME, FakeWorkspace, Killed
from tests.library import declare

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
SEED = b"s" * 32


class Desk:
    """Requests in a database of their own, stores in memory, and a clock that stands still."""

    def __init__(self, url: str = "sqlite://") -> None:
        self.url = url
        self.places = FakeWorkspace()
        self.params: Params = declare("sqlite:///x.db")
        self.now = NOW
        self.reports: list[str] = []
        self.count = 0
        self.requests = Requests.open(self.url)

    def ask(self, value: str, *, column: str | None = None, kind: str = "erase") -> str:
        self.count += 1
        content = Reference(column, value).to_bytes()
        request_id = f"request-{self.count:02d}"
        return self.requests.receive(
            request_id,
            kind=kind,
            purpose=self.params.purpose if ASKED[kind].keeps_records else None,
            reference=kind.encode() + content,
            encrypted=self.places.encrypt(content, about=request_id),
            received_at=self.now,
            due_at=due(self.now),
        ).request_id

    def run(self) -> ErasureSummary:
        erasure = Erasure(
            self.params,
            self.places,
            self.requests,
            Signer(SEED),
            clock=lambda: self.now,
            report=self.reports.append,
        )
        return erasure.run()

    def request(self, request_id: str) -> Request:
        return self.requests.find(request_id)

    def receipt(self, request_id: str) -> dict:
        (text,) = [r.text for r in self.requests.receipts() if r.request_id == request_id]
        return facts_of(text)

    def results(self, request_id: str) -> dict[str, str]:
        return {each["store"]: each["result"] for each in self.receipt(request_id)["stores"]}


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    with made.requests:
        yield made


def test_an_erasure_goes_through_every_store_in_its_order(desk: Desk) -> None:
    asked = desk.ask("ada")
    summary = desk.run()
    assert summary.closed == {asked: 1}
    assert desk.places.deeds == [
        *(
            "people",
            "traces",
            "models",
            "look",
            "suppress",
            "remember",
            "mentioned",
            "source",
            "forget",
            "compact",
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
    desk: Desk,
) -> None:
    first, later = desk.ask("ada"), []

    def during(deed: str) -> None:
        if deed == "retrain" and not later:
            later.append(desk.ask("bo"))

    desk.places.after = during
    assert set(desk.run().closed) == {first, *later}
    assert desk.places.trainings == 2
    assert desk.places.trained[f"{NAME}/4"] == {5}
    assert desk.places.trained[f"{NAME}/3"] == set()


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
    assert "The remote does not answer." in desk.run().problems[asked]
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
    assert desk.run().problems == {asked: f"{deed} does not answer."}
    assert desk.request(asked).problem == f"{deed} does not answer."
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


def test_a_second_run_at_the_same_time_is_busy(tmp_path: Path) -> None:
    desk = Desk(f"sqlite:///{tmp_path / 'ledger.db'}")
    desk.ask("ada")
    with desk.requests.alone(), pytest.raises(Busy):
        desk.run()
    assert len(desk.run().closed) == 1


DEEDS = ("suppress", "remember", "source", "forget", "purge", "retrain", "retire")


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_every_deed_the_next_run_ends_the_same(
    desk: Desk, deed: str, moment: str
) -> None:
    asked = [desk.ask("ada"), desk.ask("cleo"), desk.ask("nobody")]

    def die(at: str) -> None:
        if at == deed:
            raise Killed

    setattr(desk.places, moment, die)
    with pytest.raises(Killed):
        desk.run()
    setattr(desk.places, moment, lambda at: None)
    desk.run()
    assert _ending(desk, asked) == _undisturbed()


@pytest.mark.parametrize("number", range(1, 28))
def test_killed_after_every_mark_the_next_run_ends_the_same(
    desk: Desk, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [desk.ask("ada"), desk.ask("cleo"), desk.ask("nobody")]
    seen = 0
    writes = {name: getattr(Requests, name) for name in ("mark", "resolve", "close")}

    def dying(name: str):  # type: ignore[no-untyped-def]
        def write(self, *args, **options):  # type: ignore[no-untyped-def]
            nonlocal seen
            done = writes[name](self, *args, **options)
            seen += 1
            if seen == number:
                raise Killed
            return done

        return write

    for name in writes:
        monkeypatch.setattr(Requests, name, dying(name))
    with pytest.raises(Killed):
        desk.run()
    monkeypatch.undo()
    desk.run()
    assert _ending(desk, asked) == _undisturbed()


def _ending(desk: Desk, asked: list[str]) -> dict:
    """Everything that is the same however often a run was ended."""
    places = desk.places
    return {
        "stores": (places.source, places.vault, places.data, places.trained, places.in_use),
        "remembered": places.remembered,
        "trainings": places.trainings,
        "receipts": [
            {
                k: v
                for k, v in desk.receipt(each).items()
                if k not in ("steps", "stores", "previous")
            }
            for each in asked
        ],
        "states": [desk.request(each).state for each in asked],
        "results": [
            sorted((s["store"], s["result"]) for s in desk.receipt(each)["stores"])
            for each in asked
        ],
    }


def _undisturbed() -> dict:
    other = Desk()
    with other.requests:
        asked = [other.ask("ada"), other.ask("cleo"), other.ask("nobody")]
        other.run()
        return _ending(other, asked)


def test_an_error_that_nobody_foresaw_is_not_swallowed(desk: Desk) -> None:
    desk.ask("ada")
    desk.places.before = lambda deed: (_ for _ in ()).throw(ValueError("a fault"))
    with pytest.raises(ValueError, match="a fault"):
        desk.run()
    assert issubclass(Busy, LetheError)


AS_BEFORE = {"absent": "nothing found", "present": "not attempted", "kept": "not attempted"}


def _as_the_version_before(content: dict) -> dict:
    """A mark with three results of a store, and prose that said which of them was on purpose."""
    stores = [dict(each) for each in content.get("stores", ()) if each["store"] != "requests"]
    for each in stores:
        if each["result"] == "kept":
            each["reason"] = "stays: only its use for this purpose ends"
        each["result"] = AS_BEFORE.get(each["result"], each["result"])
    return {**content, "stores": stores} if "stores" in content else content


@pytest.mark.parametrize("number", range(1, 28))
@pytest.mark.parametrize("kind", ["erase", "withdraw"])
def test_an_open_request_of_the_version_before_is_gone_on_with(
    desk: Desk, kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [desk.ask("ada", kind=kind), desk.ask("cleo"), desk.ask("nobody")]
    seen = 0
    mark, resolve = Requests.mark, Requests.resolve

    def counted() -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            raise Killed

    def old_mark(self, request_id, step, content, *, now):  # type: ignore[no-untyped-def]
        mark(self, request_id, step, _as_the_version_before(content), now=now)
        counted()

    def old_resolve(self, request_id, *, encrypted, entry, found, now):  # type: ignore[no-untyped-def]
        found = _as_the_version_before(found)
        resolve(self, request_id, encrypted=encrypted, entry=entry, found=found, now=now)
        counted()

    monkeypatch.setattr(Requests, "mark", old_mark)
    monkeypatch.setattr(Requests, "resolve", old_resolve)
    try:
        desk.run()
    except Killed:
        monkeypatch.undo()
        desk.run()
    assert [desk.request(each).state for each in asked] == [CLOSED] * 3
    assert desk.places.trainings == 1
    expected = "kept" if kind == "withdraw" else "erased"
    assert desk.results(asked[0])["source"] == expected
    assert desk.results(asked[1]) == {
        **dict.fromkeys(("source", "vault", "cache", "registry"), "erased")
    }
    assert set(desk.results(asked[2]).values()) == {"absent"}
