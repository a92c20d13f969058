"""Run by Airflow's own Python: loads the folder of DAGs as Airflow does, says what is in it."""

import datetime as dt
import json
import os
import sys

from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    TaskDeferred,
)

from dags.place import run_for, run_name
from dags.retraining import WaitForRun
from dags.running import Command

HEAVY = (
    "torch",
    "pandas",
    "numpy",
    "lethe",
    "dvc",
    "mlflow",
    "sklearn",
    "pyarrow",
    "kubernetes",
)

RUNS = ("manual__2026-01-01T00:00:00+00:00", "ada@example.org; rm -rf /", "../../up")


def judges(dag: DAG, task: BaseOperator) -> bool:
    """Whether a run's state is taken from this task, as `DagRun._tis_for_dagrun_state` does."""
    counted = [
        later
        for later in map(dag.get_task, task.downstream_task_ids)
        if not later.is_teardown or later.on_failure_fail_dagrun
    ]
    return not counted and (not task.is_teardown or task.on_failure_fail_dagrun)


def triggers(task: BaseOperator) -> dict[str, object] | None:
    """What a task that starts another DAG does, if it is one."""
    if not isinstance(task, TriggerDagRunOperator):
        return None
    return {
        "dag": task.trigger_dag_id,
        "run": task.trigger_run_id,
        "waits": task.wait_for_completion,
        "paused": task.fail_when_dag_is_paused,
    }


def waits(task: BaseOperator) -> dict[str, object] | None:
    if not isinstance(task, WaitForRun):
        return None
    return {
        "dag": task.waits_for,
        "run": task.run,
        "hours": task.patience.total_seconds() / 3600,
    }


def waiting() -> dict[str, object]:
    """How a run is waited for, and what follows from its end."""
    task = WaitForRun(
        task_id="wait", dag_id="train", run="erase-7", patience=dt.timedelta(hours=48)
    )
    ends: dict[str, str | None] = {}
    for state in ("success", "failed"):
        try:
            task.ended({}, ("", {"erase-7": state}))
            ends[state] = None
        except AirflowException as error:
            ends[state] = str(error)
    try:
        task.execute({})
    except TaskDeferred as deferred:
        trigger = deferred.trigger.serialize()[1]
        timeout = deferred.timeout
    return {
        "timeout": timeout.total_seconds(),
        "trigger": {name: trigger[name] for name in ("run_ids", "states")},
        "ended": ends,
    }


def code(number: int) -> str:
    """What Airflow makes of a command's exit code."""
    task = Command(
        task_id="command", bash_command=f"exit {number}", skip_on_exit_code=29, do_xcom_push=False
    )
    try:
        task.execute({})
    except AirflowSkipException:
        return "skipped"
    except AirflowFailException:
        return "final"
    except AirflowException:
        return "tried again"
    return "worked"


bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
sys.stdout.write(
    "LOOK"
    + json.dumps(
        {
            "errors": {str(path): error for path, error in bag.import_errors.items()},
            "named": {f"{dag}/{run}": run_name(dag, run) for dag in ("a", "b") for run in RUNS},
            "asked for": [run_for("erase", "x"), run_name("train", run_for("erase", "x"))],
            "waiting": waiting(),
            "codes": {str(n): code(n) for n in (1, 11, 29, 32, 34, 36, 43)},
            "heavy": [name for name in HEAVY if name in sys.modules],
            "dags": {
                name: {
                    "doc": dag.doc_md or "",
                    "max_active_runs": dag.max_active_runs,
                    "catchup": dag.catchup,
                    "judged_by": sorted(task.task_id for task in dag.tasks if judges(dag, task)),
                    "schedule": type(dag.schedule).__name__,
                    "timetable": repr(dag.schedule),
                    "tasks": {
                        task.task_id: {
                            "before": sorted(task.get_flat_relative_ids(upstream=True)),
                            "command": getattr(task, "bash_command", None),
                            "doc": task.doc_md or "",
                            "pool": task.pool,
                            "retries": task.retries,
                            "xcom": task.do_xcom_push,
                            "setup": task.is_setup,
                            "teardown": task.is_teardown,
                            "skips_on": list(getattr(task, "skip_on_exit_code", ())),
                            "kind": type(task).__name__,
                            "assigned": [
                                u["id"] for u in getattr(task, "assigned_users", None) or ()
                            ],
                            "notifiers": len(task.on_failure_callback or ()),
                            "rule": task.trigger_rule.value,
                            "triggers": triggers(task),
                            "waits": waits(task),
                        }
                        for task in dag.tasks
                    },
                }
                for name, dag in bag.dags.items()
            },
        }
    )
    + "\n"
)
