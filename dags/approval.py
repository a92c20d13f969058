"""Where `params.yaml` names approvers: the tasks that ask them, once for each new version."""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import BaseOperator

from dags.place import PIPELINE, on_this_machine

_WAITS = "{{ ti.xcom_pull(task_ids='candidate') }}"
_RUN = "{{ ti.xcom_pull(task_ids='candidate') | replace('/', '-') }}"  # no run id has a slash


def ask_for_approval(after: BaseOperator | None = None) -> None:
    """Adds to a DAG what starts a run of `approve` for a version that waits.

    The run is named by the version, so that nobody is asked twice about one. It is a run apart:
    a person may take days, and neither a training nor an erasure waits for them.

    Args:
        after: the task that may have made such a version; None asks for what is there already.
    """
    if not PIPELINE["approvers"]:
        return
    candidate = BashOperator(
        task_id="candidate",
        bash_command=on_this_machine("lethe", "approve", "--waiting"),
        doc_md="Says which version waits for approval; skipped if none does.",
        skip_on_exit_code=40,
        do_xcom_push=True,  # such as readmission/3, and nothing else
    )
    ask = TriggerDagRunOperator(
        task_id="ask",
        trigger_dag_id="approve",
        trigger_run_id=_RUN,
        conf={"version": _WAITS},
        skip_when_already_exists=True,
        doc_md="Starts `approve` for it, unless its approvers have been asked.",
    )
    candidate >> ask
    if after is not None:
        after >> candidate
