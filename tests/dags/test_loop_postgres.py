"""The whole loop in a real Airflow, all of it on one PostgreSQL server, and killed on its way.

Source, vault, ledger with the requests, MLflow's registry and Airflow's own database are each a
database of a role of its own; the DVC remote and the registry's files are folders. In order: the
bell rings for one person; ten more ask while its run trains; the training for the ten is killed
(-9), and the next run of `erase` tries again; the scheduler is killed while that run retires the
old model, and Airflow is started anew. From there on the doorbell looks once a day: one request
is left to the sweep, the last to a POST from outside.

Until all ten are gone, commands are forks of the warm process, of which two trainings are held in
their middle; from there on they are those of the environment.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pyroaring import BitMap

from lethe.config.keys import read_key_file
from lethe.core.outcomes import Traces
from lethe.ledger.ledger import Ledger, Reservation
from lethe.stores.dvc.content import holds
from lethe.stores.registry.registry import Registry
from lethe.stores.search.needles import needles
from lethe.stores.vault.vault import Vault
from tests.conftest import Workspace, make_workspace
from tests.dags.conftest import PATIENCE_S, Airflow
from tests.postgres import PASSWORD, Server, postgres_server  # noqa: F401
from tests.warm import BIN, warm_bin

NEVER = "0 0 29 2 *"
BELL = ("asset_triggered",)
EVERY_MINUTE = "* * * * *"
COMMANDS = (("dvc", "repro"), ("lethe", "train"))
HOLD = str(Path(__file__).parent / "held.py")
STORES = ("source", "vault", "ledger", "registry")

Person = tuple[str, str, str, str]  # key, name, e-mail address, telephone number


@dataclass
class Loop:
    """The workspace, its server, and what was seen on the way."""

    workspace: Workspace
    airflow: Airflow
    server: Server
    urls: dict[str, str]
    held: Path  # where trainings wait, as `tests.dags.held` says
    people: list[Person] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    trained: list[Person] = field(default_factory=list)
    never: list[str] = field(default_factory=list)  # keys of people who never agreed
    asked: dict[str, list[str]] = field(default_factory=dict)
    killed: dict[str, Any] = field(default_factory=dict)
    posted: dict[str, Any] = field(default_factory=dict)
    runs: list[tuple[str, str, str]] = field(default_factory=list)

    def lethe(self, *words: str) -> str:
        addresses = {f"LETHE_{store.upper()}_URL": self.urls[store] for store in STORES}
        return self.workspace.lethe(*words, **addresses).stdout

    def ask(self, who: str, *keys: str) -> None:
        """Asks for all of them in one moment."""
        file = self.workspace.root.parent / "asked.csv"
        file.write_text("\n".join(["patient_id", *keys]) + "\n")
        made = json.loads(self.lethe("erase", "request", "--csv", str(file), "--json"))
        file.unlink()
        self.asked[who] = [each["request"] for each in made]

    def rows(self, store: str, statement: str) -> list[Any]:
        with psycopg.connect(self.server.url(self.urls[store].rpartition("/")[2])) as connected:
            return connected.execute(statement.encode()).fetchall()

    def trainings(self) -> dict[str, str]:
        """The state of every training that the ledger was ever charged with."""
        found = self.rows("ledger", "SELECT about, kind FROM ledger_entries ORDER BY position")
        return {about: kind for about, kind in found if kind != "carried"}

    def closed(self, who: str) -> bool:
        done = self.rows("ledger", "SELECT request_id FROM rights_requests WHERE state = 'closed'")
        return set(self.asked[who]) <= {row[0] for row in done}

    def marked(self, who: str, step: str) -> bool:
        done = self.rows("ledger", "SELECT request_id, step FROM rights_marks")
        return {(each, step) for each in self.asked[who]} <= set(done)

    def holds_training(self, name: str) -> bool:
        return (self.held / f"{name}.held").exists()

    def processes(self) -> list[int]:
        """Whatever runs for this workspace or in it: commands of tasks, and Airflow's own parts."""
        ours = f"LETHE_HOME={self.workspace.root}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and (
                    ours in (entry / "environ").read_bytes().split(b"\0")
                    or (entry / "cwd").readlink().is_relative_to(self.workspace.root)
                ):
                    found.append(int(entry.name))
        return found

    def named(self, *words: str) -> list[int]:
        """Those of them whose command has these words after one another."""
        wanted = "\0".join(words).encode()
        found = []
        for process in self.processes():
            with suppress(OSError):
                if wanted in Path(f"/proc/{process}/cmdline").read_bytes():
                    found.append(process)
        return found

    def groups(self) -> dict[str, set[int]]:
        """By command: the process groups of the task that trains and what it started."""
        found: dict[str, set[int]] = {}
        for words in COMMANDS:
            groups = found.setdefault(" ".join(words), set())
            for process in self.named(*words):
                with suppress(ProcessLookupError):
                    groups.add(os.getpgid(process))
        return found

    def meanwhile(self, what: str, there: Callable[[], object]) -> None:
        """Looks often enough not to miss a moment."""
        until = time.monotonic() + PATIENCE_S
        while not there():
            assert time.monotonic() < until, f"Too late: {what}\n{self.airflow.story()}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def loop(
    postgres_server: Server,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Loop]:
    made = _finished(postgres_server, tmp_path_factory.mktemp("loop"))
    _choose(made)
    airflow = made.airflow
    airflow.start()
    try:
        airflow.wait("the doorbell is listening", airflow.listens)
        _ten_ask_while_a_run_trains(made)
        _the_run_is_killed(made)
        _the_scheduler_is_killed(made)
        airflow.environment |= {"LETHE_POLL": EVERY_MINUTE, "LETHE_DOORBELL_SECONDS": "86400"}
        airflow.start()
        airflow.wait("all ten are closed", lambda: made.closed("ten"))
        _be(BIN, Path(airflow.environment["LETHE_BIN"]))
        _the_sweep_alone_finds_one(made)
        _a_post_rings_for_another(made)
        made.runs = airflow.runs("erase")
    finally:
        airflow.stop()
    yield made


