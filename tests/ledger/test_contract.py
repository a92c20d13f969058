"""What every ledger promises, on SQLite and on a real PostgreSQL server."""

import datetime as dt
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dp_accounting as dp
import pytest
import sqlalchemy as sa
from pyroaring import BitMap

from lethe.config.sections import Budget
from lethe.core.errors import (
    BudgetExceeded,
    Busy,
    LedgerInvalid,
    NotFound,
    ParamsInvalid,
    SourceUnavailable,
    TooFewSubjects,
)
from lethe.ledger.ledger import Ledger
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.privacy.plan import Plan
from lethe.privacy.release import Release
from tests.plans import CHARGED as PLAN
from tests.postgres import postgres_server, postgres_urls  # noqa: F401

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
REFUSE = Budget(epsilon=2.0, delta=1e-5)  # three runs of PLAN come to 1.98, four to 2.32
LEAVE_OUT = Budget(epsilon=2.0, delta=1e-5, over_budget="leave_out")
CHEAP = Plan(**{**PLAN.to_data(), "noise_multiplier": 60.0})


def statistic(*tokens: int) -> Release:
    """A count with Laplace noise: another thing to be charged for."""
    return Release(
        event=dp.LaplaceDpEvent(2.0),
        unit="person",
        adjacency="add or remove one person",
        sampling="everybody, without sampling",
        mechanism="laplace-count",
        digest="5" * 64,
        delta=1e-6,
        records_per_person=1,
        subjects=BitMap(tokens),
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    fresh: Callable[[], str] = request.getfixturevalue("postgres_urls")
    return fresh()


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger.open(url)


def spend(
    ledger: Ledger, request: str, *tokens: int, budget: Budget = REFUSE, plan: Plan = PLAN
) -> str:
    return ledger.reserve(
        plan.release(BitMap(tokens)), budget=budget, request=request, now=NOW
    ).run_id


def spent(ledger: Ledger, token: int) -> float:
    (found,) = ledger.classes(BitMap([token]), delta=1e-5)
    return found.epsilon_rdp


# --- reserving


def test_reservation_is_charged_at_once_to_everybody_eligible(ledger: Ledger) -> None:
    reserved = ledger.reserve(PLAN.release(BitMap([1, 2])), budget=REFUSE, request="a", now=NOW)
    assert reserved.admitted == BitMap([1, 2])
    assert (reserved.left_out, reserved.resumed, reserved.state) == (0, False, "reserved")
    assert spent(ledger, 1) == spent(ledger, 2) == epsilon_rdp([PLAN.event], 1e-5)
    assert spent(ledger, 3) == 0.0


def test_record_says_what_was_charged(ledger: Ledger) -> None:
    record = ledger.run(spend(ledger, "a", 1, 2))
    assert record.event == PLAN.event
    assert record.plan_digest == PLAN.digest
    assert (record.state, record.request, record.reserved_at) == ("reserved", "a", NOW.isoformat())
    assert (record.unit, record.adjacency) == ("person", "add or remove one person")
    assert (record.sampling, record.mechanism) == ("Poisson over persons", "dp-sgd")
    assert (record.records_per_person, record.delta, record.subjects) == (4, 1e-5, 2)
    assert record.eligible == BitMap([1, 2])
    assert len(record.code_digest) == len(record.params_digest) == 64
    assert record.owner.pid == os.getpid()


def test_facts_of_a_charge_are_those_of_what_was_released(ledger: Ledger) -> None:
    """Nothing of one mechanism is the ledger's own: a count is not recorded as a training."""
    release = statistic(1, 2)
    record = ledger.run(ledger.reserve(release, budget=REFUSE, request="b", now=NOW).run_id)
    assert record.event == release.event
    assert (record.sampling, record.mechanism) == ("everybody, without sampling", "laplace-count")
    assert (record.unit, record.adjacency) == ("person", "add or remove one person")
    assert (record.plan_digest, record.delta, record.records_per_person) == ("5" * 64, 1e-6, 1)
    assert ledger.run(spend(ledger, "a", 1)).sampling == "Poisson over persons"


def test_run_ids_reveal_nothing(ledger: Ledger) -> None:
    first, second = spend(ledger, "a", 1), spend(ledger, "b", 2)
    assert first != second
    assert len(first) == 32


def test_settled_run_stays_charged(ledger: Ledger) -> None:
    run_id = spend(ledger, "a", 1)
    ledger.settle(run_id)
    ledger.settle(run_id)
    assert ledger.run(run_id).state == "settled"
    assert spent(ledger, 1) == epsilon_rdp([PLAN.event], 1e-5)


def test_different_events_compose(ledger: Ledger) -> None:
    spend(ledger, "a", 1)
    ledger.reserve(statistic(1), budget=REFUSE, request="b", now=NOW)
    (found,) = ledger.classes(delta=1e-5)
    assert found.events == (PLAN.event, statistic(1).event)
    assert found.epsilon_rdp == pytest.approx(epsilon_rdp(found.events, 1e-5))
    assert found.epsilon_pld == epsilon_pld(found.events, 1e-5)


def test_run_that_would_exceed_somebodys_budget_is_refused_and_charges_nobody(
    ledger: Ledger,
) -> None:
    for request in ("a", "b", "c"):
        spend(ledger, request, 1)
    head = ledger.head()
    with pytest.raises(BudgetExceeded) as refused:
        spend(ledger, "d", 1, 2, 3)
    assert str(refused.value) == (
        "Run needs epsilon=1.09; fewer than 100 subjects have 0.02 left at delta=1e-05 and would "
        "be at 2.32 of 2.00 (RDP). Lower steps, raise noise_multiplier, or leave them out."
    )
    assert ledger.head() == head
    assert spent(ledger, 2) == 0.0


def test_people_over_budget_are_left_out_and_not_charged(ledger: Ledger) -> None:
    for request in ("a", "b", "c"):
        spend(ledger, request, 1)
    before = spent(ledger, 1)
    reserved = ledger.reserve(
        PLAN.release(BitMap([1, 2, 3])), budget=LEAVE_OUT, request="d", now=NOW
    )
    assert reserved.admitted == BitMap([2, 3])
    assert reserved.left_out == 1
    assert spent(ledger, 1) == before
    assert spent(ledger, 2) > 0
    record = ledger.run(reserved.run_id)
    assert (record.eligible, record.subjects, record.left_out) == (BitMap([2, 3]), 2, 1)


def test_run_that_would_leave_out_everybody_is_refused(ledger: Ledger) -> None:
    for request in ("a", "b", "c"):
        spend(ledger, request, 1, 2)
    with pytest.raises(BudgetExceeded, match="fewer than 100 subjects"):
        spend(ledger, "d", 1, 2, budget=LEAVE_OUT)


def test_who_was_left_out_of_one_run_may_be_in_a_cheaper_one(ledger: Ledger) -> None:
    for request in ("a", "b", "c"):
        spend(ledger, request, 1)
    reserved = ledger.reserve(CHEAP.release(BitMap([1, 2])), budget=LEAVE_OUT, request="d", now=NOW)
    assert reserved.admitted == BitMap([1, 2])


def test_run_for_nobody_is_refused(ledger: Ledger) -> None:
    with pytest.raises(TooFewSubjects):
        spend(ledger, "a")


def test_budget_is_held_at_its_own_delta(ledger: Ledger) -> None:
    stricter = Budget(epsilon=1.1, delta=1e-9)
    assert epsilon_rdp([PLAN.event], 1e-5) < 1.1 < epsilon_rdp([PLAN.event], 1e-9)
    with pytest.raises(BudgetExceeded, match="delta=1e-09"):
        spend(ledger, "a", 1, budget=stricter)


# --- the same request again


def test_same_request_is_not_charged_twice(ledger: Ledger) -> None:
    first = ledger.reserve(PLAN.release(BitMap([1])), budget=REFUSE, request="a", now=NOW)
    again = ledger.reserve(PLAN.release(BitMap([1])), budget=REFUSE, request="a", now=NOW)
    assert (again.run_id, again.resumed, again.state) == (first.run_id, True, "reserved")
    assert again.admitted == first.admitted
    assert spent(ledger, 1) == epsilon_rdp([PLAN.event], 1e-5)


def test_same_request_of_a_settled_run_says_that_it_is_settled(ledger: Ledger) -> None:
    run_id = spend(ledger, "a", 1)
    ledger.settle(run_id)
    again = ledger.reserve(PLAN.release(BitMap([1])), budget=REFUSE, request="a", now=NOW)
    assert (again.run_id, again.resumed, again.state) == (run_id, True, "settled")
    assert len(ledger.runs()) == 1


def test_same_request_after_it_was_voided_is_a_new_charge(ledger: Ledger) -> None:
    run_id = spend(ledger, "a", 1)
    ledger.void(run_id, "stopped by hand")
    again = ledger.reserve(PLAN.release(BitMap([1])), budget=REFUSE, request="a", now=NOW)
    assert again.run_id != run_id
    assert not again.resumed


def test_same_request_for_another_plan_is_refused(ledger: Ledger) -> None:
    spend(ledger, "a", 1)
    with pytest.raises(LedgerInvalid, match="another plan"):
        spend(ledger, "a", 1, plan=CHEAP)


def _in_child(url: str, action: str, pipe: object) -> None:
    try:
        with Ledger.open(url) as ledger:
            if action == "reserve":
                found: object = ledger.reserve(
                    PLAN.release(BitMap([1])), budget=REFUSE, request="a", now=NOW
                ).run_id
            else:
                ledger.settle(action)
                found = "settled"
    except (Busy, LedgerInvalid) as error:
        found = f"{type(error).__name__}: {error}"
    pipe.send(found)  # type: ignore[attr-defined]
    pipe.recv()  # type: ignore[attr-defined]


@dataclass
class Child:
    """Another process that does one thing to the ledger and then stays until it is ended."""

    url: str
    action: str

    def __post_init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_in_child, args=(self.url, self.action, theirs))
        self._process.start()
        self.answer = self._pipe.recv()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def test_request_of_a_living_process_is_busy(ledger: Ledger, url: str) -> None:
    child = Child(url, "reserve")
    with pytest.raises(Busy, match="still runs"):
        spend(ledger, "a", 1)
    with pytest.raises(LedgerInvalid, match="another process"):
        ledger.settle(child.answer)
    with pytest.raises(Busy):
        ledger.void(child.answer, "impatient")
    child.kill()


