"""
# erase

Carries out what people asked for: `lethe erase run` erases them from every store, trains anew
without them, replaces the model, verifies and writes the receipt. Started by the doorbell within
seconds of a request, and by a poll that makes a lost bell harmless. It takes all open requests
at once; one that comes in during a run is taken by that run or the next. `publish` then commits the
`dvc.lock` that this changed in the workspace.

**When `run` is red**, at least one request stays open: the last line of its log has the request's
id and the reason. Nothing is reported as erased that was not seen to be gone. The next run goes
on by itself from the step that failed, so most reasons (a store that did not answer, a locked
database, another run in the workspace) need nobody. Look when the same reason is there after an
hour, or `lethe erase status` in the workspace says OVERDUE:

- exit code 36: a request stays open for the reason given. Correct the store that it names; there is
  no need to clear the task.
- 29, shown as skipped: another `lethe erase run` is under way. Nothing to do.
- any other: `docs/exit-codes.md`; usually a key or an address that this machine lacks.

**When `publish` is red**, people are erased all the same, and only git's history of the workspace
lags: exit code 34 says why nothing can be committed there, such as no branch that is checked out.
Skipped (29): a run holds the workspace; the next run commits.

`lethe erase run --dry-run` says what a run would do and cost. A deadline is one month from the
request; `lethe erase extend` with a reason, within that month, is a decision of the data
protection officer.

Only opaque request ids ever stand here. Never put who asked into a note, a comment or a
configuration of a run: Airflow keeps them.
"""

import datetime as dt
import os

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable

from dags.approval import ask_for_approval
from dags.doorbell import Doorbell
from dags.notify import on_failure
from dags.place import HOME
from dags.running import run_and_publish

BELL = Doorbell(home=str(HOME), every_seconds=float(os.environ.get("LETHE_DOORBELL_SECONDS", "5")))
REQUESTS = Asset("lethe-requests", watchers=[AssetWatcher(name="lethe-doorbell", trigger=BELL)])
_POLL = os.environ.get("LETHE_POLL") or os.environ.get("LETHE_SWEEP")  # its older name
POLL = CronTriggerTimetable(_POLL or "*/5 * * * *", timezone="UTC")

with DAG(
    "erase",
    description="Carries out what people asked for, in every store, and proves it.",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(timetable=POLL, assets=[REQUESTS]),
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args={"on_failure_callback": on_failure()},
    tags=["lethe"],
) as dag:
    run_and_publish(
        *("lethe", "erase", "run"),
        retry="The next run",
        changed="if it changed, and closes worktrees that dead runs left behind",
    )
    # Beside `run`: whatever made a version that waits, the next run asks for it.
    ask_for_approval()
