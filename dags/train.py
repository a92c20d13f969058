"""
# train

Runs the pipeline of `dvc.yaml` in a git worktree of the run's own: `open` makes it, at the commit
and with the outputs of the workspace; then comes one task a stage; `publish` commits what they made
to the workspace's branch; `close` removes the worktree, however the run ended. What did not change
is not run again and spends nothing. The stages are compiled by `lethe compile`; to change one, edit
`dvc.yaml`.

**When a task is red**, its log has one line `lethe: error: …` that names the fact and the next
step; `docs/exit-codes.md` explains every exit code.

- *open*: somebody changed `params.yaml`, `dvc.yaml` or code in the workspace and did not commit it.
  Ask them which is meant; commit it or `git restore` it.
- *minimize, consent, pseudonymize*: the source or the vault did not answer, or is not as declared;
  or an erasure came between them and took what they had made. Correct it and start again.
- *validate*: the data is not what it was declared to be. Nothing was trained. Ask who owns the
  source.
- *budget*: people have too little left. Nobody loses anything by waiting; raise no limit at night.
- *train*: is not tried again by itself. Start again: it goes on from its checkpoint, and what was
  reserved is not spent twice.
- *audit, register*: the model is refused and the one in use stays. This is no outage.
- *publish*: tries again by itself for hours while an erasure is at work (29). Exit code 34:
  somebody in the run was erased or withdrew meanwhile, or something newer is released. Let it be;
  the next run is whole.
- *close*: personal data may still lie in `.lethe/worktrees` of the workspace. Clear this task alone
  until it is green; its log says what stands in its way.

To start again, clear `open` with everything downstream, or wait for tomorrow's run. No stage can be
started again alone once the run has ended: its worktree is gone, and with it what it would read.
A model with somebody in it who has asked to be erased cannot be registered, and a run with them in
it cannot be published. A run that an erasure asked for is named `erase-…`; `erase` waits for it.

Two runs may be under way at once, each in its own worktree: one that waits for a device does not
hold up tomorrow's. What is released is the one registered last.

Logs hold counts and opaque ids only. Never paste rows of the source into a note or a comment here.
"""

import datetime as dt
import os

from airflow.sdk import DAG

from dags.approval import ask_for_approval
from dags.notify import on_failure
from dags.place import PIPELINE
from dags.running import MACROS, done_task, run_task, stage_task

with DAG(
    "train",
    description="The pipeline of dvc.yaml, stage by stage, in a worktree of its own.",
    doc_md=__doc__,
    schedule=os.environ.get("LETHE_TRAIN_SCHEDULE", "@daily") or None,
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=2,
    is_paused_upon_creation=False,
    default_args={"on_failure_callback": on_failure()},
    user_defined_macros=MACROS,
    tags=["lethe"],
) as dag:
    opened = run_task(
        "open",
        doc_md="`lethe worktree open`: makes the run's worktree, or goes on with an open one.",
        retries=1,
    )
    tasks = {stage["name"]: stage_task(stage) for stage in PIPELINE["stages"]}
    for stage in PIPELINE["stages"]:
        opened >> tasks[stage["name"]]
        for earlier in stage["after"]:
            tasks[earlier] >> tasks[stage["name"]]
    published = run_task(
        "publish",
        doc_md="`lethe worktree publish`: commits the run's `dvc.lock`, alone among erasures.",
        retries=9,
        retry_exponential_backoff=True,  # an erasure may train for hours
        max_retry_delay=dt.timedelta(hours=1),
    )
    list(tasks.values()) >> published
    closed = run_task(
        "close",
        doc_md="`lethe worktree close`: removes the worktree and what has subject keys, however "
        "the run ended.",
        retries=5,
    )
    [opened, *tasks.values(), published] >> closed.as_teardown()
    [published, closed] >> done_task()
    ask_for_approval(after=published)
