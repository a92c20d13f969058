"""Retention carried out: in order, a day a request, models as declared, through failures."""

import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pyroaring import BitMap

from lethe.core.errors import Busy, LetheError, StoreUnavailable
from lethe.core.outcomes import Outcome, Traces
from lethe.people.references import Expiry
from lethe.rights.receipt_facts import receipt_card
from lethe.rights.receipts import Signer, check, facts_of, read_public_key
from lethe.rights.retention import RetentionCase, RetentionSummary
from lethe.rights.services import Retraining, RetrainingCost
from lethe.stores.requests.requests import CLOSED, OPEN, Requests
from lethe.stores.source.expire import ExpiredRows
from lethe.stores.store import Ending, Person, Store
from tests.fake_stores import Fake, Killed, done, seen
from tests.library import declare

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
SEED = b"s" * 32
TOKENS = {"ada": 1, "bo": 2, "cleo": 3}


class FakeStores:
    """Rows by whose they are; shards in versions; models by what they learned from."""

    def __init__(self) -> None:
        self.past = {"ada": 2, "bo": 1}  # rows whose time is over
        self.people: set[str] = set()  # whose own row's time is over
        self.vault = dict(TOKENS)
        self.version = 1  # of the source as it is
        self.shards = {1}  # versions that DVC keeps
        self.current = 1
        self.trained = {"reading/1": (1, {1, 2, 3})}  # version → (shards, people)
        self.alias = {"reading/1"}
        self.remembered: list[str] = []
        self.trainings = 0
        self.refuses: str | None = None
        self.fails: dict[str, LetheError] = {}
        self.after: Callable[[str], None] = lambda deed: None
        self.deeds: list[str] = []
        self.reports: dict[str, Outcome] = {}
        self.stores: list[Store] = [Source(self), Vault(self)]

    def do(self, deed: str) -> None:
        if deed in self.fails:
            raise self.fails[deed]
        self.deeds.append(deed)

    def encrypt(self, content: bytes, *, about: str) -> bytes:
        return json.dumps([about, content.hex()]).encode()

    def decrypt(self, encrypted: bytes, *, about: str) -> bytes:
        owner, content = json.loads(encrypted)
        assert owner == about
        return bytes.fromhex(content)

    def expired(self, *, as_of: dt.datetime) -> ExpiredRows:
        self.do("look")
        rows = sum(self.past.values())
        return ExpiredRows(
            rows={"loans": rows} if rows else {},
            undated={"loans": 7},
            keys=frozenset(self.past),
            people=tuple(sorted(self.people)),
        )

    def expiry(self, expired: ExpiredRows) -> Expiry:
        staying = expired.keys - set(expired.people)
        people = tuple(Traces(key, self.vault.get(key)) for key in expired.people)
        return Expiry(BitMap(self.vault[key] for key in staying), people)

    def remember(self, traces: Traces, *, now: dt.datetime) -> None:
        self.remembered.append(traces.key)

    def erase_expired(self, expired: ExpiredRows, *, as_of: dt.datetime, about: str) -> Outcome:
        self.do("rows")
        rows = sum(self.past.values())
        self.past = {}
        self.version += bool(rows)
        outcome = done("source", [f"loans: {rows} deleted"] if rows else [])
        self.reports[about] = outcome if rows else self.reports.get(about, outcome)
        self.after("rows")
        return self.reports[about]

    @property
    def rows(self) -> Store:
        return self.stores[0]

    def remake(self) -> None:
        self.do("remake")
        self.current = self.version
        self.shards.add(self.current)
        self.after("remake")

    def outdated(self, expiry: Expiry) -> list[str]:
        about = set(expiry.tokens | expiry.leaving)
        return [v for v, (on, who) in self.trained.items() if about & who and on != self.current]

    def in_use(self) -> list[str]:
        return sorted(self.alias)

    def purge_expired(self, expiry: Expiry, *, retired: Sequence[str]) -> list[Outcome]:
        self.do("purge")
        gone = self.shards - {self.current}
        self.shards = {self.current}
        self.after("purge")
        return [done("cache", [*map(str, sorted(gone)), *retired])]

    def cost(self, tokens: Sequence[int]) -> RetrainingCost | None:
        return RetrainingCost(3, 1.04, 0.9, 1e-5, self.refuses)

    def retrain(self) -> Retraining:
        self.do("train")
        if self.refuses:
            return Retraining(None, self.refuses)
        if self.trained[max(self.trained)][0] != self.current:
            self.trainings += 1
            self.train()
        self.after("train")
        return Retraining(max(self.trained))

    def train(self) -> None:
        """The pipeline, run by whomever."""
        self.trained[f"reading/{int(max(self.trained)[8:]) + 1}"] = (self.current, {1, 3})
        self.alias = {max(self.trained)}

    def end(self, version: str, ending: Ending) -> Outcome:
        self.do("retire")
        there = self.trained.pop(version, None)
        self.alias.discard(version)
        self.after("retire")
        return done("registry", [version] if there else [])

    def look_expired(
        self, expiry: Expiry, *, as_of: dt.datetime, about: Sequence[str], models: Sequence[str]
    ) -> list[Outcome]:
        self.do("verify")
        old = sorted(self.shards - {self.current})
        return [
            seen("source", [*self.past, *self.people]),
            seen("vault", [each.key for each in expiry.people if each.key in self.vault]),
            seen("cache", old if expiry.tokens else []),
            seen("registry", [m for m in models if m in self.trained]),
        ]