def _finished(server: Server, folder: Path) -> Loop:
    urls = {name: server.own(f"{name}_{os.urandom(4).hex()}") for name in (*STORES, "airflow")}
    workspace = make_workspace(folder / "workspace")

    def elsewhere(raw: dict[str, Any]) -> None:
        raw["source"]["url"] = "env:LETHE_SOURCE_URL"
        raw["stores"].update({name: f"env:LETHE_{name.upper()}_URL" for name in STORES[1:]})
        raw["training"]["mechanism"]["steps"] = 60  # its first checkpoint is after the fiftieth

    workspace.edit_params(elsewhere)
    author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    workspace.run("git", *author, "commit", "--quiet", "--all", "--message", "Elsewhere")
    binaries = folder / "bin"
    _be(warm_bin(), binaries)
    held = folder / "held"
    held.mkdir()
    for name in ("1", "2"):
        (held / name).touch()
    airflow = Airflow(
        workspace.root / ".airflow",
        workspace.root,
        LETHE_POLL=NEVER,
        LETHE_TRAIN_SCHEDULE="",
        LETHE_RETAIN_SCHEDULE="",
        LETHE_DEEP_AUDIT_SCHEDULE="",
        LETHE_DOORBELL_SECONDS="1",
        LETHE_BIN=str(binaries),
        WARM_FIRST=HOLD,
        HELD=str(held),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=urls["airflow"],
        **{f"LETHE_{name.upper()}_URL": urls[name] for name in STORES},
    )
    made = Loop(workspace, airflow, server, urls, held)
    made.lethe("key")
    made.lethe("sample", "--patients", "1500")
    made.lethe("run")
    workspace.run("dvc", "push", "--quiet")
    return made