def test_request_of_a_killed_process_is_taken_over_and_not_charged_again(
    ledger: Ledger, url: str
) -> None:
    child = Child(url, "reserve")
    child.kill()
    again = ledger.reserve(PLAN.release(BitMap([1])), budget=REFUSE, request="a", now=NOW)
    assert (again.run_id, again.resumed) == (child.answer, True)
    assert spent(ledger, 1) == epsilon_rdp([PLAN.event], 1e-5)
    ledger.settle(again.run_id)
    assert ledger.run(again.run_id).state == "settled"


def test_only_who_holds_a_run_may_release_it(ledger: Ledger, url: str) -> None:
    run_id = spend(ledger, "a", 1)
    child = Child(url, run_id)
    assert "held by another process" in child.answer
    child.kill()
    ledger.settle(run_id)
    child = Child(url, run_id)
    assert "held by another process" in child.answer
    child.kill()


# --- void


def test_void_run_is_not_charged_and_keeps_its_reason(ledger: Ledger) -> None:
    run_id = spend(ledger, "a", 1)
    ledger.void(run_id, " the machine lost power ")
    assert spent(ledger, 1) == 0.0
    assert ledger.classes() == []
    record = ledger.run(run_id)
    assert (record.state, record.reason) == ("void", "the machine lost power")


