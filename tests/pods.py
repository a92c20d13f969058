"""Pods, played by processes: each in an empty folder, with remotes and stores in common alone."""

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from tests.conftest import Workspace, copy_workspace
from tests.warm import BIN, warm_bin

KEYS = ("minimize", "consent", "pseudonymize", "register")  # as meta says; a test compares
SECRET = ("source", "vault")  # what only these are given, beside the key


@dataclass
class Cluster:
    """A workspace (HOME), a bare git remote, a DVC remote, and volumes that go with a run."""

    home: Workspace
    folder: Path
    given: dict[str, str] = field(default_factory=dict)

    @property
    def git_remote(self) -> Path:
        return self.folder / "git.git"

    @property
    def dvc_remote(self) -> Path:
        return self.folder / "dvc"

    def at_home(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return self.home.lethe(*words, check=check, **self.given, LETHE_GIT_REMOTE=self._git)

    def volume(self, run: str, name: str) -> Path:
        return self.folder / "volumes" / run / name

    def pod(
        self, run: str, stage: str, *, check: bool = True, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """One pod from its start to its end; its own folder goes with it."""
        process = self.start(run, stage, binaries=warm_bin(), **environment)
        said, _ = process.communicate(timeout=300)
        self._gone(run, stage)
        if check and process.returncode:
            raise AssertionError(f"{stage} ended with {process.returncode}\n{said}")
        return subprocess.CompletedProcess(process.args, process.returncode, said, "")

    def start(
        self, run: str, stage: str, *, binaries: Path = BIN, **environment: str
    ) -> "subprocess.Popen[str]":
        """One pod; of this environment's own commands where all its processes are to be killed."""
        own = self.folder / "pods" / run / stage
        own.mkdir(parents=True)
        return subprocess.Popen(
            [
                *(str(binaries / "lethe"), "pod", "stage", stage, "--run", run),
                *("--folder", str(self.work(run, stage)), "--watch-seconds", "0.3"),
            ],
            cwd=own,
            env=self._environment(stage, own, binaries) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def work(self, run: str, stage: str) -> Path:
        if stage in KEYS:
            return self.volume(run, "keys") / "work"
        if stage in ("train", "audit"):  # what one records, the other looks at
            return self.volume(run, "training") / "work"
        return self.folder / "pods" / run / stage / "work"

    def kill(self, run: str, stage: str, process: "subprocess.Popen[str]") -> None:
        """As a node that is gone: all processes at once, without a word."""
        children = psutil.Process(process.pid).children(recursive=True)
        for each in [process.pid, *(child.pid for child in children)]:
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()
        psutil.wait_procs(children, timeout=300)
        self._gone(run, stage)

    def drop_volumes(self, run: str) -> None:
        shutil.rmtree(self.folder / "volumes" / run, ignore_errors=True)

    def state(self, run: str) -> dict[str, Any] | None:
        """What the run's ref says of itself."""
        said = subprocess.run(
            ["git", "log", "-1", "--format=%b", f"refs/lethe/walks/{run}"],
            cwd=self.git_remote,
            capture_output=True,
            text=True,
        )
        found: dict[str, Any] | None = json.loads(said.stdout) if not said.returncode else None
        return found

    @property
    def _git(self) -> str:
        return str(self.git_remote)

    def _environment(self, stage: str, own: Path, binaries: Path) -> dict[str, str]:
        kept = {k: v for k, v in self.home.environment().items() if not k.startswith("GIT_")}
        given = {
            name: value
            for name, value in self.given.items()
            if stage in KEYS or not name.startswith(("LETHE_SOURCE", "LETHE_VAULT", "LETHE_KEY"))
        }
        kept["PATH"] = f"{binaries}{os.pathsep}{os.environ['PATH']}"
        return kept | given | {"HOME": str(own), "LETHE_GIT_REMOTE": self._git}

    def _gone(self, run: str, stage: str) -> None:
        shutil.rmtree(self.folder / "pods" / run / stage)


STORES = ("vault", "ledger", "registry")


def make_cluster(finished: Workspace, folder: Path) -> Cluster:
    """A copy of a finished workspace whose stores have addresses that every pod reaches."""
    home = copy_workspace(finished, folder / "home")
    root = home.root
    given = {
        "LETHE_SOURCE_URL": f"sqlite:///{root / 'data' / 'clinic.db'}",
        "LETHE_VAULT_URL": f"sqlite:///{root / '.lethe' / 'vault.db'}",
        "LETHE_LEDGER_URL": f"sqlite:///{root / '.lethe' / 'ledger.db'}",
        "LETHE_REGISTRY_URL": f"sqlite:///{root / 'mlflow.db'}",
        "LETHE_KEY": (root / "secrets" / "lethe.key").read_text().strip(),
    }

    def edit(raw: dict[str, Any]) -> None:
        raw["source"]["url"] = "env:LETHE_SOURCE_URL"
        raw["stores"].update({name: f"env:LETHE_{name.upper()}_URL" for name in STORES})
        raw["training"]["mechanism"].update(steps=200, noise_multiplier=3.0)
        del raw["training"]["mechanism"]["epsilon"]
        raw["audit"] = {"subjects": 200, "replays": 1}
        raw["erasure"]["retrain"] = "manual"  # the loop of an erasure has tests of its own

    home.edit_params(edit)
    made = Cluster(home, folder, given)
    home.run("dvc", "remote", "modify", "--quiet", "default", "url", str(made.dvc_remote))
    home.run("git", "init", "--quiet", "--bare", str(made.git_remote))
    name = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    home.run("git", *name, "commit", "--quiet", "--all", "--message", "Stores of a cluster")
    return made


def people(root: Path) -> list[tuple[str, ...]]:
    """Key, name and addresses of everybody in the source."""
    with sqlite3.connect(root / "data" / "clinic.db") as clinic:
        found = clinic.execute(
            "SELECT patient_id, full_name, email, phone FROM patients ORDER BY patient_id"
        ).fetchall()
    clinic.close()
    return found


def contents(cluster: Cluster) -> dict[str, bytes]:
    """Every object of both remotes, whether anything leads to it or not, unpacked."""
    listed = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"],
        cwd=cluster.git_remote,
        capture_output=True,
        check=True,
    ).stdout
    found = {}
    at = 0
    while at < len(listed):
        end = listed.index(b"\n", at)
        name, _, size = listed[at:end].decode().split()
        at = end + 1 + int(size) + 1
        found[name] = _unpacked(listed[end + 1 : at - 1])
    for path in sorted(cluster.dvc_remote.rglob("*")):
        if path.is_file():
            found[path.relative_to(cluster.dvc_remote).as_posix()] = unpacked(path)
    return found


def unpacked(path: Path) -> bytes:
    """A file's bytes; of Parquet its values too, which lie there compressed."""
    return _unpacked(path.read_bytes())


def _unpacked(content: bytes) -> bytes:
    if content[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(content))
        words = {str(v) for column in table.columns for v in column.unique().to_pylist()}
        content += "\n".join(sorted(words)).encode() + str(table.schema).encode()
    return content


def wait_for(path: Path, pattern: str, process: "subprocess.Popen[str]") -> Path:
    """The first file of that name, as soon as it is there."""
    until = time.monotonic() + 600
    while True:
        if found := next(path.glob(pattern), None):
            return found
        if process.poll() is not None or time.monotonic() > until:
            said = process.communicate()[0] if process.poll() is not None else ""
            raise AssertionError(f"{pattern} never came; exit {process.poll()}\n{said}")
        time.sleep(0.02)
