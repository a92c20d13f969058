"""The DAG files as Airflow loads them: they parse, say what to do at night, and are light."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lethe.rights.erasure_steps import STEPS
from lethe.stages import STAGES
from tests.conftest import PROJECT
from tests.dags.conftest import Airflow

RUN = "{{ run_name(dag.dag_id, run_id) }}"
FOR_IT = "{{ run_for(dag.dag_id, run_id) }}"
BEFORE = ["collect", "suppress", "erase_source", "erase_history"]
RETRAIN = ["retrain.needed", "retrain.start", "retrain.wait", "retrain.take"]
AFTER = ["retire", "verify", "receipt"]
NO_COMMAND = ("done", "retrain.start", "retrain.wait")


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("airflow")
    airflow = Airflow(folder, folder / "workspace", LETHE_BIN="/opt/lethe/bin")
    said = airflow.run("python", str(Path(__file__).parent / "look.py"))
    found: dict[str, Any] = json.loads(said.partition("LOOK")[2])
    return found


@pytest.fixture(scope="module")
def train(looked: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = looked["dags"]["train"]
    return found


@pytest.fixture(scope="module")
def erase(looked: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = looked["dags"]["erase"]
    return found


def test_the_files_parse_and_nothing_else_is_taken_for_a_dag(looked: dict[str, Any]) -> None:
    assert looked["errors"] == {}
    assert sorted(looked["dags"]) == ["deep_audit", "erase", "retain", "train"]


def test_parsing_imports_neither_the_pipeline_nor_what_is_heavy(looked: dict[str, Any]) -> None:
    assert looked["heavy"] == []


def test_train_has_the_stages_of_the_pipeline_between_opening_and_closing_a_run(
    train: dict[str, Any],
) -> None:
    assert list(train["tasks"]) == ["open", *STAGES, "publish", "close", "done"]
    for stage in STAGES:
        command = train["tasks"][stage]["command"]
        assert command.endswith(f"exec dvc repro --single-item {stage}")
        assert f"lethe worktree wait '{RUN}'" in command
        assert 'cd "$worktree" && export PYTHONPATH="$worktree/pipeline:$worktree"' in command, (
            "its own code runs"
        )
    for name in ("open", "publish", "close"):
        assert train["tasks"][name]["command"].endswith(f"exec lethe worktree {name} '{RUN}'")


def test_no_stage_can_run_before_one_whose_outcome_it_must_know(train: dict[str, Any]) -> None:
    before = {name: task["before"] for name, task in train["tasks"].items()}
    for earlier, later in pairwise(["open", *STAGES, "publish"]):
        assert earlier in before[later], f"{later} before {earlier}"
    assert {"open", *STAGES} <= set(before["publish"])


def test_what_has_subject_keys_is_removed_however_a_run_ends(train: dict[str, Any]) -> None:
    """`close` waits for no task's success: it is no teardown of one that must have worked."""
    close = train["tasks"]["close"]
    assert close["teardown"]
    assert close["before"] == sorted(["open", "publish", *STAGES])
    assert not any(task["setup"] for task in train["tasks"].values())
    assert close["retries"] > 0


def test_a_runs_name_says_nothing(looked: dict[str, Any]) -> None:
    named = looked["named"]
    assert len(set(named.values())) == len(named)
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in named.values())
    asked, name = looked["asked for"]
    assert asked == name, "a run that an erasure asks for has the name by which it asks"
    assert re.fullmatch("erase-[0-9a-f]{16}", name)


def test_another_way_to_execute_is_refused_by_its_name(tmp_path: Path) -> None:
    airflow = Airflow(tmp_path, tmp_path / "workspace", LETHE_EXECUTION="cloud")
    said = airflow.run("python", str(Path(__file__).parent / "look.py"))
    errors = json.loads(said.partition("LOOK")[2])["errors"]
    assert {Path(path).name for path in errors} == {
        *("deep_audit.py", "erase.py", "retain.py", "train.py")
    }
    assert "LETHE_EXECUTION is machine or pods, not 'cloud'" in next(iter(errors.values()))


def test_pools_and_retries_are_those_of_meta_and_every_pool_is_made(
    train: dict[str, Any],
) -> None:
    pipeline = json.loads((PROJECT / "dags" / "pipeline.json").read_text())
    pools = json.loads((PROJECT / "infra" / "airflow-pools.json").read_text())
    for stage in pipeline["stages"]:
        task = train["tasks"][stage["name"]]
        assert (task["pool"], task["retries"]) == (stage["pool"], stage["retries"])
        assert stage["pool"] in pools
    assert train["tasks"]["train"]["retries"] == 0, "what was reserved may be spent"


def test_erase_runs_by_the_bell_and_by_the_clock_one_at_a_time(erase: dict[str, Any]) -> None:
    assert erase["schedule"] == "AssetOrTimeSchedule"
    assert "*/5 * * * *" in erase["timetable"]
    assert "dags.doorbell.Doorbell" in erase["timetable"]
    assert erase["max_active_runs"] == 1
    assert list(erase["tasks"]) == [*BEFORE, *RETRAIN, *AFTER, "publish", "done"]


def test_erase_is_the_steps_of_the_engine_in_their_order(erase: dict[str, Any]) -> None:
    order = [*BEFORE, *RETRAIN, *AFTER]
    assert [*BEFORE, "retrain", *AFTER] == list(STEPS)
    for earlier, later in pairwise(order):
        assert earlier in erase["tasks"][later]["before"]
    for name in (*BEFORE, *AFTER):
        assert erase["tasks"][name]["command"].endswith(f"exec lethe erase step {name}")
    asks, takes = (erase["tasks"][name]["command"] for name in (RETRAIN[0], RETRAIN[-1]))
    assert asks.endswith(f"exec lethe erase step retrain --needed '{FOR_IT}'")
    assert takes.endswith("exec lethe erase step retrain --elsewhere")
    for name in (*BEFORE, *AFTER, RETRAIN[0], RETRAIN[-1]):
        assert erase["tasks"][name]["skips_on"] == [29, 43], "nothing to do, or another does it"
        assert erase["tasks"][name]["retries"] == 0


