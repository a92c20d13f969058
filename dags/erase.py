"""
# erase

Carries out what people asked for, step by step: finds who they are, suppresses them, erases them
from the source and the vault and then from every copy, trains anew without them, retires the
models that learned from them, looks afresh into every store, and writes the receipts. Started by
the doorbell within seconds of a request, and by a poll that makes a lost bell harmless; skipped
where no request is open. Every step takes all open requests at once; what keeps one request from
a step keeps no other.

An erasure trains where every model trains: `retrain.needed` asks for a run of `train`,
`retrain.start` starts it, `retrain.wait` waits for it without holding a worker, for
`LETHE_TRAIN_HOURS` at most, and `retrain.take` records what it came to. Whoever asks meanwhile is
taken by the next run. `publish` then commits the `dvc.lock` that this changed in the workspace.

**When a step is red**, at least one request stays open: the last line of its log has the
request's id, the store and the reason. Nothing is reported as erased that was not seen to be
gone. The next run goes on by itself with the step that failed, so most reasons (a store that did
not answer, a locked database, another run in the workspace) need nobody. Look when the same
reason is there after an hour, or `lethe erase status` in the workspace says OVERDUE:

- exit code 36: a request stays open for the reason given. Correct the store that it names; there is
  no need to clear the task.
- 29, shown as skipped: another command works on the requests. Nothing to do.
- any other: `docs/exit-codes.md`; usually a key or an address that this machine lacks.

**When `retrain.wait` is red**, the run of `train` failed, or took too long: look there first.
**When `retrain.start` is red**, `train` is paused. The next try follows by itself, later each
time; until then `retrain.take` is red and says why. In the last days before a deadline models are
retired without a new one.

**When `publish` is red**, people are erased all the same, and only git's history of the workspace
lags: exit code 34 says why nothing can be committed there, such as no branch that is checked out.
Skipped (29): a run holds the workspace; the next run commits.

`lethe erase run --dry-run` says what a run would do and cost; `lethe erase run` in the workspace
does all of it at once. A deadline is one month from the request; `lethe erase extend` with a
reason, within that month, is a decision of the data protection officer.

Only opaque request ids ever stand here. Never put who asked into a note, a comment or a
configuration of a run: Airflow keeps them.
"""

import datetime as dt
import os

from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    AssetWatcher,
    CronTriggerTimetable,
    chain,
)

from dags.approval import ask_for_approval
from dags.doorbell import Doorbell
from dags.notify import on_failure
from dags.place import HOME
from dags.retraining import retrain_tasks
from dags.running import MACROS, done_task, publish_task, step_task

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
    user_defined_macros=MACROS,
    tags=["lethe"],
) as dag:
    before = [step_task(name) for name in ("collect", "suppress", "erase_source", "erase_history")]
    training = retrain_tasks(before[-1])
    after = [step_task(name) for name in ("retire", "verify", "receipt")]
    chain(*before)
    chain(training[-1], *after)
    publish = publish_task(changed="if it changed, and closes worktrees that dead runs left behind")
    after[-1] >> publish.as_teardown()  # however the steps ended
    [*before, *training, *after, publish] >> done_task()
    # Beside the steps: whatever made a version that waits, the next run asks for it.
    ask_for_approval()