def _be(folder: Path, link: Path) -> None:
    """From one moment to the next, even while Airflow runs."""
    link.with_suffix(".new").symlink_to(folder)
    link.with_suffix(".new").rename(link)


def _choose(loop: Loop) -> None:
    """Who is in the source, and whom the model in use was trained on."""
    loop.people = loop.rows("source", "SELECT patient_id, full_name, email, phone FROM patients")
    key = read_key_file(loop.workspace.root / "secrets" / "lethe.key")
    keys = [person[0] for person in loop.people]
    with (
        Vault.open(loop.urls["vault"], key) as vault,
        Ledger.open(loop.urls["ledger"]) as ledger,
    ):
        (run,) = ledger.runs()
        loop.tokens = dict(zip(keys, vault.lookup(keys).tolist(), strict=True))
    trained = set(run.eligible)
    loop.trained = [p for p in loop.people if loop.tokens[p[0]] in trained][:9]
    never = [p for p in loop.people if loop.tokens[p[0]] < 0]
    loop.never = [person[0] for person in never][:3]


def _ten_ask_while_a_run_trains(loop: Loop) -> None:
    first, *others = [person[0] for person in loop.trained]
    loop.ask("first", first)
    loop.airflow.wait("the bell starts a run", lambda: loop.airflow.runs("erase"))
    loop.airflow.wait("it trains", lambda: loop.holds_training("1"))
    loop.ask("ten", *others, loop.never[0], "nobody-by-this-key")
    (loop.held / "1.held").unlink()


def _the_run_is_killed(loop: Loop) -> None:
    """The process groups of its commands: each that starts another gives it one of its own."""
    loop.airflow.wait("it trains for the ten", lambda: loop.holds_training("2"))
    groups = loop.groups()
    loop.killed = dict(
        commands=[command for command, each in groups.items() if each],
        state=list(loop.trainings().values())[-1],
    )
    for group in set().union(*groups.values()):
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    before = len(_states(loop))
    loop.airflow.wait("its run failed", lambda: _states(loop)[before - 1] == "failed")
    loop.airflow.trigger("erase")  # as the sweep would within minutes


def _the_scheduler_is_killed(loop: Loop) -> None:
    loop.airflow.wait("the next retrains", lambda: loop.marked("ten", "retrained"))
    (scheduler, *_) = sorted(loop.named("scheduler", "--skip-serve-logs"))
    os.kill(scheduler, signal.SIGKILL)
    loop.meanwhile("Airflow ends with it", loop.airflow.ended)
    loop.airflow.stop()
    loop.meanwhile("its task does too", lambda: not loop.processes())


def _the_sweep_alone_finds_one(loop: Loop) -> None:
    """Once every run that a bell or a hand had started, or queued, has ended."""
    ended = ("success", "failed")
    # A bell that rings while one runs is a run of its own only once that has ended.
    queued = "SELECT 1 FROM asset_dag_run_queue WHERE target_dag_id = ?"
    loop.airflow.wait(
        "no bell is left",
        lambda: (
            not loop.airflow.ask(queued, "erase")
            and all(s in ended for _, kind, s in loop.airflow.runs("erase") if kind != "scheduled")
        ),
    )
    before = {run for run, _, state in loop.airflow.runs("erase") if state in ended}
    watchers = loop.airflow.watchers()
    loop.ask("swept", loop.never[1])
    loop.airflow.wait("the sweep finds it", lambda: loop.closed("swept"))
    since = {kind for run, kind, _ in loop.airflow.runs("erase") if run not in before}
    loop.posted["kinds of the sweep"] = since
    loop.posted["watchers since"] = loop.airflow.watchers() - watchers


