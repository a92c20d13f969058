"""What the tests of the schedules share: Airflow, started and asked as an operator does."""

import json
import os
import re
import secrets
import select
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import PROJECT
from tests.warm import BIN, write_client
from tests.warm.client import decided_at_start

SCRIPT = PROJECT / "infra" / "airflow.sh"
WARM = Path(__file__).parent / "warm.py"
# DAG files do not change while a test looks; by default each is read anew twice a minute, as it is
# in the loop on PostgreSQL.
PARSED_ONCE = {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600"}
PATIENCE_S = 900.0  # for a machine that is ten times slower; nothing waits that long otherwise
AIRFLOW_BIN = PROJECT / ".venv-airflow" / "bin"
# Of the script's commands, forks of `tests.dags.warm`: all but the scheduler, which tests kill.
FORKS = """() {{
    [ "$1" != scheduler ] || exec airflow "$@"
    [ "$BASHPID" = "$$" ] || exec {0} "$@"
    {0} "$@"
}}"""


class Airflow:
    """One of its own, in `folder`, for the workspace `home`; on the loopback alone."""

    def __init__(self, folder: Path, home: Path, **settings: str) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LETHE_", "AIRFLOW_", "PYTHON", "COV"))
        }
        self.environment = kept | {
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW_PORT": str(port),
            "LETHE_HOME": str(home),
            "LETHE_BIN": str(BIN),
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "2",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._warm: subprocess.Popen[bytes] | None = None

    def run(self, *words: str) -> str:
        """One command with the settings of this Airflow."""
        if words[0] == "airflow" and self._warm is not None:
            words = (self._command, *words[1:])
        done = subprocess.run(
            (str(SCRIPT), *words),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._warm_up()
        with (self.folder / "start.log").open("wb") as said:
            self._process = subprocess.Popen(
                [str(SCRIPT)],
                env=self.environment,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def _warm_up(self) -> None:
        """Starts a process that has imported Airflow, for the parts and commands of this one."""
        folder = Path(tempfile.mkdtemp(prefix="lethe-airflow-"))
        (folder / "environment").write_text(decided_at_start(self.environment))
        (folder / "bin").mkdir()
        write_client(folder / "bin" / "airflow", folder, "airflow", binaries=AIRFLOW_BIN)
        self._command = str(folder / "bin" / "airflow")
        # Whoever comes first would make one, and keep it in a file that this has not read.
        self.environment.setdefault("AIRFLOW__API_AUTH__JWT_SECRET", secrets.token_hex(16))
        self.environment["BASH_FUNC_airflow%%"] = FORKS.format(self._command)
        self._warm = subprocess.Popen(
            [str(SCRIPT), "python", str(WARM), str(folder), str(AIRFLOW_BIN)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # open until it has ended
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what ends the tests is to leave it the time to end its forks
        )
        assert self._warm.stdin and self._warm.stdout
        ended = select.poll()
        ended.register(self._warm.stdin, 0)
        while not (folder / "airflow").exists():
            if ended.poll(50):
                raise AssertionError(self._warm.stdout.read().decode())

    def _cool_down(self) -> None:
        warm, self._warm = self._warm, None
        if warm is not None:
            warm.communicate(timeout=PATIENCE_S)

    def stop(self) -> None:
        """Ends it as Ctrl-C in a terminal does, and what is left of its own group after that."""
        self._stop_parts()
        self._cool_down()

    def _stop_parts(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=300)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=300)

    def listens(self) -> bool:
        """Whether the doorbell was heard to start."""
        said = self.folder / "triggerer.log"
        return said.exists() and "trigger ID 1 starting" in said.read_text()

    def watchers(self) -> int:
        """How often a doorbell was started: Airflow starts one anew when its host lags."""
        said = self.folder / "triggerer.log"
        return len(re.findall(r"trigger ID \d+ starting", said.read_text())) if said.exists() else 0

    def ended(self) -> bool:
        """Whether all of it ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def rest(self, path: str, body: object = None, *, token: str | None = None) -> tuple[int, Any]:
        """What the API server answers to a GET, or to a POST of `body`; status and JSON."""
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.environment['AIRFLOW_PORT']}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=headers | ({"Authorization": f"Bearer {token}"} if token else {}),
        )
        try:
            with urllib.request.urlopen(asked, timeout=300) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def ask(self, statement: str, *values: str) -> list[Any]:
        """Rows of its database; none before there is one."""
        url = self.environment.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
        if url is not None:
            with (
                suppress(psycopg.errors.UndefinedTable),
                psycopg.connect(url.replace("+psycopg", "")) as connected,
            ):
                return connected.execute(statement.replace("?", "%s").encode(), values).fetchall()
            return []
        path = self.folder / "airflow.db"
        if not path.exists():
            return []
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            connection.close()

    def wait(self, what: str, there: Callable[[], Any]) -> Any:
        """What `there` gives once it is true; says what Airflow knows if it never is."""
        until = time.monotonic() + PATIENCE_S
        while not (found := there()):
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > until:
                raise AssertionError(
                    f"{'Airflow ended' if ended else 'Too late'}: {what}\n{self.story()}"
                )
            time.sleep(0.5)
        return found

    def trigger(self, dag: str) -> None:
        """Starts a run of a DAG, once the DAG processor has found that."""
        found = "SELECT 1 FROM serialized_dag WHERE dag_id = ?"
        self.wait(f"{dag} is there", lambda: self.ask(found, dag))
        self.run("airflow", "dags", "trigger", dag)

    def runs(self, dag: str) -> list[tuple[str, str, str]]:
        """(run id, what started it, state) of every run that there was, oldest first."""
        found: list[tuple[str, str, str]] = self.ask(
            "SELECT run_id, run_type, state FROM dag_run WHERE dag_id = ? ORDER BY id", dag
        )
        return found

    def tasks(self, dag: str) -> dict[str, str]:
        """The state of each task of a DAG's runs, of the last where there were several."""
        return dict(
            self.ask(
                "SELECT task.task_id, task.state FROM task_instance AS task JOIN dag_run AS run "
                "ON task.run_id = run.run_id AND task.dag_id = run.dag_id "
                "WHERE task.dag_id = ? ORDER BY run.id",
                dag,
            )
        )

    def story(self) -> str:
        """What an operator would look at."""
        shown = [str(self.ask("SELECT dag_id, run_id, state FROM dag_run"))]
        shown.append(str(self.ask("SELECT dag_id, task_id, state FROM task_instance")))
        for path in sorted(self.folder.rglob("*.log")):
            shown.append(f"--- {path.relative_to(self.folder)}")
            shown.extend(path.read_text(errors="replace").splitlines()[-15:])
        return "\n".join(line[:500] for line in shown)


# Those of one line take about as long as those of the other.
LOOPS = (("test_loop_postgres.py",), ("test_loop.py", "test_approval_loop.py"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The loops take longest, so they come first: one line of them in each worker's share.

    `worksteal` deals the tests out in shares that follow each other, and an idle worker steals
    from the end of another's: so no two workers make one loop each.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    here = Path(__file__).parent
    loops: dict[int, list[pytest.Item]] = {}
    others: list[pytest.Item] = []
    for item in items:
        lines = [i for i, line in enumerate(LOOPS) if item.path in [here / name for name in line]]
        (loops.setdefault(lines[0] % workers, []) if lines else others).append(item)
    left, shares = len(items), []
    for worker in range(workers):
        size = left // (workers - worker)
        left -= size
        first = loops.get(worker, [])
        rest = max(0, size - len(first))
        shares += [*first, *others[:rest]]
        del others[:rest]
    items[:] = [*shares, *others]


@pytest.fixture(scope="session", autouse=True)
def environment() -> None:
    """Airflow's own environment is there."""
    if not (PROJECT / ".venv-airflow" / "ready").exists():
        pytest.fail("Airflow's environment is missing. Run: make .venv-airflow/ready")
