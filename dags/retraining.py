"""Starts the pipeline where models train, for an erasure, and waits for it: four tasks.

`needed` asks whether open requests wait for a run, and names it; `start` starts it, `wait` waits
for its end without holding a worker, `take` records what it came to. Where no run is needed now,
`start` and `wait` are skipped, and `take` says why requests stay open, if any does.
"""

import datetime as dt
import os
from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.triggers.external_task import DagStateTrigger
from airflow.sdk import BaseOperator, TaskGroup, TriggerRule
from airflow.sdk.exceptions import AirflowException
from airflow.utils.state import DagRunState

from dags.running import step_task

TRAIN = "train"
RUN = "{{ run_for(dag.dag_id, run_id) }}"
_LOOKS_EVERY_S = 2
_PATIENCE = dt.timedelta(hours=float(os.environ.get("LETHE_TRAIN_HOURS") or 48))


class WaitForRun(BaseOperator):
    """Waits for the end of a run of a DAG in the triggerer; red if it fails or takes too long.

    Airflow's own operator that starts a run can wait for it likewise, but for ever.
    """

    template_fields = ("run",)

    def __init__(self, *, dag_id: str, run: str, patience: dt.timedelta, **options: Any) -> None:
        super().__init__(**options)
        self.waits_for = dag_id
        self.run = run
        self.patience = patience

    def execute(self, context: Any) -> None:
        self.defer(
            trigger=DagStateTrigger(
                dag_id=self.waits_for,
                run_ids=[self.run],
                states=[DagRunState.SUCCESS, DagRunState.FAILED],
                poll_interval=_LOOKS_EVERY_S,
            ),
            method_name="ended",
            timeout=self.patience,
        )

    def ended(self, context: Any, event: tuple[str, Mapping[str, Any]]) -> None:
        """Goes on once the run has ended."""
        state = str(event[1].get(self.run))
        if state != DagRunState.SUCCESS:
            raise AirflowException(f"Run {self.run} of {self.waits_for} ended: {state}.")


def retrain_tasks(before: BaseOperator) -> tuple[BaseOperator, ...]:
    """The tasks `needed`, `start`, `wait` and `take`, in the group `retrain`, after `before`."""
    with TaskGroup("retrain", tooltip="Trains without those who asked, where models always train."):
        needed = step_task(
            *("retrain", "--needed", RUN),
            task_id="needed",
            doc_md="Says what a training would cost, and asks for the run of `train` that requests "
            "wait for. Skipped where none is needed, or not now: its log says why.",
        )
        start = TriggerDagRunOperator(
            task_id="start",
            trigger_dag_id=TRAIN,
            trigger_run_id=RUN,
            doc_md="Starts that run of `train`. Red while `train` is paused.",
            reset_dag_run=True,  # of a run of `erase` that was cleared
            fail_when_dag_is_paused=True,
            retries=0,
            do_xcom_push=False,
        )
        wait = WaitForRun(
            task_id="wait",
            dag_id=TRAIN,
            run=RUN,
            patience=_PATIENCE,
            doc_md="Waits for its end without holding a worker. **When it is red**, look at that "
            "run of `train`; or it took longer than `LETHE_TRAIN_HOURS`.",
            retries=0,
            do_xcom_push=False,
        )
        take = step_task(
            *("retrain", "--elsewhere"), task_id="take", trigger_rule=TriggerRule.ALL_DONE
        )
    before >> needed >> start >> wait >> take
    return needed, start, wait, take
