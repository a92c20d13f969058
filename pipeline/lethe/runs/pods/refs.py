"""A run in pods as the git remote knows it: one ref a run, which every step swaps for the next.

`refs/lethe/walks/RUN` is one commit on top of the release that the run began at: that release's
files, with the run's own `dvc.lock` and reports. The next step replaces it, so that its parent is
always the release, and the registry names a commit that stays. A swap is refused by the remote
itself if anybody swapped it before: that is how an erasure ends a run that it cannot reach.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lethe.core.children import environment_without_keys
from lethe.core.errors import FileDamaged, RunEnded, StoreUnavailable
from lethe.core.files import parse_json
from lethe.core.reading import damage
from lethe.stores.dvc.git import LOCK, git

PREFIX = "refs/lethe/walks/"
REMOTE = "lethe.walks"  # git's setting of a workspace: where its runs in pods are
_SECONDS = 120
_NOBODY = {  # a ref that every pod swaps is nobody's work
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "lethe"), ("EMAIL", "lethe@localhost"))
}

# keys: the run's scratch has subject keys. pushing: objects are on their way to DVC's remote.
# revoked: somebody in it was erased; it can only be closed.
State = Literal["idle", "keys", "pushing", "revoked"]


@dataclass(frozen=True)
class PodRun:
    """A ref as it was read; `files` are the run's own, its lock and reports, by path."""

    run: str
    commit: str
    base: str
    below: str  # where in git's tree the workspace stands: "" or "folder/"
    state: State
    files: Mapping[str, bytes]

    @property
    def lock(self) -> bytes | None:
        return self.files.get(LOCK.as_posix())


