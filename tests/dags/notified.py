"""Run by Airflow's own Python: a failure, reported by the callbacks that the environment names.

Prints what came to the webhook, by what the run before had come to.
"""

import json
import os
import sys
from types import SimpleNamespace

from tests.dags.hook import Webhook

heard: list[dict[str, str]] = []
hook = Webhook(heard)
os.environ["LETHE_NOTIFY_WEBHOOK"] = hook.__enter__()
os.environ["LETHE_NOTIFY_EMAIL"] = "night@example.org, dpo@example.org"

from dags.notify import on_failure  # noqa: E402 - the environment comes first


class Unknown:
    """A task that was killed: who reports it cannot ask for the run before."""

    def get_previous_dagrun(self) -> object:
        raise RuntimeError("no supervisor")


def notified(before: str | None) -> list[dict[str, str]]:
    """What came after a failure, when the run before was in that state."""
    heard.clear()
    ti = {
        "dag_id": "erase",
        "task_id": "run",
        "try_number": 1,
        "log_url": "http://127.0.0.1:8080/log",
    }
    kind = Unknown if before == "unknown" else SimpleNamespace
    task = kind()
    vars(task).update(ti)
    if before != "unknown":
        task.get_previous_dagrun = lambda: before and SimpleNamespace(state=before)
    webhook, _mail = on_failure()
    webhook({"ti": task, "run_id": "sweep-1", "exception": ValueError("ada@example.org")})
    return list(heard)


webhook, mail = on_failure()
found = {
    "notified": {
        str(before): notified(before) for before in (None, "success", "failed", "unknown")
    },
    "kept": sorted(vars(webhook)) and repr({k: v for k, v in vars(webhook).items() if k == "text"}),
    "mail": {"to": mail.to, "subject": mail.subject, "text": mail.html_content},
}
hook.__exit__()
sys.stdout.write("NOTIFIED" + json.dumps(found) + "\n")
