"""Who hears of a failed task, by Airflow's own callbacks: a webhook, e-mail, or nobody but Airflow.

A notice names the DAG, the task, the run and where its log is. What failed is not in it: a message
of a database may hold more than an id, and chat and mail are stores that no erasure reaches.
"""

import json
import os
import urllib.request
from typing import Any

from airflow.sdk import BaseNotifier
from airflow.sdk.definitions.context import Context

WEBHOOK = "LETHE_NOTIFY_WEBHOOK"
EMAIL = "LETHE_NOTIFY_EMAIL"
_TEXT = (
    "Lethe: {{ ti.dag_id }}.{{ ti.task_id }} failed, attempt {{ ti.try_number }} of run "
    "{{ run_id }}. What to do stands on the DAG's page; its log: {{ ti.log_url }}"
)


class _OncePerOutage:
    """`erase` fails every few minutes while a store is down: its first failure is reported."""

    def told_already(self, context: Context) -> bool:
        try:
            before = context["ti"].get_previous_dagrun()
        except Exception:  # noqa: BLE001 - not to know is no reason not to tell
            return False
        return before is not None and before.state == "failed"


class Webhook(_OncePerOutage, BaseNotifier):
    """Posts {"text": …}, which Slack, Mattermost, Teams and others take, to $LETHE_NOTIFY_WEBHOOK.

    The address is a secret: it is read when it is needed, and is no argument that Airflow keeps.
    """

    template_fields = ("text",)

    def __init__(self) -> None:
        super().__init__()
        self.text = _TEXT

    def notify(self, context: Context) -> None:
        if self.told_already(context):
            return
        request = urllib.request.Request(  # noqa: S310 - the operator's own address
            os.environ[WEBHOOK],
            data=json.dumps({"text": self.text}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            pass


def on_failure() -> list[Any]:
    """The callbacks of every task: one for each way that the environment names."""
    told: list[Any] = []
    if os.environ.get(WEBHOOK):
        told.append(Webhook())
    if os.environ.get(EMAIL):
        # Not at the top: who has no mail does not wait for it at each parse.
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        class Mail(_OncePerOutage, SmtpNotifier):
            def notify(self, context: Context) -> None:
                if not self.told_already(context):
                    super().notify(context)

        told.append(
            Mail(
                to=[address.strip() for address in os.environ[EMAIL].split(",")],
                subject="Lethe: {{ ti.dag_id }}.{{ ti.task_id }} failed",
                html_content=_TEXT,
            )
        )
    return told
