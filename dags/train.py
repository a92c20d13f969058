"""
# train

Walks the road of `dvc.yaml`: one task a stage, in its order. What did not change is not run
again and spends nothing. The stages are compiled by `lethe compile`; to change one, edit
`dvc.yaml`.

**When a task is red**, its log has one line `lethe: error: …` that names the fact and the next
step; `docs/exit-codes.md` explains every exit code.

- *minimize, consent, pseudonymize*: the source or the vault did not answer, or is not as declared.
  Mend it and start again.
- *validate*: the data is not what it was declared to be. Nothing was trained. Ask who owns the
  source.
- *budget*: people have too little left. Nobody loses anything by waiting; raise no limit at night.
- *train*: is not tried again by itself. Start again: it goes on from its checkpoint, and what was
  reserved is not spent twice.
- *audit, register*: the model is refused and the one in use stays. This is no outage.
- *busy*, in any log: another run holds the workspace, such as an erasure. Start again when that one
  has ended.

To start again, clear `minimize` with everything downstream, or wait for tomorrow's run.
`clear` always runs: it removes what still has subject keys, so the stages after `minimize` cannot
be started again alone. Nobody's erasure waits for this DAG: a model with somebody in it who has
asked to be erased cannot be registered.

Logs hold counts and opaque ids only. Never paste rows of the source into a note or a comment here.
"""

import datetime as dt
import os

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from dags.approval import ask_for_approval
from dags.notify import on_failure
from dags.place import ROAD, on_this_machine

with DAG(
    "train",
    description="The road of dvc.yaml, stage by stage.",
    doc_md=__doc__,
    schedule=os.environ.get("LETHE_TRAIN_SCHEDULE", "@daily") or None,
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args={"on_failure_callback": on_failure()},
    tags=["lethe"],
) as dag:
    tasks = {
        stage["name"]: BashOperator(
            task_id=stage["name"],
            bash_command=on_this_machine("dvc", "repro", "--single-item", stage["name"]),
            doc_md=f"{stage['description']} Runs `{stage['command']}` where something changed.",
            pool=stage["pool"],
            retries=stage["retries"],
            retry_delay=dt.timedelta(minutes=1),
            do_xcom_push=False,  # it would be the last line of what was printed
        )
        for stage in ROAD["stages"]
    }
    for stage in ROAD["stages"]:
        for earlier in stage["after"]:
            tasks[earlier] >> tasks[stage["name"]]
    clear = BashOperator(
        task_id="clear",
        bash_command=on_this_machine("rm", "-rf", "--", *ROAD["scratch"]),
        doc_md="Removes what still has subject keys, however the run ended.",
        do_xcom_push=False,
    )
    list(tasks.values()) >> clear.as_teardown(on_failure_fail_dagrun=True)
    ask_for_approval(after=tasks["register"])
