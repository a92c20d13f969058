"""Run by Airflow's own Python, with the settings of one Airflow: its commands are forks of this.

Importing Airflow takes two seconds, of each of its parts and of each command anew. What Airflow
reads of its settings as it is imported is the same for all of them.
"""

import importlib
import sys
import warnings

from tests.warm.server import forked, serve

_COMMANDS = ("api_server", "scheduler", "dag_processor", "triggerer", "db", "pool", "dag")
MODULES = (
    "airflow.__main__",
    *(f"airflow.cli.commands.{name}_command" for name in _COMMANDS),
    *(f"airflow.jobs.{name}_job_runner" for name in ("scheduler", "triggerer", "dag_processor")),
    *("airflow.executors.local_executor", "airflow.dag_processing.processor"),
    *(f"airflow.sdk.execution_time.{name}" for name in ("supervisor", "task_runner")),
    *("airflow.api_fastapi.core_api.app", "airflow.api_fastapi.execution_api.app"),
    *(f"airflow.providers.standard.operators.{name}" for name in ("bash", "hitl")),
    *("alembic.config", "uvicorn.protocols.http.auto"),
)

if not forked():
    with warnings.catch_warnings(action="ignore"):
        for module in MODULES:
            importlib.import_module(module)
    serve("airflow", *sys.argv[1:])