class Source(Fake):
    name = "source"

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        for each in people:
            self.home.do("person")
            there = each.traces.key in self.home.people
            self.home.people.discard(each.traces.key)
            self.home.version += there
            self.home.after("person")
            yield [done("source", ["readers: 1 deleted"] if there else [])]

    def overwrite(self, *, forgotten: bool) -> None:
        self.home.do("compact")

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        raise NotImplementedError("retention looks by itself")


class Vault(Source):
    name = "vault"

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        for each in people:
            there = self.home.vault.pop(each.traces.key, None)
            self.home.after("forget")
            yield [done("vault", ["vault_subjects"] if there is not None else [])]

    def overwrite(self, *, forgotten: bool) -> None:
        pass


class Desk:
    def __init__(self, **retention: object) -> None:
        self.places = FakeStores()
        self.params = declare("sqlite:///x.db", erasure={"retention": retention})
        self.now = NOW
        self.reports: list[str] = []
        self.requests = Requests.open("sqlite://")

    def run(self) -> RetentionSummary:
        return RetentionCase(
            self.params,
            self.places,
            self.requests,
            Signer(SEED),
            clock=lambda: self.now,
            report=self.reports.append,
        ).run()

    def receipts(self) -> list[dict]:
        return [facts_of(each.text) for each in self.requests.receipts()]


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    with made.requests:
        yield made


def test_nothing_past_its_time_leaves_no_request_and_no_receipt(desk: Desk) -> None:
    desk.places.past = {}
    summary = desk.run()
    assert summary == RetentionSummary(undated={"loans": 7})
    assert (desk.requests.all(), desk.places.deeds) == ([], ["look"])


def test_by_default_nothing_is_trained_and_the_next_training_ends_it(desk: Desk) -> None:
    desk.places.trained["reading/0"] = (1, {1})
    waiting = desk.run()
    (request_id,) = waiting.waiting
    assert "reading/1 stays until the pipeline trains the next" in waiting.waiting[request_id]
    assert desk.places.trainings == 0
    assert desk.places.shards == {2}
    assert list(desk.places.trained) == ["reading/1"], "what was not in use went at once"
    looks = desk.places.deeds.count("verify")
    desk.now += dt.timedelta(days=400)
    assert list(desk.run().waiting) == [request_id]
    assert desk.places.deeds.count("verify") == looks == 1, "what waits was looked at once"
    desk.places.train()
    assert desk.run().closed == {request_id: 1}
    assert list(desk.places.trained) == ["reading/2"]
    assert desk.places.trainings == 0
    (receipt,) = desk.receipts()
    assert (receipt["kind"], receipt["result"], receipt["people"]) == ("retention", "erased", 0)
    became = {each["version"]: (each["became"], each["replaced_by"]) for each in receipt["models"]}
    assert became["reading/1"] == ("retired", "reading/2")
    assert receipt["retained"] == []
    assert desk.run() == RetentionSummary(undated={"loans": 7})


def test_automatic_trains_once_for_all_days_after_the_declared_delay_and_says_the_cost() -> None:
    desk = Desk(retrain="automatic", delay_days=30)
    (first,) = desk.run().waiting
    desk.now += dt.timedelta(days=1)
    desk.places.past = {"bo": 1}
    assert len(desk.run().waiting) == 2
    desk.now = NOW + dt.timedelta(days=30)
    closed = desk.run().closed
    assert (len(closed), desk.places.trainings) == (2, 1)
    assert any("costs epsilon" in said for said in desk.reports)
    assert {r["models"][0]["replaced_by"] for r in desk.receipts()} == {"reading/2"}
    assert first in closed


def test_a_training_before_the_delay_is_over_spares_another() -> None:
    desk = Desk(retrain="automatic", delay_days=30)
    desk.run()
    desk.places.train()
    desk.now += dt.timedelta(days=40)
    assert list(desk.run().closed.values()) == [1]
    assert desk.places.trainings == 0