def _a_post_rings_for_another(loop: Loop) -> None:
    """As `docs/airflow.md` has it."""
    passwords = loop.airflow.folder / "simple_auth_manager_passwords.json.generated"
    ((user, password),) = json.loads(passwords.read_text()).items()
    said = loop.posted
    login = {"username": user, "password": password}
    said["login"], got = loop.airflow.rest("/auth/token", login)
    token = got["access_token"]
    _, found = loop.airflow.rest("/api/v2/assets?name_pattern=lethe-requests", token=token)
    (asset,) = found["assets"]
    event = {"asset_id": asset["id"]}
    said["without a login"], _ = loop.airflow.rest("/api/v2/assets/events", event)
    loop.ask("posted", loop.never[2])
    said["with one"], said["event"] = loop.airflow.rest("/api/v2/assets/events", event, token=token)
    # Not by `dagrun_asset_event`: Airflow counts a bell as one with another that waits for its run.
    started = (
        "SELECT dag_run.state FROM dag_run JOIN asset_event ON start_date >= timestamp "
        f"WHERE run_type = '{BELL[0]}' AND asset_event.id = {int(said['event']['id'])}"
    )
    loop.airflow.wait("the post starts a run", lambda: ("success",) in loop.airflow.ask(started))
    loop.airflow.wait("it is carried out", lambda: loop.closed("posted"))
    loop.airflow.wait("nothing runs", lambda: "running" not in _states(loop))


def _states(loop: Loop) -> list[str]:
    return [state for _, _, state in loop.airflow.runs("erase")]


def _ledger(loop: Loop) -> list[Reservation]:
    with Ledger.open(loop.urls["ledger"]) as ledger:
        return ledger.runs()


def test_the_bell_alone_started_the_first_run(loop: Loop) -> None:
    assert loop.runs[0][1] == "asset_triggered"


def test_the_new_version_is_champion_and_the_old_ones_are_gone(loop: Loop) -> None:
    (version,) = Registry.open(loop.urls["registry"]).versions("readmission")
    assert set(version.aliases) == {"candidate", "champion"}
    assert version.tags["run_id"] == _ledger(loop)[-1].run_id
    # 2: what trained for the first was not registered, since people in it had asked meanwhile.
    # 3: it was, a moment before they did.
    assert version.version in (2, 3)
    receipts = loop.rows("ledger", "SELECT text FROM rights_receipts")
    became = {
        model["version"]: model["replaced_by"]
        for (text,) in receipts
        for model in json.loads(text)["receipt"]["models"]
    }
    numbers = range(1, version.version)
    assert became == {f"readmission/{n}": f"readmission/{n + 1}" for n in numbers}


def test_everybody_who_asked_has_one_receipt_that_holds(loop: Loop) -> None:
    asked = [request for each in loop.asked.values() for request in each]
    assert [len(each) for each in loop.asked.values()] == [1, 10, 1, 1]
    rows = json.loads(loop.lethe("erase", "status", "--json"))
    assert {row["request"]: row["state"] for row in rows} == dict.fromkeys(asked, "closed")
    receipts = loop.rows("ledger", "SELECT request_id FROM rights_receipts")
    assert sorted(row[0] for row in receipts) == sorted(asked)
    said = loop.lethe("erase", "receipt", "--check")
    assert "Receipts 1 to 13: signatures and chain hold." in said


def test_ten_who_ask_during_a_run_and_a_kill_cost_one_retraining_together(loop: Loop) -> None:
    """By the ledger: every training that was ever reserved, whether it ended or not."""
    first, second, third = _ledger(loop)
    assert [run.state for run in (first, second, third)] == ["settled"] * 3
    tokens = [loop.tokens[person[0]] for person in loop.trained]
    assert set(first.eligible) - set(second.eligible) == {tokens[0]}
    assert set(second.eligible) - set(third.eligible) == set(tokens[1:])


def test_what_was_killed_is_red_and_everything_after_it_went_on(loop: Loop) -> None:
    states = [state for _, _, state in loop.runs]
    assert loop.killed == {
        "commands": ["dvc repro", "lethe train"],
        "state": "reserved",
    }, "in the middle of a training"
    # First the ten asked before the first run's model was registered, or just after it was. Then
    # came the kill; the third was under way when the scheduler was killed.
    assert states[1] == "failed"
    # The sweep goes on for ever.
    assert set(states[3:]) <= {"success", "queued", "running"}
    assert states.count("success") >= 2


