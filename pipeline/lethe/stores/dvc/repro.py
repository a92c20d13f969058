"""DVC and git: what was made from what, where its bytes are, and running the pipeline.

The only module that knows DVC's files and command. Objects are looked up by their md5 in
DVC's cache; what a past commit used is read from its `dvc.lock`.
"""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.children import environment_without_keys
from lethe.core.ends import end_group
from lethe.core.errors import Busy, LetheError, NotFound
from lethe.core.files import parse_people
from lethe.core.reading import damage
from lethe.stores.dvc.git import no_lock, read_lock
from lethe.stores.dvc.settings import cache_folder

LOCK = Path("dvc.lock")

_STARTED = re.compile(r"^Running stage '([^']+)':$")
_SKIPPED = re.compile(r"^Stage '([^']+)' (?:didn't change, skipping|is cached - skipping run)")
_FAILED = re.compile(r"^ERROR: failed to reproduce '([^']+)'(?:: (.*))?$")
_EXITED = re.compile(r"exited with (-?\d+)")
_BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")


@dataclass(frozen=True)
class StageEvent:
    """What became of a stage: `exit_code` and `message` are of a failed one."""

    kind: Literal["started", "finished", "skipped", "failed"]
    stage: str
    exit_code: int = 0
    message: str = ""


@dataclass(frozen=True)
class GitState:
    """The code that ran; without a commit nothing pins it, so it counts as dirty."""

    commit: str | None
    dirty: bool


class History:
    """The history of one workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def repro(
        self,
        targets: Sequence[str] | None = None,
        *,
        force: bool = False,
        single: bool = False,
    ) -> Generator[StageEvent, None, None]:
        """Runs what changed of the pipeline, and yields what becomes of each stage at once.

        A stage that fails ends the run with its `failed` event. Leaving the iteration early
        ends DVC and the stage that is running, and waits for both.

        Args:
            targets: stages to reach; the whole pipeline by default.
            force: run even what did not change.
            single: run the targets alone, not what they depend on.

        Raises:
            Busy: another run holds the workspace.
            LetheError: DVC itself gave up before it could say which stage.
        """
        words = [sys.executable, "-m", "dvc", "repro"]
        words += ["--force"] * force + ["--single-item"] * single + list(targets or ())
        process = subprocess.Popen(
            words,
            cwd=self.root,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that it can be ended together with the stage it runs
        )
        try:
            yield from _events(process)
        finally:
            end_group(process)
            if process.stdout is not None:
                process.stdout.close()

    def lock(self) -> dict[str, Any]:
        """`dvc.lock` as data; empty before anything ran.

        Raises:
            LetheError: it is not YAML, as a merge conflict leaves it.
        """
        try:
            return _parsed((self.root / LOCK).read_bytes())
        except FileNotFoundError:
            return {}

    def lock_bytes(self) -> bytes | None:
        try:
            return (self.root / LOCK).read_bytes()
        except FileNotFoundError:
            return None

    def out_md5(self, path: Path) -> str | None:
        """md5 that `dvc.lock` has for an output, None if none; a folder's ends in `.dir`."""
        with damage(no_lock):
            return _out_md5(self.lock(), path)

    def used_md5(self, stage: str, path: Path) -> str | None:
        """md5 of an input as a stage last ran with it; None if it never did."""
        with damage(no_lock):
            return _md5_of(self.lock().get("stages", {}).get(stage, {}).get("deps", ()), path)

    def cached(self, md5: str) -> Path:
        """Where DVC's cache has an object.

        Raises:
            NotFound: it is not in this machine's cache.
        """
        path = cache_folder(self.root) / "files" / "md5" / md5[:2] / md5[2:]
        if not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5) or not path.is_file():
            raise NotFound(
                f"Object {md5} is not in DVC's cache here. Fetch it with `dvc pull --all-commits`."
            )
        return path

    def read_manifest(self, md5: str) -> BitMap:
        """The tokens of a manifest.

        Raises:
            NotFound: it is not in this machine's cache, or not what its name says.
        """
        content = self.cached(md5).read_bytes()
        if _md5(content) != md5:
            raise NotFound(f"Object {md5} in DVC's cache is damaged. Remove it and run `dvc pull`.")
        return parse_people(content, of=f"Object {md5} in DVC's cache")

    def git_state(self) -> GitState:
        """The commit that is checked out, and whether tracked files differ from it.

        What the pipeline itself writes (`dvc.lock`, reports) and untracked files do not count.
        """
        commit = self._git("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if commit is None:
            return GitState(None, dirty=True)
        written = [f":(exclude){LOCK}", f":(exclude){workspace.REPORTS}"]
        changed = self._git("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
        return GitState(commit.decode().strip(), dirty=changed is None or bool(changed.strip()))

    def _git(self, *words: str) -> bytes | None:
        """What git answers; None where there is no git, no repository or no such thing."""
        try:
            done = subprocess.run(
                ["git", *words],
                cwd=self.root,
                env=environment_without_keys(),
                capture_output=True,
                check=False,
                timeout=60,
            )
        except FileNotFoundError:
            return None
        return done.stdout if done.returncode == 0 else None


def _environment() -> dict[str, str]:
    """The environment that DVC runs stages in: this Python's own commands come first.

    With the keys: some of the stages need them, and DVC starts them all.
    """
    own = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _events(process: subprocess.Popen[str]) -> Iterator[StageEvent]:
    """The events in what `dvc repro` prints."""
    running: str | None = None
    failed: StageEvent | None = None
    complaint = ""
    busy = False
    for raw in process.stdout or ():
        line = raw.rstrip("\n")
        if started := _STARTED.match(line):
            if running is not None:
                yield StageEvent("finished", running)
            running = started[1]
            yield StageEvent("started", running)
        elif skipped := _SKIPPED.match(line):
            if running is not None:
                yield StageEvent("finished", running)
            running = None
            yield StageEvent("skipped", skipped[1])
        elif line.startswith("ERROR: "):
            complaint = complaint or line.removeprefix("ERROR: ")
            if found := _FAILED.match(line):
                message = found[2] or ""
                exited = _EXITED.search(message)
                failed = StageEvent("failed", found[1], int(exited[1]) if exited else 1, message)
            busy = busy or bool(_BUSY.search(line))
    code = process.wait()
    if code == 0:
        if running is not None:
            yield StageEvent("finished", running)
    elif busy:
        raise Busy(
            "Another run holds this workspace. Wait for it to end, or run in a git worktree of its "
            "own."
        )
    elif failed is not None:
        yield failed
    else:
        raise LetheError(
            f"dvc repro ended with {code}: {complaint or 'no reason given'}. "
            "Run it by hand to see more."
        )


def _parsed(content: bytes) -> dict[str, Any]:
    parsed = read_lock(content)
    return parsed if isinstance(parsed, dict) else {}


def _out_md5(lock: dict[str, Any], path: Path) -> str | None:
    for stage in lock.get("stages", {}).values():
        if found := _md5_of(stage.get("outs", ()), path):
            return found
    return None


def _md5_of(entries: Iterable[dict[str, Any]], path: Path) -> str | None:
    return next((each.get("md5") for each in entries if each.get("path") == path.as_posix()), None)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