def test_what_keeps_one_person_from_a_step_keeps_no_other(erase: dict[str, Any]) -> None:
    """After a failure the steps go on; where there was nothing to do, none is started."""
    for name in (*BEFORE, RETRAIN[0], *AFTER):
        assert erase["tasks"][name]["rule"] == "none_skipped"
    # Where no run is needed, or it failed, what requests wait for is said all the same.
    assert [erase["tasks"][name]["rule"] for name in RETRAIN[1:]] == [
        *("all_success", "all_success", "all_done"),
    ]


def test_an_erasure_trains_by_a_run_of_train_and_holds_no_worker_meanwhile(
    erase: dict[str, Any],
) -> None:
    start, wait = (erase["tasks"][name] for name in RETRAIN[1:3])
    assert start["triggers"] == {"dag": "train", "run": FOR_IT, "waits": False, "paused": True}
    assert wait["waits"] == {"dag": "train", "run": FOR_IT, "hours": 48}


def test_waiting_for_a_run_ends_with_it_or_when_it_takes_too_long(looked: dict[str, Any]) -> None:
    waits = looked["waiting"]
    assert waits["timeout"] == 48 * 3600, "it is Airflow's to hold"
    assert waits["trigger"]["run_ids"] == ["erase-7"]
    assert waits["trigger"]["states"] == ["success", "failed"]
    assert waits["ended"] == {"success": None, "failed": "Run erase-7 of train ended: failed."}


@pytest.mark.parametrize(
    ("code", "again"),
    [(1, True), (11, True), (29, False), (32, True), (34, False), (36, False), (43, False)],
)
def test_a_command_is_tried_again_only_after_what_may_pass(
    looked: dict[str, Any], code: int, again: bool
) -> None:
    """29 and 43 are skipped where a task says so; here 29 alone is."""
    ended = {1: "tried again", 11: "tried again", 32: "tried again", 29: "skipped"}
    assert looked["codes"][str(code)] == ended.get(code, "final")
    assert (looked["codes"][str(code)] == "tried again") is again


def test_what_an_erasure_changed_is_committed_however_it_ended(erase: dict[str, Any]) -> None:
    publish = erase["tasks"]["publish"]
    assert publish["command"].endswith("exec lethe worktree publish")
    assert publish["before"] == sorted([*BEFORE, *RETRAIN, *AFTER])
    assert publish["teardown"]
    assert publish["skips_on"] == [29], "another run is no failure; all else is"


def test_a_run_is_red_when_any_of_its_tasks_is(looked: dict[str, Any]) -> None:
    """Airflow judges by the last tasks: one that runs after a failure would hide it."""
    for name, dag in looked["dags"].items():
        judges = {task: dag["tasks"][task] for task in dag["judged_by"]}
        for task, found in judges.items():
            assert found["rule"] == "all_success", f"{name}.{task}"
            assert not found["teardown"], f"{name}.{task}"
        seen = set(judges).union(*(found["before"] for found in judges.values()))
        assert seen == set(dag["tasks"]), name


def test_retain_runs_by_the_clock_beside_no_erasure_and_trains_nothing(
    looked: dict[str, Any],
) -> None:
    retain = looked["dags"]["retain"]
    assert "30 3 * * *" in retain["timetable"]
    assert list(retain["tasks"]) == ["run", "publish", "done"]
    assert retain["tasks"]["publish"]["command"].endswith("exec lethe worktree publish")
    assert retain["tasks"]["publish"]["before"] == ["run"]
    assert retain["tasks"]["run"]["command"].endswith("exec lethe retain")
    assert retain["tasks"]["run"]["skips_on"] == [29], "people come first; all else is a failure"
    assert retain["tasks"]["run"]["retries"] == 0


def test_a_contradicted_claim_is_looked_for_by_night_where_trainings_run(
    looked: dict[str, Any],
) -> None:
    deep = looked["dags"]["deep_audit"]
    assert "30 4 * * *" in deep["timetable"]
    assert list(deep["tasks"]) == ["run", "done"]
    run = deep["tasks"]["run"]
    assert run["command"].endswith("exec lethe audit --deep")
    assert run["pool"] == "gpu" == looked["dags"]["train"]["tasks"]["train"]["pool"]
    assert run["retries"] == 0, "a contradiction is not tried away"
    assert run["skips_on"] == [26], "nothing was trained; all else is a failure"


def test_nothing_that_a_command_prints_is_kept_in_the_database(looked: dict[str, Any]) -> None:
    for dag in looked["dags"].values():
        for name, task in dag["tasks"].items():
            assert task["xcom"] is False, name


def test_every_dag_and_task_says_what_to_do_at_night(looked: dict[str, Any]) -> None:
    for name, dag in looked["dags"].items():
        assert "is red" in dag["doc"], name
        assert dag["max_active_runs"] == {"train": 2}.get(name, 1), name
        assert dag["catchup"] is False, name
        assert all(task["doc"] for task in dag["tasks"].values()), name


def test_commands_run_in_the_pipelines_environment_without_airflows_path(
    looked: dict[str, Any],
) -> None:
    for dag in looked["dags"].values():
        for task in (task for name, task in dag["tasks"].items() if name not in NO_COMMAND):
            assert "unset PYTHONPATH" in task["command"]
            assert 'PATH=/opt/lethe/bin:"$PATH"' in task["command"]