def test_void_run_can_no_longer_be_released(ledger: Ledger) -> None:
    run_id = spend(ledger, "a", 1)
    ledger.void(run_id, "stopped by hand")
    with pytest.raises(LedgerInvalid, match="void"):
        ledger.settle(run_id)


@pytest.mark.parametrize("released", ["settled", "void"])
def test_only_a_reservation_can_be_voided(ledger: Ledger, released: str) -> None:
    run_id = spend(ledger, "a", 1)
    ledger.settle(run_id) if released == "settled" else ledger.void(run_id, "before")
    with pytest.raises(LedgerInvalid, match=released):
        ledger.void(run_id, "again")
    assert spent(ledger, 1) == (epsilon_rdp([PLAN.event], 1e-5) if released == "settled" else 0.0)


@pytest.mark.parametrize("reason", ["", "  "])
def test_void_needs_a_reason(ledger: Ledger, reason: str) -> None:
    run_id = spend(ledger, "a", 1)
    with pytest.raises(ParamsInvalid, match="reason"):
        ledger.void(run_id, reason)
    assert ledger.run(run_id).state == "reserved"


def test_unknown_run_is_not_found(ledger: Ledger) -> None:
    for ask in (ledger.run, ledger.settle, lambda run_id: ledger.void(run_id, "reason")):
        with pytest.raises(NotFound, match="nonsense"):
            ask("nonsense")


