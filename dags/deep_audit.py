"""
# deep_audit

Once a night `lethe audit --deep` trains twins of the plan of the last training, by the code that
trains and on made-up people, and says which epsilon canaries in them show at least. The number
stands beside the claim: in `reports/deep_audit.json` of the workspace, in the tags of the version
that came of that training, and on the card of later versions of the same plan and code. It spends
nobody's budget, and nobody's data is in it.

**When `run` is red**, look at the exit code in its log:

- 24: **a claim is contradicted.** More was shown than was claimed; a sound mechanism does this once
  in ten million nights. Withdraw the models of this plan (take the alias `champion` away in
  MLflow), stop `train`, and inform who answers for privacy. The report names the checks. Do not
  clear the task to see it turn green.
- 26, shown as skipped: nothing was trained yet. Nothing to do.
- any other: `docs/exit-codes.md`. Nothing is lost; tomorrow's run looks again.

It takes minutes and one slot of the pool `gpu`, in which it waits while a training runs.

Logs hold counts and bounds only.
"""

import datetime as dt
import os

from airflow.sdk import DAG

from dags.notify import on_failure
from dags.running import done_task, home_task

with DAG(
    "deep_audit",
    description="Says which epsilon canaries show at least, beside the claim.",
    doc_md=__doc__,
    schedule=os.environ.get("LETHE_DEEP_AUDIT_SCHEDULE", "30 4 * * *") or None,
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args={"on_failure_callback": on_failure()},
    tags=["lethe"],
) as dag:
    run = home_task(
        "run",
        *("lethe", "audit", "--deep"),
        doc_md="`lethe audit --deep`: fails where a claim is contradicted. To run it again is "
        "another look, with fresh coins.",
        pool="gpu",
        skip_on_exit_code=26,
        retries=0,  # a contradiction is not to be tried away
    )
    run >> done_task()