def test_a_lost_bell_is_made_good_by_the_sweep_alone(loop: Loop) -> None:
    # A watcher that is started anew rings for what is open then; a slow machine has some of those.
    kinds = loop.posted["kinds of the sweep"]
    assert kinds == {"scheduled"} or loop.posted["watchers since"] > 0
    assert "scheduled" in kinds


def test_a_post_from_outside_starts_a_run_and_needs_a_login(loop: Loop) -> None:
    assert (loop.posted["login"], loop.posted["without a login"]) == (201, 401)
    assert loop.posted["with one"] == 200
    assert loop.posted["event"]["extra"] == {}, "it carries nothing"


def test_no_person_of_the_source_is_anywhere_in_airflow(loop: Loop) -> None:
    assert len(loop.people) == 1500
    name = loop.urls["airflow"].rpartition("/")[2]
    dump = loop.server.dump(name)
    assert loop.asked["swept"][0] not in dump, "the bell carries a count and no more"
    assert "lethe-requests" in dump
    logs = [path for path in loop.airflow.folder.rglob("*") if path.is_file()]
    assert any(loop.asked["swept"][0].encode() in path.read_bytes() for path in logs)
    contents = [dump.encode(), *(p.read_bytes() for p in (*logs, *loop.server.files(name)))]
    values = {
        form.encode()
        for person in loop.people
        for value in person
        if value
        for form in (value, json.dumps(value)[1:-1])
    }
    assert len(values) > 5000
    found = [_those_in(content, values) for content in contents]
    assert [each for each in found if each] == []
    assert _those_in(dump.encode() + b" of " + min(values), values) == {min(values)}
    assert [content for content in contents if PASSWORD.encode() in content] == []


def _those_in(content: bytes, values: set[bytes]) -> set[bytes]:
    """The values that some bytes hold; by their first eight bytes, since they are thousands."""
    first = np.array([int.from_bytes(v[:8], "little") for v in values if len(v) >= 8], dtype="<u8")
    there = set()
    for shift in range(8):
        windows = np.frombuffer(content[shift : len(content) - (len(content) - shift) % 8], "<u8")
        there |= set(windows[np.isin(windows, first)].tolist())
    likely = {v for v in values if len(v) < 8 or int.from_bytes(v[:8], "little") in there}
    return {value for value in likely if value in content}


def test_nobody_who_was_erased_is_left_in_any_store(loop: Loop) -> None:
    gone = [person for person in loop.trained]
    gone += [person for person in loop.people if person[0] in loop.never]
    assert len(gone) == 12
    tokens = BitMap([loop.tokens[person[0]] for person in loop.trained])
    sought = [(p, needles(Traces(p[0], None, tuple(filter(None, p[1:3]))))) for p in gone]
    files = [p for p in loop.workspace.root.rglob("*") if p.is_file() and not p.is_symlink()]
    assert {".dvc", "remote", "mlruns", ".airflow", "receipts"} <= {
        path.relative_to(loop.workspace.root).parts[0] for path in files
    }
    assert [path for path in files if holds(path, tokens)] == []
    for store in STORES:
        name = loop.urls[store].rpartition("/")[2]
        dump = loop.workspace.root.parent / f"{store}.sql"
        dump.write_text(loop.server.dump(name))
        # What a vacuum leaves in a page of the source is the source's own, and said in the receipt.
        files += [dump] if store == "source" else [dump, *loop.server.files(name)]
    found = []
    for path in files:
        content = path.read_bytes()
        found += [(path, person[0]) for person, each in sought if each.in_bytes(content)]
    assert found == []


def test_nothing_is_left_running(loop: Loop) -> None:
    assert loop.processes() == []
