"""Many processes at one ledger, and processes that are killed at it."""

import datetime as dt
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap

from lethe.config.sections import Budget
from lethe.core.errors import BudgetExceeded, LetheError
from lethe.ledger import ledger as ledger_module
from lethe.ledger.ledger import Ledger
from lethe.privacy.accounting import epsilon_rdp
from tests.plans import CHARGED as PLAN
from tests.postgres import postgres_server, postgres_urls  # noqa: F401

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
FIVE = epsilon_rdp([PLAN.event] * 5, 1e-5)
SIX = epsilon_rdp([PLAN.event] * 6, 1e-5)
PEOPLE = BitMap(range(0, 3000, 3))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    fresh: Callable[[], str] = request.getfixturevalue("postgres_urls")
    return fresh()


def _ask(url: str, budget: Budget, request: str, ready: Any, go: Any, answers: Any) -> None:
    ready.release()
    go.wait()
    try:
        with Ledger.open(url) as ledger:
            reserved = ledger.reserve(PLAN.release(PEOPLE), budget=budget, request=request, now=NOW)
        answers.put(("reserved", len(reserved.admitted)))
    except BudgetExceeded:
        answers.put(("refused", 0))
    except LetheError as error:
        answers.put((repr(error), 0))


def ask_all_at_once(url: str, budget: Budget, requests: list[str]) -> list[tuple[str, int]]:
    """Every request from a process of its own, none before all are ready."""
    context = multiprocessing.get_context("fork")
    ready, go, answers = context.Semaphore(0), context.Event(), context.SimpleQueue()
    processes = [
        context.Process(target=_ask, args=(url, budget, request, ready, go, answers))
        for request in requests
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    go.set()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return found


@pytest.mark.parametrize("existing", [True, False], ids=["opened before", "not there yet"])
def test_of_sixteen_at_once_exactly_five_get_a_budget_for_five(url: str, existing: bool) -> None:
    budget = Budget(epsilon=(FIVE + SIX) / 2, delta=1e-5)
    if existing:
        Ledger.open(url).close()
    found = ask_all_at_once(url, budget, [f"request {n}" for n in range(16)])

    assert sorted(answer for answer, _ in found) == ["refused"] * 11 + ["reserved"] * 5
    with Ledger.open(url) as ledger:
        (everybody,) = ledger.classes(delta=1e-5)
        assert everybody.members == PEOPLE
        assert len(everybody.run_ids) == 5
        assert everybody.epsilon_rdp <= budget.epsilon
        assert ledger.head()[0] == 5


def test_of_sixteen_at_once_each_leaves_out_whoever_is_spent(url: str) -> None:
    budget = Budget(epsilon=(FIVE + SIX) / 2, delta=1e-5, over_budget="leave_out")
    with Ledger.open(url) as ledger:  # some have been in three runs before
        for n in range(3):
            ledger.reserve(
                PLAN.release(BitMap([0, 3, 6])), budget=budget, request=f"old {n}", now=NOW
            )
    found = ask_all_at_once(url, budget, [f"request {n}" for n in range(16)])

    counts = sorted(count for answer, count in found if answer == "reserved")
    assert counts == [len(PEOPLE) - 3] * 3 + [len(PEOPLE)] * 2
    with Ledger.open(url) as ledger:
        assert all(each.epsilon_rdp <= budget.epsilon for each in ledger.classes(delta=1e-5))


def test_one_request_asked_by_many_at_once_is_charged_once(url: str) -> None:
    budget = Budget(epsilon=100.0, delta=1e-5)
    found = ask_all_at_once(url, budget, ["the same request"] * 8)
    assert [answer for answer, _ in found].count("reserved") >= 1
    # The others met a process that was alive (busy), or had just ended (taken over).
    assert all(answer == "reserved" or answer.startswith("Busy") for answer, _ in found)
    with Ledger.open(url) as ledger:
        assert len(ledger.runs()) == 1


def _die_before_commit(url: str, budget: Budget) -> None:
    original = ledger_module.append

    def append_and_die(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    ledger_module.append = append_and_die  # type: ignore[assignment]
    Ledger.open(url).reserve(PLAN.release(PEOPLE), budget=budget, request="a", now=NOW)


def _die_after_commit(url: str, budget: Budget) -> None:
    Ledger.open(url).reserve(PLAN.release(PEOPLE), budget=budget, request="a", now=NOW)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("die", [_die_before_commit, _die_after_commit])
def test_process_killed_while_reserving_is_charged_once_in_the_end(
    url: str, die: Callable[[str, Budget], None]
) -> None:
    budget = Budget(epsilon=2.0, delta=1e-5)
    Ledger.open(url).close()
    process = multiprocessing.get_context("fork").Process(target=die, args=(url, budget))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL

    with Ledger.open(url) as ledger:
        deadline = time.monotonic() + 300  # PostgreSQL notices the lost connection by itself
        assert len(ledger.runs()) == (1 if die is _die_after_commit else 0)
        reserved = ledger.reserve(PLAN.release(PEOPLE), budget=budget, request="a", now=NOW)
        assert time.monotonic() < deadline
        assert reserved.resumed is (die is _die_after_commit)
        assert len(ledger.runs()) == 1
        (everybody,) = ledger.classes(delta=1e-5)
        assert everybody.epsilon_rdp == epsilon_rdp([PLAN.event], 1e-5)
        ledger.settle(reserved.run_id)