def test_where_the_budget_allows_no_model_the_old_one_is_retired_and_that_is_said() -> None:
    desk = Desk(retrain="automatic", delay_days=0)
    desk.places.refuses = "budget: no"
    assert list(desk.run().closed.values()) == [1]
    (receipt,) = desk.receipts()
    (model,) = receipt["models"]
    assert (model["became"], model["reason"]) == ("retired", "budget: no")


def test_rows_that_no_model_learned_from_close_at_once(desk: Desk) -> None:
    desk.places.trained["reading/1"] = (1, {9})
    assert list(desk.run().closed.values()) == [1]
    assert desk.places.deeds.count("train") == 0


def test_who_leaves_whole_is_remembered_forgotten_and_counted(desk: Desk) -> None:
    desk.places.past, desk.places.people = {}, {"cleo"}
    desk.run()
    desk.places.train()
    desk.run()
    (receipt,) = desk.receipts()
    assert (receipt["people"], desk.places.remembered) == (1, ["cleo"])
    assert "cleo" not in desk.places.vault
    assert [each["table"] for each in receipt["retained"]] == ["ledger"]
    assert "cleo" not in json.dumps(receipt)


def test_who_came_back_while_a_model_waits_is_not_taken_out_again(desk: Desk) -> None:
    desk.places.people = {"cleo"}
    desk.run()
    desk.places.vault["cleo"] = 9
    desk.places.train()
    assert len(desk.run().closed) == 1
    assert desk.places.vault["cleo"] == 9
    (receipt,) = desk.receipts()
    assert {"vault", "source", "cache"} <= {each["store"] for each in receipt["stores"]}


def test_a_store_that_does_not_answer_keeps_it_open_and_the_next_run_goes_on(desk: Desk) -> None:
    desk.places.fails["purge"] = StoreUnavailable("remote default does not answer.")
    summary = desk.run()
    assert list(summary.problems.values()) == ["remote default does not answer."]
    assert desk.requests.receipts() == []
    (request,) = desk.requests.all(state=OPEN)
    assert request.problem == "remote default does not answer."
    desk.places.fails.clear()
    assert len(desk.run().waiting) == 1
    desk.places.train()
    assert len(desk.run().closed) == 1


def test_what_came_back_is_taken_out_again_before_anything_closes(desk: Desk) -> None:
    desk.places.trained["reading/1"] = (1, {9})
    places = desk.places

    def restored(deed: str) -> None:
        if deed == "purge":
            places.past = {"ada": 1}
            places.after = lambda _: None

    places.after = restored
    assert "still there" in next(iter(desk.run().problems.values()))
    assert desk.requests.receipts() == []
    assert len(desk.run().closed) == 1
    assert places.past == {}


def test_older_versions_left_behind_are_seen(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def lazy(expiry: Expiry, *, retired: Sequence[str]) -> list[Outcome]:
        return [done("remote default", [])]

    monkeypatch.setattr(desk.places, "purge_expired", lazy)
    assert "cache: still there" in next(iter(desk.run().problems.values()))


@pytest.mark.parametrize("deed", ["rows", "person", "forget", "remake", "purge", "train", "retire"])
def test_killed_after_any_deed_it_ends_the_same(deed: str) -> None:
    desk = Desk(retrain="automatic", delay_days=0)
    desk.places.people = {"cleo"}

    def die(done: str) -> None:
        if done == deed:
            desk.places.after = lambda _: None
            raise Killed

    desk.places.after = die
    with pytest.raises(Killed):
        desk.run()
    desk.run()
    (receipt,) = desk.receipts()
    assert desk.places.trainings == 1
    assert [each["version"] for each in receipt["models"]] == ["reading/1"]
    (source,) = [each for each in receipt["stores"] if each["store"] == "source"]
    assert "loans: 3 deleted" in source["places"]
    assert desk.places.shards == {desk.places.current}
    assert [r.state for r in desk.requests.all()] == [CLOSED]
    assert desk.requests.all()[0].encrypted is None


def test_an_erasure_under_way_keeps_it_out(tmp_path: Path) -> None:
    desk = Desk()
    desk.requests = Requests.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    with desk.requests.alone(), pytest.raises(Busy):
        desk.run()
    assert desk.places.deeds == []


def test_receipts_are_one_chain_and_a_page_says_what_it_was(desk: Desk, tmp_path: Path) -> None:
    desk.run()
    desk.places.train()
    desk.run()
    (stored,) = desk.requests.receipts()
    key = tmp_path / "key.pem"
    key.write_bytes(Signer(SEED).public_pem)
    assert check([stored.text], [read_public_key(key)]).last == 1
    page = receipt_card(facts_of(stored.text), digest=stored.hash).page()
    assert "past its declared retention; nobody had asked" in page
    assert "Somebody asked" not in page
