"""What `lethe budget` says: spent, left, and what the next run would cost."""

import datetime as dt
import json
from pathlib import Path

import pytest
from pyroaring import BitMap

from lethe.config.sections import Budget
from lethe.ledger.ledger import Ledger
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.registration.spending import budget_report, render_budget
from tests.plans import CHARGED as PLAN

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
BUDGET = Budget(epsilon=2.0, delta=1e-5)
ONCE, TWICE = (epsilon_rdp([PLAN.event] * n, 1e-5) for n in (1, 2))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    opened = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    opened.reserve(PLAN.release(BitMap([1, 2, 3])), budget=BUDGET, request="a", now=NOW)
    opened.reserve(PLAN.release(BitMap([3])), budget=BUDGET, request="b", now=NOW)
    return opened


def test_classes_say_what_is_spent_and_left(ledger: Ledger) -> None:
    report = budget_report(ledger, BUDGET)
    assert report["classes"] == [
        {
            "subjects": 2,
            "runs": 1,
            "epsilon_rdp": pytest.approx(ONCE),
            "epsilon_pld": epsilon_pld([PLAN.event], 1e-5),
            "remaining": pytest.approx(2.0 - ONCE),
        },
        {
            "subjects": 1,
            "runs": 2,
            "epsilon_rdp": pytest.approx(TWICE),
            "epsilon_pld": epsilon_pld([PLAN.event] * 2, 1e-5),
            "remaining": pytest.approx(2.0 - TWICE),
        },
    ]
    assert (report["delta"], report["budget_epsilon"], report["unit"]) == (1e-5, 2.0, "person")
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_next_run_is_priced_for_everybody_it_would_draw_from(ledger: Ledger) -> None:
    report = budget_report(ledger, BUDGET, people=BitMap([2, 3, 4, 5]), plan=PLAN)
    assert [(c["subjects"], c["runs"]) for c in report["classes"]] == [(2, 0), (1, 1), (1, 2)]
    assert report["classes"][1]["epsilon_rdp_after"] == pytest.approx(TWICE)
    assert report["next"]["epsilon_rdp"] == ONCE


def test_one_person_is_a_class_of_one(ledger: Ledger) -> None:
    (mine,) = budget_report(ledger, BUDGET, people=BitMap([3]))["classes"]
    assert (mine["subjects"], mine["runs"]) == (1, 2)
    (stranger,) = budget_report(ledger, BUDGET, people=BitMap([99]))["classes"]
    assert (stranger["runs"], stranger["epsilon_rdp"], stranger["remaining"]) == (0, 0.0, 2.0)


def test_table_shows_every_class_and_who_would_be_over(ledger: Ledger) -> None:
    tight = Budget(epsilon=1.7, delta=1e-5)
    text = render_budget(budget_report(ledger, tight, people=BitMap([1, 2, 3, 4]), plan=PLAN))
    lines = text.splitlines()
    assert "epsilon 1.7 at delta 1e-05 per person" in lines[0]
    assert "1.092 (RDP), 0.998 (PLD)" in lines[1]
    rows = [line.split() for line in lines[4:7]]
    assert [row[:2] for row in rows] == [["2", "1"], ["1", "0"], ["1", "2"]]
    assert [row[-1] == "over" for row in rows] == [False, False, True]
    assert lines[-1] == "1 person would be above the budget: the next run is refused."
    assert "█" in text and "▒" in text and "·" in text


def test_many_classes_end_in_one_line(ledger: Ledger) -> None:
    report = budget_report(ledger, BUDGET)
    report["classes"] = report["classes"] * 15
    assert render_budget(report).splitlines()[-1].startswith("and 15 people in 10 more classes")


def test_empty_ledger_says_so(tmp_path: Path) -> None:
    with Ledger.open(f"sqlite:///{tmp_path}/other.db") as ledger:
        report = budget_report(ledger, BUDGET)
    assert report["classes"] == []
    assert "Nobody has been charged" in render_budget(report)
