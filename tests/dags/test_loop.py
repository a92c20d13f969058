"""The whole loop in a real Airflow: somebody asks, nobody touches anything, they are gone.
Then the pipeline is run in a worktree of its own, and what it made is a commit.

Scheduler, triggerer, DAG processor and API server as `make airflow` starts them; a real DVC
remote and a real registry. The clock of the sweep is set to the 29th of February, so only the
doorbell can start what is seen here.
"""

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lethe.config.keys import read_key_file
from lethe.ledger.ledger import Ledger
from lethe.stages import STAGES
from lethe.stores.registry.registry import Registry
from lethe.stores.vault.vault import Vault
from tests.conftest import Workspace, copy_workspace
from tests.dags.conftest import PARSED_ONCE, Airflow
from tests.warm import warm_bin

NEVER = "0 0 29 2 *"


@dataclass
class Loop:
    """What is left after a request, the erasure that it started, and one run of the pipeline."""

    workspace: Workspace
    airflow: Airflow
    asked: str
    head: str
    people: list[tuple[str, str, str, str]]
    rang: list[tuple[str, str, str]]
    for_them: list[tuple[str, str, str]]  # what the erasure trained by
    finished: list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def loop(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    folder = tmp_path_factory.mktemp("loop")
    workspace = copy_workspace(finished, folder / "workspace")
    workspace.run("dvc", "push", "--quiet")
    head = workspace.run("git", "rev-parse", "HEAD").stdout.strip()
    with sqlite3.connect(workspace.root / "data" / "clinic.db") as clinic:
        people = clinic.execute(
            "SELECT patient_id, full_name, email, phone FROM patients"
        ).fetchall()
    email = _trained_on(workspace, people)
    airflow = Airflow(
        workspace.root / ".airflow",
        workspace.root,
        LETHE_POLL=NEVER,
        LETHE_TRAIN_SCHEDULE="",
        LETHE_RETAIN_SCHEDULE="",
        LETHE_DEEP_AUDIT_SCHEDULE="",
        LETHE_DOORBELL_SECONDS="1",
        LETHE_BIN=str(warm_bin()),
        **PARSED_ONCE,
    )
    airflow.start()
    try:
        airflow.wait("the doorbell is listening", airflow.listens)
        assert airflow.runs("erase") == [], "nobody has asked"
        said = workspace.lethe("erase", "request", "--email", email, "--json").stdout
        airflow.wait("the bell starts a run", lambda: airflow.runs("erase"))
        airflow.wait("the request is carried out", lambda: _ended(airflow, "erase"))
        rang = airflow.runs("erase")
        for_them = airflow.runs("train")
        # Somebody new agrees, so that the run has something to release.
        with sqlite3.connect(workspace.root / "data" / "clinic.db") as clinic:
            clinic.execute("UPDATE consents SET answer = 'yes'")
        clinic.close()
        airflow.trigger("train")
        airflow.wait(
            "the pipeline is run",
            lambda: len(airflow.runs("train")) == 2 and _ended(airflow, "train"),
        )
        (asked,) = json.loads(said)
        finished = airflow.runs("train")[len(for_them) :]
        made = Loop(
            workspace, airflow, str(asked["request"]), head, people, rang, for_them, finished
        )
        story = airflow.story()
    finally:
        airflow.stop()
    assert [state for _, _, state in (*made.rang, *made.for_them, *made.finished)] == [
        "success"
    ] * 3, story
    yield made


def _trained_on(workspace: Workspace, people: list[tuple[str, str, str, str]]) -> str:
    """The address of somebody whom the model in use was trained on."""
    state = workspace.root / ".lethe"
    key = read_key_file(workspace.root / "secrets" / "lethe.key")
    with (
        Vault.open(f"sqlite:///{state / 'vault.db'}", key) as vault,
        Ledger.open(f"sqlite:///{state / 'ledger.db'}") as ledger,
    ):
        run, _ = ledger.runs()  # and its figures
        tokens = vault.lookup([person[0] for person in people]).tolist()
    return next(
        email
        for (_, _, email, _), token in zip(people, tokens, strict=True)
        if token >= 0 and token in run.eligible
    )


def _ended(airflow: Airflow, dag: str) -> bool:
    states = [state for _, _, state in airflow.runs(dag)]
    return bool(states) and all(state in ("success", "failed") for state in states)


def test_the_bell_alone_started_the_run(loop: Loop) -> None:
    assert [kind for _, kind, _ in loop.rang] == ["asset_triggered"]


def test_the_new_versions_are_in_the_registry_and_the_old_one_is_gone(loop: Loop) -> None:
    registry = Registry.open(f"sqlite:///{loop.workspace.root / 'mlflow.db'}")
    retrained, finished = registry.versions("readmission")
    assert (retrained.version, retrained.aliases) == (2, ())
    assert (finished.version, finished.aliases) == (3, ("candidate", "champion"))


def test_what_the_erasure_and_the_run_made_are_commits_of_lock_and_reports(loop: Loop) -> None:
    log = loop.workspace.run(
        "git", "log", "--reverse", "--format=%x00%s", "--name-only", f"{loop.head}..main"
    ).stdout.split("\0")[1:]
    said = [each.split("\n")[0] for each in log]
    ((trained, _, _),) = loop.for_them
    assert re.fullmatch("erase-[0-9a-f]{16}", trained)
    assert said == [
        "Keep the lock that was not committed",  # as the erasure left it
        f"Release readmission/2 of {trained}",
        f"Release readmission/3 of {_run_name(loop)}",
    ]
    for commit in log:
        lock, *others = [line for line in commit.split("\n")[1:] if line]
        assert lock == "dvc.lock"
        assert all(each.startswith("reports/") for each in others), others
    status = loop.workspace.run("git", "status", "--porcelain", "--", "dvc.lock")
    assert status.stdout == ""
    finished = json.loads((loop.workspace.root / "reports" / "register.json").read_text())
    assert finished["version"] == 3
    assert loop.workspace.run("dvc", "status", "train", "audit").stdout.strip() == (
        "Data and pipelines are up to date."
    )


def test_the_model_of_a_run_serves_after_the_run_is_gone(loop: Loop) -> None:
    folder = loop.workspace.root / ".lethe" / "worktrees"
    assert list(folder.iterdir()) == []
    assert loop.workspace.run("git", "worktree", "list").stdout.count("\n") == 1
    version = Registry.open(f"sqlite:///{loop.workspace.root / 'mlflow.db'}").find(
        "readmission", "3"
    )
    places = [
        path for path in loop.workspace.root.rglob(f"{version.logged_model}") if path.is_dir()
    ]
    assert [path for path in places if list(path.rglob("weights.safetensors"))]


def _run_name(loop: Loop) -> str:
    """The name of the train run, as anybody can work it out from Airflow's own page."""
    (run,) = [run for run, _, _ in loop.finished]
    return hashlib.sha256(f"train {run}".encode()).hexdigest()[:16]


def test_the_request_is_closed_with_a_receipt_that_holds(loop: Loop) -> None:
    (row,) = json.loads(loop.workspace.lethe("erase", "status", "--json").stdout)
    assert (row["request"], row["state"]) == (loop.asked, "closed")
    said = loop.workspace.lethe("erase", "receipt", "--check").stdout
    assert "signatures and chain hold" in said
    shown = json.loads(loop.workspace.lethe("erase", "receipt", loop.asked).stdout)["receipt"]
    (model,) = shown["models"]
    assert (model["version"], model["replaced_by"]) == ("readmission/1", "readmission/2")


def test_every_stage_of_the_pipeline_ran_as_a_task_and_keys_are_gone(loop: Loop) -> None:
    assert loop.airflow.tasks("train") == dict.fromkeys(
        ("open", *STAGES, "publish", "close", "done"), "success"
    )
    assert loop.airflow.tasks("erase") == dict.fromkeys(
        (
            *("collect", "suppress", "erase_source", "erase_history"),
            *("retrain.needed", "retrain.start", "retrain.wait", "retrain.take"),
            *("retire", "verify", "receipt", "publish", "done"),
        ),
        "success",
    )
    for folder in ("minimized", "consented"):
        assert not (loop.workspace.root / "data" / folder).exists()


def test_no_person_of_the_source_is_anywhere_in_airflow(loop: Loop) -> None:
    assert len(loop.people) == 1500
    files = [path for path in loop.airflow.folder.rglob("*") if path.is_file()]
    assert {"airflow.db", "attempt=1.log"} <= {path.name for path in files}
    assert any(loop.asked.encode() in path.read_bytes() for path in files), "opaque ids are"
    assert _in(files, loop.people) == {}


def test_one_who_were_in_airflow_would_be_seen(loop: Loop, tmp_path: Path) -> None:
    key, name, email, phone = loop.people[-1]
    for number, value in enumerate((key, name, email, phone)):
        with sqlite3.connect(tmp_path / f"{number}.db") as database:
            database.execute("CREATE TABLE xcom (value TEXT)")
            database.execute("INSERT INTO xcom VALUES (?)", (json.dumps({"a": value}),))
    assert len(_in(list(tmp_path.iterdir()), loop.people)) == 4


def _in(files: list[Path], people: list[tuple[str, str, str, str]]) -> dict[Path, int]:
    """How many values of people each file holds, as they are or as JSON escapes them."""
    values = {
        form.encode()
        for person in people
        for value in person
        if value
        for form in (value, json.dumps(value)[1:-1])
    }
    held = {path: path.read_bytes() for path in files}
    counts = {path: sum(value in content for value in values) for path, content in held.items()}
    return {path: count for path, count in counts.items() if count}


def test_nothing_of_airflow_is_left_running(loop: Loop) -> None:
    port = int(loop.airflow.environment["AIRFLOW_PORT"])
    listening = Path("/proc/net/tcp").read_text()
    assert f"0100007F:{port:04X} 00000000:0000 0A" not in listening
