"""
# approve

A new version waits until a named person says that it may serve: `registration.promote` in
`params.yaml` is `approval`. One run asks for one version, and is named by it. The people named
under `registration.approvers` find it under *Required actions*, with price and measures; the
model's card is in MLflow.

- **Approve** makes the version champion, if everybody in it still agrees at that moment.
- **Reject** leaves it candidate. The version in use stays.

**When `champion` is red**, its log says why: a newer version waits instead (answer that one), or
somebody in this one has withdrawn since (the next training is without them). Nothing was promoted.
**When `approve` is red**, nobody answered within 30 days, or somebody did within a second of being
asked, which Airflow loses; clear it to ask again.

No training and no erasure waits for this DAG. After an erasure the old version is gone at once;
until its replacement is approved, no version is champion.
"""

import datetime as dt

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG

from dags.notify import on_failure
from dags.place import PIPELINE, on_this_machine

# By the environment, never by the command's words: who starts a run by hand types them.
VERSION = {"VERSION": "{{ dag_run.conf['version'] }}"}
BY = {"BY": "{{ ti.xcom_pull(task_ids='approve')['responded_by_user']['id'] }}"}

if PIPELINE["approvers"]:
    with DAG(
        "approve",
        description="Waits for a named person before a version may serve.",
        doc_md=__doc__,
        schedule=None,
        start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        catchup=False,
        max_active_runs=16,
        is_paused_upon_creation=False,
        default_args={"on_failure_callback": on_failure()},
        tags=["lethe"],
    ) as dag:
        show = BashOperator(
            task_id="show",
            bash_command=on_this_machine("lethe", "approve"),
            doc_md="What there is to know of it in one line: prices and measures.",
            append_env=True,
            do_xcom_push=True,
        )
        approve = ApprovalOperator(
            task_id="approve",
            subject="Shall {{ dag_run.conf['version'] }} serve?",
            body="{{ ti.xcom_pull(task_ids='show') }}",
            assigned_users=[{"id": name, "name": name} for name in PIPELINE["approvers"]],
            response_timeout=dt.timedelta(days=30),
            doc_md="Waits for one of the approvers; holds no worker meanwhile.",
        )
        champion = BashOperator(
            task_id="champion",
            bash_command=on_this_machine("sh", "-c", 'exec lethe approve "$VERSION" --by "$BY"'),
            env=VERSION | BY,
            append_env=True,
            doc_md="Makes it champion, after a last look at who has withdrawn.",
            do_xcom_push=False,
        )
        show >> approve >> champion
