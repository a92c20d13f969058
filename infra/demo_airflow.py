"""`make demo-airflow`: somebody asks to be forgotten, and Airflow does the rest while you watch.

Builds a small clinic of invented people in `demo/` and trains a model on it, starts Airflow, asks
for the erasure of somebody whom the model has learned from, and shows what happens from there on.
Airflow then stays up until Ctrl-C; ONCE=1 ends it with the receipt.
"""

import datetime as dt
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ruamel.yaml import YAML

PROJECT = Path(__file__).resolve().parents[1]
DEMO = PROJECT / "demo"
HOME = Path(os.environ.get("LETHE_HOME") or DEMO / "workspace")
BIN = Path(sys.executable).parent
AIRFLOW = Path(os.environ.get("AIRFLOW_HOME") or DEMO / "airflow")
PORT = os.environ.get("AIRFLOW_PORT", "8080")
REGISTRY_PORT = os.environ.get("MLFLOW_PORT", "5000")
PATIENCE_S = 600
STARTED_IN = Path.cwd()

Person = tuple[str, str, str]  # key, name, e-mail address


@dataclass(frozen=True)
class Login:
    user: str
    password: str
    token: str

    def __str__(self) -> str:
        return f"http://127.0.0.1:{PORT}, user {self.user}, password {self.password}"


STEPS_IN_WORDS = {  # the marks of a request, in their order, for who has never seen one
    "suppressed": "From here on no training set has them, whatever a backup brings back.",
    "source": "Gone from the clinic's database: rows deleted, notes about others redacted.",
    "vault": "Gone from the vault: nothing leads from the data to them any more.",
    "history": "Gone from DVC: every old version in the cache and in the remote was rewritten.",
    "retrained": "The model was trained anew without them, and charged to those who remain.",
    "retired": "The old model is retired, and its files are gone.",
}


def main() -> None:
    parts: list[subprocess.Popen[bytes]] = []
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _free(PORT, "AIRFLOW_PORT")
        if not (HOME / "dvc.lock").exists():
            if HOME != DEMO / "workspace":
                sys.exit(f"No model was trained in {_short(HOME)} yet. Run there: lethe run")
            shutil.rmtree(HOME, ignore_errors=True)  # of a demonstration that was ended early
            _make()
        os.chdir(HOME)  # the addresses in params.yaml mean this folder
        say("\nStarting Airflow …")
        parts.append(_start(PROJECT / "infra" / "airflow.sh"))
        login = _up(parts[0])
        say(f"Airflow is up: {login}")
        _erase(login)
        if os.environ.get("ONCE"):
            return
        _free(REGISTRY_PORT, "MLFLOW_PORT")
        ui = ("mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db", "--port", REGISTRY_PORT)
        parts.append(_start(BIN / ui[0], *ui[1:]))
        _look_around(login)
        parts[0].wait()
    except KeyboardInterrupt:
        say("\nStopping.")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for part in parts:
            with suppress(ProcessLookupError):
                os.killpg(part.pid, signal.SIGTERM)
        for part in parts:
            part.wait()


def say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _free(port: str, variable: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except OSError:
            sys.exit(f"Port {port} is taken. Choose another: make demo-airflow {variable}=…")


# ------------------------------------------------------------------ what it needs


def _make() -> None:
    """A workspace as a user has it: declarations, pipeline, code, git; and a first model."""
    say(f"A demonstration workspace in {_short(HOME)}, with a clinic of invented people:")
    HOME.mkdir(parents=True)
    for name in ("dvc.yaml", "behaviour.json", ".gitignore", ".dvcignore", ".dvc/config"):
        (HOME / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, HOME / name)
    compiled = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "pipeline", HOME / "pipeline", ignore=compiled)
    declared = YAML()
    declared.width = 200
    params = declared.load(PROJECT / "params.yaml")
    params["training"]["mechanism"].update(expected_subjects=2700, steps=100)
    params["audit"].update(subjects=1000, replays=2)
    params["registration"]["min_auc"] = 0.0
    declared.dump(params, HOME / "params.yaml")
    _run("git", "init", "--quiet", "--initial-branch=main")
    _commit("A demonstration workspace")
    for words in (("key",), ("sample", "--patients", "4000")):
        say(_run("lethe", *words).splitlines()[0])
    say("A first model, by the whole pipeline; half a minute …")
    _run("lethe", "run")
    _run("dvc", "push", "--quiet")
    _commit("A first model")