class Refs:
    """The runs on a git remote, seen from a repository on this machine.

    Args:
        root: a workspace, or an empty repository of a pod's own.
        remote: git's name or address of the remote; it may hold a credential and is never shown.
        depth: how many commits to fetch; all without it.
    """

    def __init__(self, root: Path, remote: str, *, depth: int | None = None) -> None:
        self.root = root
        self._remote = remote
        self._depth = [f"--depth={depth}"] if depth else []

    def find(self, run: str) -> PodRun | None:
        """A run; None if there is none (any more).

        Raises:
            StoreUnavailable: the remote does not answer.
        """
        ref = f"{PREFIX}{run}"
        if not self._ask("ls-remote", self._remote, ref).strip():
            git(self.root, "update-ref", "-d", ref)
            return None
        self._ask("fetch", *self._quiet, *self._depth, self._remote, f"+{ref}:{ref}")
        return self._read(run)

    def peek(self, run: str) -> str | None:
        """The commit that the run's ref has now, "" if it is gone; None if nobody answers."""
        done = self._run("ls-remote", self._remote, f"{PREFIX}{run}")
        return done.stdout.decode().partition("\t")[0].strip() if not done.returncode else None

    def all(self) -> list[PodRun]:
        """Every run that is not closed; those that are are forgotten here too.

        Raises:
            StoreUnavailable: the remote does not answer.
        """
        both = f"+{PREFIX}*:{PREFIX}*"
        self._ask("fetch", *self._quiet, *self._depth, "--prune", self._remote, both)
        names = self._ask("for-each-ref", "--format=%(refname)", PREFIX).decode().split()
        return [self._read(name.removeprefix(PREFIX)) for name in names]

    def begin(self, run: str, *, base: str, below: str, files: Mapping[str, bytes]) -> PodRun:
        """Puts a run's first commit on the remote; nothing else there is touched.

        Raises:
            RunEnded: the run has one already.
            StoreUnavailable: the remote does not answer.
        """
        return self._swap(PodRun(run, "", base, below, "idle", files))

    def swap(
        self, pod_run: PodRun, state: State, files: Mapping[str, bytes] | None = None
    ) -> PodRun:
        """The run's next commit in place of this one.

        Raises:
            RunEnded: the ref is not what it was: the run was revoked or closed, or another
                pod of the same stage is at work.
            StoreUnavailable: the remote does not answer.
        """
        kept = pod_run.files if files is None else files
        return self._swap(
            PodRun(pod_run.run, pod_run.commit, pod_run.base, pod_run.below, state, kept)
        )

    def end(self, pod_run: PodRun) -> None:
        """Takes the ref away, if it is still what was read.

        Raises:
            RunEnded: it is not.
            StoreUnavailable: the remote does not answer.
        """
        self._push(pod_run, "")
        self.forget(pod_run)

    def forget(self, pod_run: PodRun) -> None:
        """Drops the ref here, not on the remote."""
        git(self.root, "update-ref", "-d", f"{PREFIX}{pod_run.run}")

    @property
    def _quiet(self) -> list[str]:
        return ["--quiet", "--no-tags", "--no-write-fetch-head"]

    def _read(self, run: str) -> PodRun:
        commit = self._ask("rev-parse", f"{PREFIX}{run}^{{commit}}").decode().strip()
        base = self._ask("rev-parse", f"{commit}^1").decode().strip()
        of = f"What {PREFIX}{run} notes of its run"
        noted = parse_json(self._ask("log", "-1", "--format=%b", commit), of=of)
        with damage(lambda: FileDamaged(f"{of} is not as Lethe writes it. Start a new run.")):
            state = {each: each for each in get_args(State)}[noted["state"]]
            below, names = str(noted["below"]), list(map(str, noted["files"]))
        files = {name: self._ask("cat-file", "blob", f"{commit}:{below}{name}") for name in names}
        return PodRun(run, commit, base, below, state, files)

    def _swap(self, after: PodRun) -> PodRun:
        said = {"below": after.below, "files": sorted(after.files), "state": after.state}
        message = f"Run {after.run}\n\n{json.dumps(said)}"
        with tempfile.TemporaryDirectory() as folder:
            alone = {"GIT_INDEX_FILE": str(Path(folder) / "index"), **_NOBODY}
            self._ask("read-tree", after.base, more=alone)
            for name, content in sorted(after.files.items()):
                blob = self._ask("hash-object", "-w", "--stdin", stdin=content).decode().strip()
                entry = f"100644,{blob},{after.below}{name}"
                self._ask("update-index", "--add", "--cacheinfo", entry, more=alone)
            tree = self._ask("write-tree", more=alone).decode().strip()
            words = ("commit-tree", tree, "-p", after.base, "-m", message)
            commit = self._ask(*words, more=alone).decode().strip()
        self._push(after, commit)
        self._ask("update-ref", f"{PREFIX}{after.run}", commit)
        return PodRun(after.run, commit, after.base, after.below, after.state, dict(after.files))

    def _push(self, pod_run: PodRun, commit: str) -> None:
        """Has the remote put `commit` in place of the run's; of nothing where that is empty."""
        ref = f"{PREFIX}{pod_run.run}"
        done = self._run(
            *("push", "--porcelain", "--no-verify", f"--force-with-lease={ref}:{pod_run.commit}"),
            *(self._remote, f"{commit}:{ref}"),
        )
        if done.returncode == 0:
            return
        if any(line.startswith(b"!") for line in done.stdout.splitlines()):
            raise RunEnded(
                f"Run {pod_run.run} is not what it was: it was revoked for an erasure, closed, or "
                "another pod of the same stage is at work. Nothing of this stage was kept."
            )
        raise self._silent(done)

    def _ask(
        self, *words: str, stdin: bytes | None = None, more: Mapping[str, str] | None = None
    ) -> bytes:
        done = self._run(*words, stdin=stdin, more=more)
        if done.returncode:
            raise self._silent(done)
        return done.stdout

    def _run(
        self, *words: str, stdin: bytes | None = None, more: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            ["git", *words],
            cwd=self.root,
            env={**environment_without_keys(), "GIT_TERMINAL_PROMPT": "0", **(more or {})},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )

    def _silent(self, done: "subprocess.CompletedProcess[bytes]") -> StoreUnavailable:
        """Without what git said, which may quote an address with its credential."""
        return StoreUnavailable(
            f"The git remote of the runs does not answer (git {done.args[1]} ended with "
            f"{done.returncode}). Look at its address, its credentials and the network."
        )


def remote_of(root: Path) -> str | None:
    """Where the runs in pods of a workspace are, as its own git settings say; None: nowhere."""
    return (git(root, "config", "--get", REMOTE) or b"").decode().strip() or None


def note_remote(root: Path, remote: str) -> None:
    """Notes where they are, so that every later erasure looks there, whoever starts it."""
    if remote_of(root) != remote:
        git(root, "config", REMOTE, remote)
