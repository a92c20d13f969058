"""`lethe budget`: the stage, and the looks that change nothing."""

import datetime as dt
import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lethe.cli.main import app
from lethe.config import private_reports, workspace
from lethe.config.keys import create_key_file, load_key
from lethe.config.params import load_params
from lethe.core.errors import BudgetExceeded, LedgerInvalid, NotFound
from lethe.ledger import database
from lethe.ledger.ledger import Ledger
from lethe.privacy.planning import plan_from
from lethe.stores.vault.vault import Vault
from tests.ledger.older import write_schema_1, write_schema_2
from tests.stages.test_budget import LEDGER, declared, spend, write_shards

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
PNG = b"\x89PNG\r\n\x1a\n"
KEYS = ("ann", "bob", "eve")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LETHE_KEY", raising=False)
    declared(tmp_path)
    return tmp_path


def lethe(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def looked(*words: str) -> dict[str, Any]:
    done = lethe("budget", *words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def enrol(folder: Path) -> list[int]:
    """Three people with tokens; the third was never in anything."""
    params = load_params()
    create_key_file(Path(params.stores.key_file))
    with Vault.open(params.stores.vault, load_key(params.stores, params.root)) as vault:
        return [int(token) for token in vault.tokens(KEYS)]


def test_json_says_classes_and_delta_and_changes_no_file(folder: Path) -> None:
    params = declared(folder)
    tokens = enrol(folder)
    write_shards([(7, False), (8, False), (9, True)], [(70, False), (80, False)])
    spend(params, 7, tokens[0])
    before = files(folder)
    report = looked()
    assert files(folder) == before
    assert report["delta"] == 1e-5
    assert sum(each["subjects"] for each in report["classes"]) == 5
    for each in report["classes"]:
        assert {"subjects", "epsilon_rdp", "epsilon_pld", "remaining"} <= set(each)
        assert each["remaining"] == pytest.approx(2.0 - each["epsilon_rdp"])
        assert each["epsilon_pld"] <= each["epsilon_rdp"]
    kinds = [(c["subjects"], c["runs"], c["in_next_run"]) for c in report["classes"]]
    assert sorted(kinds) == [(1, 1, False), (1, 1, True), (3, 0, True)]
    assert report["next"]["subjects"] == 4
    assert "classes.subjects" in report["not_private"]


def test_a_look_makes_no_ledger_vault_registry_or_folder(folder: Path) -> None:
    report = looked()
    assert report["classes"] == []
    assert report["next"]["epsilon_rdp"] > 0
    assert "Nobody has been charged" in lethe("budget", "--plot", "budget.png").stdout
    assert sorted(path.name for path in folder.iterdir()) == ["budget.png", "params.yaml"]


def test_one_person_is_found_by_key_and_neither_key_nor_token_is_shown(folder: Path) -> None:
    tokens = enrol(folder)
    spend(load_params(), tokens[0], 500)
    done = lethe("budget", "--subject", "ann", "--json")
    (mine,) = json.loads(done.stdout)["classes"]
    assert (mine["subjects"], mine["runs"]) == (1, 1)
    shown = done.output + lethe("budget", "--subject", "ann").output
    assert "ann" not in shown and str(tokens[0]) not in shown


def test_who_is_unknown_is_answered_as_who_was_never_charged(folder: Path) -> None:
    tokens = enrol(folder)
    spend(load_params(), tokens[0])
    write_shards([(tokens[0], False)])
    never, unknown = looked("--subject", "eve"), looked("--subject", "nobody at all")
    assert never == unknown
    assert [(c["subjects"], c["runs"]) for c in unknown["classes"]] == [(1, 0)]
    assert unknown["classes"][0]["remaining"] == 2.0


def test_a_number_that_stands_for_nobody_is_never_a_charged_one(folder: Path) -> None:
    enrol(folder)
    spend(load_params(), 0, 1, 2)
    assert looked("--subject", "nobody")["classes"][0]["runs"] == 0


def test_a_look_needs_no_vault_but_a_person_needs_the_key(folder: Path) -> None:
    done = lethe("budget", "--subject", "ann")
    assert type(done.exception).__name__ == "KeyInvalid"
    assert not (folder / ".lethe").exists()


def test_the_stage_writes_its_plan_and_shows_table_and_plot(folder: Path) -> None:
    write_shards([(7, False), (8, False), (9, True)], [(70, False), (80, False)])
    done = lethe("budget")
    assert done.exit_code == 0, done.output
    assert workspace.PLAN.exists()
    assert "The next run costs epsilon" in done.stdout
    assert "fewer than 100" in done.stdout, "the stage's words are in logs"
    picture = private_reports.REPORTS / "budget.png"
    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_mode & 0o777 == 0o600


def test_a_refused_plan_is_shown_before_it_is_refused(folder: Path) -> None:
    params = declared(folder)
    write_shards([(7, False), (8, False)], [(70, False), (80, False)])
    for request in ("one", "two", "three"):
        spend(params, 7, request=request)
    done = lethe("budget")
    assert isinstance(done.exception, BudgetExceeded)
    assert "1 person would be above the budget: the next run is refused." in done.stdout
    assert not workspace.PLAN.exists()
    assert looked()["next"]["over_budget"] == 1  # to look is no error


def test_who_would_be_left_out_is_said(folder: Path) -> None:
    params = declared(folder, over_budget="leave_out")
    write_shards([(7, False), (8, False)], [(70, False), (80, False)])
    for request in ("one", "two", "three"):
        spend(params, 7, request=request)
    done = lethe("budget")
    assert done.exit_code == 0
    assert "1 person would be above the budget: the next run leaves them out." in done.stdout


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (write_schema_1, [(5, 1), (3, 2)]),
        (write_schema_2, [(3, 1), (3, 2), (2, 2), (1, 3)]),
    ],
)
def test_a_ledger_of_an_older_schema_is_looked_at_and_left_as_it_is(
    folder: Path, write: Callable[[Path], str], found: list[tuple[int, int]]
) -> None:
    (folder / ".lethe").mkdir(exist_ok=True)
    write(folder / ".lethe" / "ledger.db")
    before = files(folder)
    assert [(c["subjects"], c["runs"]) for c in looked()["classes"]] == found
    assert files(folder) == before


