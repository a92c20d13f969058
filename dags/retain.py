"""
# retain

Once a day `lethe retain` takes what is past its declared retention out of every store: source,
vault, older versions of the shards, remotes, models that are not in use. Nobody asked for it and
no deadline of a person hangs on it. It trains nothing unless `params.yaml` says
`erasure.retention.retrain: automatic`.

**When `run` is red**, the last line of its log says where something is left, and why. What left is
gone; what did not is still open, and tomorrow's run goes on with it. Nobody needs to get up for
it; look when it is red for the third day:

- exit code 39: a store did not answer, a run is under way in a worktree, a fresh look found
  something, or the source cannot lose the rows as declared. The line names the store, or the table
  and what to declare in `params.yaml`. There is no need to clear the task.
- 29, shown as skipped: an erasure is under way. People come first; tomorrow's run takes it up.
- any other: `docs/exit-codes.md`; usually a key or an address that this machine lacks.

**"rows have no date"** in the log is no failure: such rows never expire until somebody dates them.
Inform the owner of the source.

`lethe retain --dry-run` counts what a run would take, by table; do that after every change of a
retention in `params.yaml`, since what is deleted does not come back.

Logs hold counts, table names and opaque ids only. Never paste rows into a note or a comment here.
"""

import datetime as dt
import os

from airflow.sdk import DAG

from dags.notify import on_failure
from dags.running import run_and_publish

with DAG(
    "retain",
    description="Takes what is past its declared retention out of every store.",
    doc_md=__doc__,
    schedule=os.environ.get("LETHE_RETAIN_SCHEDULE", "30 3 * * *") or None,
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args={"on_failure_callback": on_failure()},
    tags=["lethe"],
) as dag:
    run_and_publish(*("lethe", "retain"), retry="Tomorrow's run", changed="with the new shards")