def _commit(message: str) -> None:
    _run("git", "add", "--all")
    who = ("-c", "user.name=demo", "-c", "user.email=demo@localhost")
    _run("git", *who, "commit", "--quiet", "--message", message)


def _run(*words: str) -> str:
    done = subprocess.run(words, cwd=HOME, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _environment() -> dict[str, str]:
    defaults = {
        "LETHE_TRAIN_SCHEDULE": "",
        "LETHE_RETAIN_SCHEDULE": "",
        "LETHE_DEEP_AUDIT_SCHEDULE": "",
        "LETHE_DOORBELL_SECONDS": "2",
    }
    ours = {
        "AIRFLOW_HOME": str(AIRFLOW),
        "AIRFLOW_PORT": PORT,
        "LETHE_HOME": str(HOME),
        "LETHE_BIN": str(BIN),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    return defaults | dict(os.environ) | ours


def _start(*words: str | Path) -> subprocess.Popen[bytes]:
    AIRFLOW.mkdir(parents=True, exist_ok=True)
    with (AIRFLOW / f"{Path(words[0]).stem}-start.log").open("wb") as log:
        return subprocess.Popen(
            [str(word) for word in words],
            cwd=HOME,
            env=_environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C ends them by us, in order
        )


# ------------------------------------------------------------------ Airflow, asked


def _up(airflow: subprocess.Popen[bytes]) -> Login:
    """Waits for an Airflow whose scheduler and doorbell are at work."""
    passwords = AIRFLOW / "simple_auth_manager_passwords.json.generated"

    def there() -> Login | None:
        if airflow.poll() is not None:
            sys.exit(f"Airflow ended; its logs are in {_short(AIRFLOW)}.")
        if not passwords.exists() or not passwords.read_text():
            return None
        ((user, password),) = json.loads(passwords.read_text()).items()
        try:
            token = _ask("/auth/token", {"username": user, "password": password})["access_token"]
            health = _ask("/api/v2/monitor/health")
        except (OSError, http.client.HTTPException):  # not yet
            return None
        if any(health[part]["status"] != "healthy" for part in ("scheduler", "triggerer")):
            return None
        return Login(user, password, token)

    login: Login = _wait(there)
    return login


def _ask(path: str, body: object = None, *, token: str | None = None) -> Any:
    """What Airflow's API answers to a GET, or to a POST of `body`."""
    airflow = http.client.HTTPConnection("127.0.0.1", int(PORT), timeout=30)
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        if body is None:
            airflow.request("GET", path, headers=headers)
        else:
            airflow.request("POST", path, json.dumps(body), headers)
        answer = airflow.getresponse()
        if answer.status >= 400:
            raise OSError(f"Airflow answers {answer.status}")
        return json.load(answer)
    finally:
        airflow.close()


def _wait(there: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (found := there()):
        if time.monotonic() > until:
            sys.exit(f"Nothing happened for {PATIENCE_S} s; Airflow's logs: {_short(AIRFLOW)}.")
        time.sleep(0.3)
    return found


# ------------------------------------------------------------------ the loop, step by step


def _erase(login: Login) -> None:
    from lethe.config.params import load_params, resolve_secret
    from lethe.stores.registry.registry import Registry
    from lethe.stores.requests.requests import Requests

    params = load_params()
    name = params.registration.name
    registry = Registry.open(resolve_secret(params.stores.registry))
    before = registry.find(name, "@champion")
    person = _somebody(name, before.version)
    _, called, email = person
    counted = before.tags.get("subjects")  # with noise; not there where no figure leaves
    many = "the" if counted is None else f"the about {int(counted):,}"
    say(
        f"\n{called} <{email}>, who is invented, is one of {many} people\n"
        f"whom the model in use, {name}/{before.version}, has learned from, "
        "and asks to be forgotten:\n"
    )
    _wait(lambda: not _busy(login.token))  # a poll would be before the bell
    say(f"   $ lethe erase request --email {email}")
    asked_at = dt.datetime.now(dt.UTC)
    (asked,) = json.loads(_run("lethe", "erase", "request", "--email", email, "--json"))
    say(f"   Request {asked['request']}, to be answered by {asked['due_at'][:10]}.\n")
    say("Nobody touches anything from here on. Seconds after the request:\n")

    def report(at: dt.datetime, text: str) -> None:
        say(f"   {(at - asked_at).total_seconds():5.0f} s   {text}")

    run = _wait(lambda: _run_since(asked_at, login.token))
    bell = "The doorbell rang" if run["run_type"] == "asset_triggered" else "The poll came by"
    report(dt.datetime.fromisoformat(run["start_date"]), f"{bell}: Airflow started an erase run.")
    with Requests.open(resolve_secret(params.stores.ledger)) as requests:
        done: set[str] = set()

        def closed() -> Any:
            request = requests.find(asked["request"])
            for step in [
                step for step in STEPS_IN_WORDS if step in request.marks and step not in done
            ]:
                done.add(step)
                report(request.marks[step].at, STEPS_IN_WORDS[step])
            return request.closed_at

        report(_wait(closed), "A fresh look into every store found nothing: the request is closed.")
        receipts = {each.request_id: each.number for each in requests.receipts()}
    state = _wait(lambda: _ended(run, login.token))
    report(dt.datetime.now(dt.UTC), f"Airflow's run ended: {state}.")
    after = registry.find(name, "@champion")
    left = before.version in {each.version for each in registry.versions(name)}
    say(
        f"\n{name}/{after.version} is champion now; {name}/{before.version} is "
        f"{'STILL THERE' if left else 'gone'}."
    )
    files, found = _look_for(person)
    say(
        f"Key, name and e-mail address are in {found} of {files:,} files: workspace, DVC's cache "
        "and remote, Airflow."
    )
    say(f"\n   $ lethe erase receipt --check\n   {_run('lethe', 'erase', 'receipt', '--check')}")
    say(f"The receipt:   {_short(_page(receipts[asked['request']]))}")
    say(f"The run:       http://127.0.0.1:{PORT}/dags/erase/runs/{run['dag_run_id']}")


def _page(number: int) -> Path:
    return next(iter(sorted((HOME / "receipts").glob(f"{number:06d}-*.html"))), HOME / "receipts")


def _ended(run: dict[str, Any], token: str) -> str | None:
    state = str(_ask(_of(run), token=token)["state"])
    return state if state in ("success", "failed") else None


def _of(run: dict[str, Any]) -> str:
    return f"/api/v2/dags/erase/dagRuns/{quote(run['dag_run_id'])}"


def _busy(token: str) -> bool:
    runs = _ask("/api/v2/dags/erase/dagRuns?state=running&state=queued", token=token)
    return bool(runs["dag_runs"])


def _run_since(moment: dt.datetime, token: str) -> Any:
    """The first erase run that started after a moment."""
    runs = _ask("/api/v2/dags/erase/dagRuns?order_by=start_date&limit=100", token=token)
    return next(
        (
            run
            for run in runs["dag_runs"]
            if run["start_date"] and dt.datetime.fromisoformat(run["start_date"]) > moment
        ),
        None,
    )


def _somebody(model: str, version: int) -> Person:
    """Key, name and address of somebody whom a version has learned from."""
    with sqlite3.connect("file:data/clinic.db?mode=ro", uri=True) as clinic:
        rows = clinic.execute(
            "SELECT patient_id, full_name, email FROM patients ORDER BY random() LIMIT 40"
        ).fetchall()
    clinic.close()
    for key, called, email in rows:
        done = subprocess.run(
            ("lethe", "lineage", "--subject", str(key), "--json"),
            env=_environment(),
            capture_output=True,
            text=True,
        )
        models = json.loads(done.stdout)["models"] if done.returncode == 0 else []
        if any((each["model"], each["version"]) == (model, version) for each in models):
            return str(key), str(called), str(email)
    sys.exit(f"Nobody was found whom {model}/{version} has learned from. Remove {_short(HOME)}.")


def _look_for(person: Person) -> tuple[int, int]:
    """How many files there are, and how many of them hold something of the person."""
    values = [value.encode() for value in person]
    files = [p for folder in {HOME, DEMO} for p in folder.rglob("*") if p.is_file()]
    return len(files), sum(any(v in path.read_bytes() for v in values) for path in files)


def _look_around(login: Login) -> None:
    say(f"Airflow:       {login}")
    say(f"The registry:  http://127.0.0.1:{REGISTRY_PORT}")
    say("\nAsk for anybody else in another terminal, and the bell rings again:\n")
    say(f"   cd {_short(HOME)} && {BIN / 'lethe'} erase request --subject KEY\n")
    say("All of it stays up until Ctrl-C.")


def _short(path: Path) -> str:
    return os.path.relpath(path, STARTED_IN) if path.is_relative_to(STARTED_IN) else str(path)


if __name__ == "__main__":
    main()