def test_a_ledger_of_a_newer_schema_is_refused_by_a_look_too(folder: Path) -> None:
    spend(load_params(), 7)
    with sqlite3.connect(folder / ".lethe" / "ledger.db") as connection:
        connection.execute("INSERT INTO ledger_schema VALUES (?)", (database.SCHEMA + 1,))
    assert isinstance(lethe("budget", "--json").exception, LedgerInvalid)


def test_a_ledger_that_is_not_there_is_not_made_by_a_look(folder: Path) -> None:
    with pytest.raises(NotFound, match="nobody has been charged"):
        Ledger.open(LEDGER, create=False)
    with pytest.raises(NotFound):
        Ledger.open("sqlite://", create=False)
    assert not (folder / ".lethe").exists()


def test_a_plot_is_drawn_for_one_class_and_for_more_than_have_bars(folder: Path) -> None:
    from lethe.reports.plots import budget_plot

    one = {
        "subjects": 3,
        "runs": 1,
        "epsilon_rdp": 0.5,
        "epsilon_pld": 0.4,
        "remaining": 1.5,
        "in_next_run": True,
        "epsilon_rdp_after": 0.9,
        "epsilon_pld_after": 0.8,
    }
    report = {"classes": [one] * 20, "delta": 1e-5, "budget_epsilon": 2.0, "unit": "person"}
    assert budget_plot(report).startswith(PNG)


def test_the_next_run_of_the_look_is_the_plan_of_the_stage(folder: Path) -> None:
    plan = plan_from(load_params())
    assert looked()["next"]["noise_multiplier"] == plan.noise_multiplier


def test_people_of_the_next_run_are_not_asked_of_the_ledger_alone(folder: Path) -> None:
    write_shards([(7, False), (9, True)])
    assert [(c["subjects"], c["in_next_run"]) for c in looked()["classes"]] == [(1, True)]
    with pytest.raises(NotFound):
        Ledger.open(LEDGER, create=False)
