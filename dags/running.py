"""The tasks of a run: each is one command, in the run's own git worktree or in pods.

`LETHE_EXECUTION` chooses: `machine` (the default), where a task is a command of the pipeline's own
environment, or `pods`, where it is a pod of the pipeline's image (`dags.pods`).
"""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import BaseOperator, TriggerRule
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from dags.place import (
    BUSY,
    EXECUTION,
    NOTHING_TO_DO,
    in_the_worktree,
    is_final,
    on_this_machine,
    run_for,
    run_name,
)

RUN = "{{ run_name(dag.dag_id, run_id) }}"  # rendered by the macro below
MACROS = {"run_name": run_name, "run_for": run_for}

_MINUTE = dt.timedelta(minutes=1)
_ENDED_WITH = re.compile(r"exit code (\d+)")


class Command(BashOperator):
    """A command that Airflow tries again only where trying again may correct something."""

    def execute(self, context: Any) -> Any:
        try:
            return super().execute(context)
        except AirflowSkipException:
            raise
        except AirflowException as error:
            found = _ENDED_WITH.search(str(error))
            code = int(found[1]) if found else 1
            if is_final(code):
                raise AirflowFailException(
                    f"Ended with {code}, which trying again does not correct: docs/exit-codes.md."
                ) from error
            raise


def stage_task(stage: Mapping[str, Any]) -> BaseOperator:
    """One stage of the compiled pipeline, by its `meta`."""
    words = ("dvc", "repro", "--single-item", stage["name"])
    options = {
        "doc_md": f"{stage['description']} Runs `{stage['command']}` where something changed.",
        "pool": stage["pool"],
        "retries": stage["retries"],
        "retry_delay": _MINUTE,
    }
    if _in_pods():
        from dags.pods import stage_pod

        return stage_pod(stage, run=RUN, **options)
    return Command(
        task_id=stage["name"],
        bash_command=in_the_worktree(RUN, *words),
        do_xcom_push=False,  # it would be the last line of what was printed
        **options,
    )


def run_task(name: str, **options: Any) -> BaseOperator:
    """`open`, `publish` or `close`: what HOME does for the run's run."""
    words = ("lethe", "worktree", name, RUN)
    options = {"retry_delay": _MINUTE, **options}
    if _in_pods():
        from dags.pods import run_pod

        return run_pod(name, run=RUN, **options)
    return Command(
        task_id=name, bash_command=on_this_machine(*words), do_xcom_push=False, **options
    )


def done_task() -> BaseOperator:
    """Comes last, after everything that must have worked.

    Airflow judges a run by its last tasks, and one that runs whatever came before would make it
    look well. This one does nothing, in the scheduler, and is red when anything before it is.
    """
    return EmptyOperator(
        task_id="done",
        doc_md="Does nothing; red when any task before it is, so that the run is.",
        do_xcom_push=False,
    )


def home_task(task_id: str, *words: str, **options: Any) -> BaseOperator:
    """A command of the workspace itself."""
    if _in_pods():
        from dags.pods import home_pod

        return home_pod(task_id, *words[1:], **options)  # `lethe` is the image's entrypoint
    return Command(
        task_id=task_id, bash_command=on_this_machine(*words), do_xcom_push=False, **options
    )


def step_task(name: str, *more: str, task_id: str | None = None, **options: Any) -> BaseOperator:
    """One step of an erasure, which goes on with everybody whom no step before kept.

    Skipped where no request is open, and with it all that comes after.
    """
    words = ("lethe", "erase", "step", name, *more)
    said = " ".join(word for word in words if "{" not in word)
    options = {
        "doc_md": f"`{said}`: may be cleared at any time. When it is red, its log names the store, "
        "and why; the next run goes on. The steps after it run all the same, for everybody else.",
        "trigger_rule": TriggerRule.NONE_SKIPPED,
        **options,
    }
    return home_task(
        task_id or name, *words, skip_on_exit_code=[BUSY, NOTHING_TO_DO], retries=0, **options
    )


def publish_task(*, changed: str) -> BaseOperator:
    """Commits the workspace's own `dvc.lock` after a command that changed it.

    Args:
        changed: what it does besides or why there is something to commit, for who reads at night.
    """
    return home_task(
        "publish",
        *("lethe", "worktree", "publish"),
        doc_md=f"`lethe worktree publish`: commits the workspace's own `dvc.lock`, {changed}.",
        skip_on_exit_code=BUSY,
        retries=0,  # the next run of `erase` does the same
    )


def run_and_publish(*words: str, retry: str, changed: str) -> None:
    """A DAG of one command of the workspace, after which the `dvc.lock` that it changed is kept.

    Args:
        words: the command; resumable and idempotent.
        retry: what tries again after a failure, for whoever reads the task at night.
        changed: what `publish` does besides or why there is something to commit.
    """
    run = home_task(
        "run",
        *words,
        doc_md=f"`{' '.join(words)}`: resumable and idempotent, so it may be cleared at any time. "
        f"{retry} is the retry.",
        skip_on_exit_code=BUSY,
        retries=0,
    )
    publish = publish_task(changed=changed)
    run >> publish.as_teardown()  # however `run` ended
    [run, publish] >> done_task()


def _in_pods() -> bool:
    if EXECUTION not in ("machine", "pods"):
        raise ValueError(f"LETHE_EXECUTION is machine or pods, not {EXECUTION!r}.")
    return EXECUTION == "pods"