# --- what is reported


def test_price_is_before_and_after_by_class(ledger: Ledger) -> None:
    spend(ledger, "a", 1)
    first, second = ledger.price(PLAN.release(BitMap([1, 2, 3])), REFUSE)
    once, twice = epsilon_rdp([PLAN.event], 1e-5), epsilon_rdp([PLAN.event] * 2, 1e-5)
    assert (first.subjects, first.runs, second.subjects, second.runs) == (2, 0, 1, 1)
    assert (first.epsilon_rdp_before, first.epsilon_rdp_after) == (0.0, pytest.approx(once))
    assert (second.epsilon_rdp_before, second.epsilon_rdp_after) == (
        pytest.approx(once),
        pytest.approx(twice),
    )
    assert second.epsilon_pld_after == epsilon_pld([PLAN.event] * 2, 1e-5)
    assert (first.remaining, second.remaining) == (2.0, pytest.approx(2.0 - once))
    assert ledger.head()[0] == 1


def test_classes_are_at_the_smallest_delta_of_any_run_unless_given(ledger: Ledger) -> None:
    spend(ledger, "a", 1)
    spend(ledger, "b", 2, plan=Plan(**{**CHEAP.to_data(), "delta": 1e-7}))
    assert {c.delta for c in ledger.classes()} == {1e-7}
    assert {c.delta for c in ledger.classes(delta=1e-6)} == {1e-6}


def test_head_grows_with_every_entry_and_covers_all_before(ledger: Ledger) -> None:
    assert ledger.head() == (0, "0" * 64)
    run_id = spend(ledger, "a", 1)
    first = ledger.head()
    ledger.settle(run_id)
    second = ledger.head()
    assert (first[0], second[0]) == (1, 2)
    assert first[1] != second[1]
    ledger.check_contains_all([(run_id, *first)])
    ledger.check_contains_all([(run_id, *second)])


@pytest.mark.parametrize(("rows", "chain"), [(2, None), (1, "f" * 64), (0, "0" * 64)])
def test_ledger_without_what_a_model_recorded_is_refused(
    ledger: Ledger, rows: int, chain: str | None
) -> None:
    run_id = spend(ledger, "a", 1)
    with pytest.raises(LedgerInvalid, match="rolled back or replaced"):
        ledger.check_contains_all([(run_id, rows, chain or ledger.head()[1])])
    with pytest.raises(LedgerInvalid, match="nonsense"):
        ledger.check_contains_all([("nonsense", *ledger.head())])


def test_everything_is_there_when_it_is_opened_again(ledger: Ledger, url: str) -> None:
    run_id = spend(ledger, "a", 1, 2)
    ledger.settle(run_id)
    head = ledger.head()
    ledger.close()
    with Ledger.open(url) as again:
        assert again.head() == head
        assert again.run(run_id).eligible == BitMap([1, 2])
        assert spent(again, 2) == epsilon_rdp([PLAN.event], 1e-5)


