"""Run by Airflow's own Python: loads the folder of DAGs as Airflow does, says what is in it."""

import json
import os
import sys
from hashlib import sha256

from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, BaseOperator

from dags.place import run_name

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
        "deferrable": task.deferrable,
        "waits": task.wait_for_completion,
        "again": task.reset_dag_run,
        "paused": task.fail_when_dag_is_paused,
    }


bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
sys.stdout.write(
    "LOOK"
    + json.dumps(
        {
            "errors": {str(path): error for path, error in bag.import_errors.items()},
            "named": {f"{dag}/{run}": run_name(dag, run) for dag in ("a", "b") for run in RUNS},
            "waited for": run_name("train", f"erase-{sha256(b'').hexdigest()[:16]}-1"),
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
