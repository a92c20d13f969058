"""Starts the pipeline where models train, for an erasure, and waits for it: three tasks.

`needed` names the run that open requests wait for, `train` starts it and waits for its end without
holding a worker, `take` records what it came to. A model that nobody in use learned from needs no
run, and then `train` has nothing to do.
"""

import datetime as dt
import os
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import BaseOperator, TaskGroup, TriggerRule

from dags.place import on_this_machine
from dags.running import step_task

TRAIN = "train"
_RUN = "{{ ti.xcom_pull(task_ids='retrain.needed') or '' }}"
_LOOKS_EVERY_S = 2
_PATIENCE = dt.timedelta(hours=float(os.environ.get("LETHE_TRAIN_HOURS") or 48))


class StartPipeline(TriggerDagRunOperator):
    """Starts a run of `train` by a name that is given, and waits; done at once without a name."""

    def execute(self, context: Any) -> None:
        if self.trigger_run_id:
            super().execute(context)
        else:
            self.log.info("No model in use has to be replaced now.")


def retrain_tasks() -> tuple[BaseOperator, BaseOperator, BaseOperator]:
    """The tasks `needed`, `train` and `take`, in the group `retrain`."""
    with TaskGroup("retrain", tooltip="Trains without those who asked, where models always train."):
        needed = BashOperator(
            task_id="needed",
            bash_command=on_this_machine("lethe", "erase", "step", "retrain", "--needed"),
            doc_md="Says what a training would cost, and names its run; no name where none is "
            "needed. Skipped (29) while that run is under way, or after a failure until it is time "
            "to try again.",
            skip_on_exit_code=[29, 43],
            trigger_rule=TriggerRule.NONE_SKIPPED,
            retries=0,
            do_xcom_push=True,  # the opaque name of a run, and nothing else
        )
        train = StartPipeline(
            task_id="train",
            trigger_dag_id=TRAIN,
            trigger_run_id=_RUN,
            doc_md="Starts that run of `train`, and waits for its end without holding a worker. "
            "**When it is red**, look at the run: the link is above.",
            wait_for_completion=True,
            deferrable=True,
            poke_interval=_LOOKS_EVERY_S,
            execution_timeout=_PATIENCE,
            reset_dag_run=True,  # one that ended without a word is started again
            fail_when_dag_is_paused=True,
            trigger_rule=TriggerRule.NONE_SKIPPED,
            retries=0,
            do_xcom_push=False,
        )
        take = step_task("retrain", "--elsewhere", task_id="take")
    needed >> train >> take
    return needed, train, take
