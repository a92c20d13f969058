"""A version waits, a named person answers, and it serves; in a real Airflow.

`lethe` itself is stood in for here: what it approves and refuses has tests of its own. It says
which version waits and writes down what it was asked to approve.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.dags.conftest import PARSED_ONCE, Airflow
from tests.dags.hook import Webhook

NEVER = "0 0 29 2 *"
LETHE = """#!/bin/sh
case "$*" in
    "approve --waiting") echo readmission/3 ;;
    "worktree publish") ;;
    "approve") echo "readmission/3: epsilon 0.9 (PLD) at delta 1e-05 per person" ;;
    "approve readmission/3 --by kim") echo "$*" >> "$LETHE_HOME/approved" ;;
    "erase step erase_source")
        echo "lethe: error: The remote of ada@example.org does not answer." >&2; exit 36 ;;
    "erase step "*) echo "$3" >> "$LETHE_HOME/steps" ;;
    *) exit 2 ;;
esac
"""


@dataclass
class Asked:
    """What came of one sweep whose erasure fails, one version that waits, and two answers."""

    airflow: Airflow
    heard: list[dict[str, str]] = field(default_factory=list)
    refused: int = 0
    shown: dict[str, Any] = field(default_factory=dict)
    early: bool = False


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("approval")
    home, tools = folder / "workspace", folder / "bin"
    (home / "dags").mkdir(parents=True)
    tools.mkdir()
    pipeline = json.loads((PROJECT / "dags" / "pipeline.json").read_text()) | {"approvers": ["kim"]}
    (home / "dags" / "pipeline.json").write_text(json.dumps(pipeline))
    (tools / "lethe").write_text(LETHE)
    (tools / "lethe").chmod(0o700)
    heard: list[dict[str, str]] = []
    with Webhook(heard) as address:
        airflow = Airflow(
            folder / "airflow",
            home,
            LETHE_BIN=str(tools),
            LETHE_SWEEP=NEVER,  # the older name of LETHE_POLL
            LETHE_TRAIN_SCHEDULE="",
            LETHE_RETAIN_SCHEDULE="",
            LETHE_DEEP_AUDIT_SCHEDULE="",
            LETHE_NOTIFY_WEBHOOK=address,
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS="kim:op,eve:admin",
            **PARSED_ONCE,
        )
        made = Asked(airflow, heard)
        airflow.start()
        try:
            _answered(airflow, made)
        finally:
            airflow.stop()
    yield made


def _answered(airflow: Airflow, made: Asked) -> None:
    airflow.wait("somebody can log in", lambda: _token(airflow, "kim"))
    airflow.trigger("erase")
    airflow.wait("the version waits", lambda: _waiting(airflow))
    made.shown = _call(airflow, "kim", "GET", f"{_RUN}/hitlDetails")
    made.early = (airflow.folder.parent / "workspace" / "approved").exists()
    try:
        _call(airflow, "eve", "PATCH", f"{_RUN}/hitlDetails", {"chosen_options": ["Approve"]})
    except urllib.error.HTTPError as error:
        made.refused = error.code
    _call(airflow, "kim", "PATCH", f"{_RUN}/hitlDetails", {"chosen_options": ["Approve"]})
    airflow.wait("it serves", lambda: _state(airflow, "approve"))
    airflow.wait("the sweep has failed", lambda: _state(airflow, "erase"))
    airflow.wait("that is reported", lambda: made.heard)


_RUN = "dags/approve/dagRuns/readmission-3/taskInstances/approve/-1"


def _waiting(airflow: Airflow) -> bool:
    """It waits, and the scheduler has taken note: an answer before that is lost (Airflow 3.3)."""
    noted = (
        "Received executor event with state success for task instance "
        "TaskInstanceKey(dag_id='approve', task_id='approve'"
    )
    waits = airflow.tasks("approve").get("approve") == "awaiting_input"
    return waits and noted in (airflow.folder / "scheduler.log").read_text(errors="replace")


def _state(airflow: Airflow, dag: str) -> str | None:
    states = [state for _, _, state in airflow.runs(dag)]
    return states[0] if states and states[0] in ("success", "failed") else None


def _token(airflow: Airflow, user: str) -> str | None:
    """A login as the page does it; None until Airflow answers."""
    passwords = airflow.folder / "simple_auth_manager_passwords.json.generated"
    if not passwords.exists():
        return None
    words = {"username": user, "password": json.loads(passwords.read_text())[user]}
    port = airflow.environment["AIRFLOW_PORT"]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/auth/token",
        data=json.dumps(words).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return str(json.load(answer)["access_token"])
    except urllib.error.URLError:
        return None


def _call(
    airflow: Airflow, user: str, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    port = airflow.environment["AIRFLOW_PORT"]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v2/{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Bearer {_token(airflow, user)}",
        },
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_the_approvers_see_what_the_version_costs(asked: Asked) -> None:
    assert asked.shown["subject"] == "Shall readmission/3 serve?"
    assert asked.shown["body"] == "readmission/3: epsilon 0.9 (PLD) at delta 1e-05 per person"
    assert [user["id"] for user in asked.shown["assigned_users"]] == ["kim"]


def test_nobody_but_an_approver_can_answer(asked: Asked) -> None:
    assert asked.refused == 403


def test_it_serves_once_the_approver_says_so_in_their_name(asked: Asked) -> None:
    assert not asked.early, "nothing was approved before"
    approved = Path(asked.airflow.environment["LETHE_HOME"]) / "approved"
    assert approved.read_text() == "approve readmission/3 --by kim\n"
    assert asked.airflow.runs("approve") == [("readmission-3", "operator_triggered", "success")]


def test_a_failed_erasure_is_reported_by_its_place_alone(asked: Asked) -> None:
    assert [state for _, _, state in asked.airflow.runs("erase")] == ["failed"]
    assert len(asked.heard) == 1, asked.heard
    said = asked.heard[0]
    assert said["text"].startswith("Lethe: erase.erase_source failed, attempt 1 of run manual__")
    assert "ada@example.org" not in said["text"]


def test_a_step_that_fails_holds_up_none_after_it(asked: Asked) -> None:
    steps = Path(asked.airflow.environment["LETHE_HOME"]) / "steps"
    assert steps.read_text().split() == [
        *("collect", "suppress", "erase_history", "retrain"),
        *("retrain", "retire", "verify", "receipt"),
    ]
    tasks = asked.airflow.tasks("erase")
    assert {name for name, state in tasks.items() if state != "success"} == {"erase_source", "done"}