# --- erased people


def test_erased_person_who_returns_does_not_start_from_zero(ledger: Ledger) -> None:
    for request in ("a", "b", "c"):
        spend(ledger, request, 1, 2)
    ledger.remember(b"keyed hash of a person", 1)
    assert ledger.carry_over(b"keyed hash of a person", 77) == 3
    assert spent(ledger, 77) == spent(ledger, 1)
    with pytest.raises(BudgetExceeded):
        spend(ledger, "d", 77)
    assert ledger.reserve(
        PLAN.release(BitMap([77, 78])), budget=LEAVE_OUT, request="d", now=NOW
    ).admitted == BitMap([78])


def test_carrying_over_twice_charges_once(ledger: Ledger) -> None:
    spend(ledger, "a", 1)
    ledger.remember(b"entry", 1)
    ledger.carry_over(b"entry", 77)
    assert ledger.carry_over(b"entry", 77) == 0
    assert spent(ledger, 77) == epsilon_rdp([PLAN.event], 1e-5)


def test_person_erased_twice_keeps_both_lives(ledger: Ledger) -> None:
    spend(ledger, "a", 1)
    ledger.remember(b"entry", 1)
    ledger.carry_over(b"entry", 2)
    spend(ledger, "b", 2)
    ledger.remember(b"entry", 2)
    ledger.carry_over(b"entry", 3)
    assert spent(ledger, 3) == pytest.approx(epsilon_rdp([PLAN.event] * 2, 1e-5))


def test_unknown_person_carries_nothing(ledger: Ledger) -> None:
    spend(ledger, "a", 1)
    ledger.remember(b"never spent", 5)
    assert ledger.carry_over(b"never spent", 77) == 0
    assert ledger.carry_over(b"never seen", 77) == 0
    assert ledger.head()[0] == 1


def test_voided_run_is_not_carried_over(ledger: Ledger) -> None:
    run_id = spend(ledger, "a", 1)
    ledger.remember(b"entry", 1)
    ledger.carry_over(b"entry", 77)
    ledger.void(run_id, "nothing was released")
    assert spent(ledger, 77) == 0.0


def test_what_is_remembered_does_not_lead_back_to_a_token(ledger: Ledger, url: str) -> None:
    spend(ledger, "a", 123_456, 2)
    ledger.remember(b"entry", 123_456)
    with sa.create_engine(url, hide_parameters=True, poolclass=sa.NullPool).connect() as connection:
        rows = connection.execute(sa.text("SELECT * FROM ledger_carried")).all()
    assert "123456" not in str(rows)
    assert rows[0].token is None


# --- the database


@pytest.mark.parametrize("table", ["ledger_entries", "ledger_spends", "ledger_carried"])
@pytest.mark.parametrize("verb", ["UPDATE {} SET {}", "DELETE FROM {}"])
def test_rows_cannot_be_changed_or_removed(ledger: Ledger, url: str, table: str, verb: str) -> None:
    spend(ledger, "a", 1)
    ledger.remember(b"entry", 1)
    same = {"ledger_entries": "pid = 1", "ledger_spends": "delta = 1", "ledger_carried": "runs=''"}
    engine = sa.create_engine(url, hide_parameters=True, poolclass=sa.NullPool)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(sa.text(verb.format(table, same[table])))
    ledger.check_contains_all([(ledger.runs()[0].run_id, *ledger.head())])


def test_postgres_table_cannot_be_emptied(
    postgres_urls: Callable[[], str],  # noqa: F811
) -> None:
    url = postgres_urls()
    spend(Ledger.open(url), "a", 1)
    engine = sa.create_engine(url, hide_parameters=True, poolclass=sa.NullPool)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(sa.text("TRUNCATE ledger_entries"))


def test_server_that_does_not_answer_is_said_so_without_its_password() -> None:
    with pytest.raises(SourceUnavailable, match="is not there") as refused:
        Ledger.open("postgresql://lethe:geheim@127.0.0.1:1/ledger")
    assert "geheim" not in str(refused.value)
