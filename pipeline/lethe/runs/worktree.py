"""One git worktree for each run of the pipeline, which shares HOME's cache and remotes.

It is detached at HOME's commit and begins with HOME's `dvc.lock` and outputs, so what did not
change is not run again. Whatever becomes of it, HOME stays as it is until the run is published
(`lethe.runs.publication`). It is registered as a worktree before HOME's lock is read: an
erasure that looked for worktrees too early to see it has already taken the person from what it
begins with.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from lethe.config import workspace
from lethe.config.home import OLD_WORKTREES, WORKTREES
from lethe.config.home import home as home_of
from lethe.core.errors import Busy, LetheError, NotFound, ParamsInvalid
from lethe.core.files import write_json, write_whole
from lethe.core.locks import waited_for
from lethe.runs.runner import Report, Runner, WorkspaceRunner
from lethe.stores.dvc.git import LOCK, git, parse_lock
from lethe.stores.dvc.graph import read_stages
from lethe.stores.dvc.outputs import check_out, missing_objects, outputs, uncached_files
from lethe.stores.dvc.settings import share_settings
from lethe.stores.dvc.worktree import Worktree

MARK = workspace.STATE / "run.json"  # of an opened worktree; its time is when it was last used
_OLD_MARK = workspace.STATE / "walk.json"  # likewise, of the version before
SCRATCH = (workspace.MINIMIZED, workspace.CONSENTED, workspace.TEMPORARY)  # may have subject keys
# What decides what a run does, beside the files that a stage of dvc.yaml depends on.
DECIDES = ("params.yaml", "dvc.yaml", "behaviour.json", ".dvc/config", ".dvcignore", "pipeline")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_PATIENCE_S = 10  # what a process may take to end when it is asked to
_POLL_S = 1.0


@dataclass(frozen=True)
class RunWorktree:
    """The worktree of one run of `home`.

    `folder` is the worktree; `root` stands in it where HOME stands in its own repository.
    """

    home: Path
    run: str
    root: Path
    place: Path = WORKTREES

    @property
    def folder(self) -> Path:
        return self.home / self.place / self.run

    @classmethod
    def of(cls, home: Path, run: str, *, place: Path = WORKTREES) -> "RunWorktree":
        """The worktree of a run, opened or not.

        Raises:
            ParamsInvalid: `run` cannot name a folder.
        """
        if not _RUN.fullmatch(run) or run.endswith((".lock", ".")) or ".." in run:
            raise ParamsInvalid(
                "A run is named by letters, digits, `_`, `-` and `.`, 100 at most. Give the id "
                "that `lethe worktree open` was given."
            )
        below = (git(home, "rev-parse", "--show-prefix") or b"").decode().strip()
        return cls(home, run, home / place / run / below, place)

    @property
    def is_open(self) -> bool:
        return any((self.root / mark).is_file() for mark in (MARK, _OLD_MARK))

    def touch(self) -> None:
        """Says that it is in use."""
        os.utime(self.root / MARK)

    def idle_seconds(self, now: float) -> float:
        """How long nothing has worked in it, as files show.

        Args:
            now: seconds since the epoch.
        """
        signs = (MARK, _OLD_MARK, LOCK, Path(".dvc/tmp/lock"), Path(".dvc/tmp/rwlock"))
        times = [_mtime(path) for path in (self.folder, *(self.root / sign for sign in signs))]
        return now - max(times)

    def processes(self, *, at_terminal: bool) -> list[psutil.Process]:
        """What works in it: its stages and their children, or what a person has at a terminal."""
        folder = self.folder.resolve()
        found = []
        for process in psutil.process_iter():
            try:
                inside = Path(process.cwd()).is_relative_to(folder)
                if inside and process.pid != os.getpid():
                    found += [process] if bool(process.terminal()) == at_terminal else []
            except (psutil.Error, OSError):
                continue  # ended meanwhile, or another user's
        return found


def open_worktree(home: Path, run: str) -> RunWorktree:
    """Opens the worktree of a run; one that is open is given as it is, to go on with.

    Raises:
        ParamsInvalid: HOME has uncommitted changes in what decides, or no commit to begin at.
        NotFound: HOME's lock names outputs that are not in the cache.
    """
    worktree = RunWorktree.of(home, run)
    with _held(worktree):
        if worktree.is_open and _registered(worktree):
            worktree.touch()
            return worktree
        _refuse_uncommitted(home)
        _remove(worktree)  # what an `open` that was killed left
        made = False
        try:
            _add_worktree(worktree)
            share_settings(home, worktree.root, temporary=worktree.root / workspace.STATE / "dvc")
            _begin(worktree)
            commit = (git(worktree.root, "rev-parse", "HEAD") or b"").decode().strip()
            write_json(worktree.root / MARK, {"commit": commit, "run": run})
            made = True
        finally:
            if not made:
                _remove(worktree)
    return worktree


def close_worktree(
    home: Path, run: str, *, only_if: Callable[[RunWorktree], bool] | None = None
) -> bool:
    """Removes a worktree with everything in it, whatever state it is in; whether there was one.

    What is left of its stages is ended first. A worktree that a person works in at a terminal keeps
    its folder, but not what has subject keys.

    Args:
        only_if: asked once nobody else opens or closes it; a worktree may have come to life.

    Raises:
        Busy: DVC or a training works in it at such a terminal.
    """
    found = [RunWorktree.of(home, run, place=place) for place in (WORKTREES, OLD_WORKTREES)]
    return any([_close(each, only_if) for each in found])


def _close(worktree: RunWorktree, only_if: Callable[[RunWorktree], bool] | None) -> bool:
    if not worktree.folder.exists() and not _admin_folders(worktree):
        return False
    with _held(worktree):
        if only_if is not None and not only_if(worktree):
            return False
        _end(worktree.processes(at_terminal=False))
        clear_scratch(worktree)
        if worktree.processes(at_terminal=True) and (worktree.root / ".dvc").is_dir():
            with Worktree(worktree.root).alone():
                pass
        _remove(worktree)
    return True


def run_worktrees(home: Path) -> list[RunWorktree]:
    """Every worktree that there is something of, by name."""
    return [
        RunWorktree.of(home, path.name, place=place)
        for place in (WORKTREES, OLD_WORKTREES)
        for path in sorted((home / place).glob("*"))
        if path.is_dir() and _RUN.fullmatch(path.name)
    ]


def clear_scratch(worktree: RunWorktree) -> bool:
    """Removes what may have subject keys; whether there was any."""
    found = [path for each in SCRATCH if (path := worktree.root / each).exists()]
    for path in found:
        shutil.rmtree(path)
    return bool(found)


def wait_for_worktree(home: Path, run: str, *, seconds: float) -> RunWorktree:
    """Waits until nothing else holds an open worktree, such as an erasure that looks through it.

    Raises:
        NotFound: it is not open.
        Busy: it is held for longer than that.
    """
    worktree = RunWorktree.of(home, run)
    until = time.monotonic() + seconds
    while True:
        _require_open(worktree)
        try:
            with Worktree(worktree.root).alone():
                worktree.touch()
                return worktree
        except Busy:
            if time.monotonic() >= until:
                raise
        time.sleep(_POLL_S)


class WorktreeRunner(Runner):
    """In the worktree of a run, by DVC; it is in use meanwhile, and refused once it was closed."""

    def __init__(self, worktree: RunWorktree) -> None:
        self._worktree = worktree
        self.root = worktree.root

    def perform(self, targets: Sequence[str], *, force: bool, single: bool, report: Report) -> None:
        _require_open(self._worktree)
        self._worktree.touch()
        stages = WorkspaceRunner(self.root)
        stages.perform(targets, force=force, single=single, report=report)


def runner_in(root: Path) -> Runner:
    """The runner of a folder: of the run whose worktree it is, or of a workspace."""
    home = home_of(root)
    for worktree in run_worktrees(home):
        if root.absolute() == worktree.root:
            return WorktreeRunner(worktree)
    return WorkspaceRunner(root)


# ---------------------------------------------------------------------- opening


def _refuse_uncommitted(home: Path) -> None:
    """A worktree runs what is committed. Where HOME says otherwise, nobody knows what is meant.

    Every other command reads HOME's files as they are: an erasure would then go by other
    declarations than the training, and a column that was just taken out would be read once more.
    """
    if git(home, "rev-parse", "--verify", "--quiet", "HEAD^{commit}") is None:
        raise ParamsInvalid(
            f"{home} has no commit: a worktree begins at one. Commit the pipeline first."
        )
    if not (home / "dvc.yaml").is_file():
        raise ParamsInvalid(f"{home} has no dvc.yaml: there is no pipeline to run.")
    stages = read_stages(home / "dvc.yaml")
    read = {dep for stage in stages.values() for dep in stage.get("deps", ())}
    paths = sorted({*DECIDES, *(read - outputs(home / "dvc.yaml"))})
    said = git(home, "status", "--porcelain", "--untracked-files=no", "--", *paths) or b""
    changed = [line[3:] for line in said.decode(errors="replace").splitlines()]
    if changed:
        raise ParamsInvalid(
            f"{', '.join(sorted(changed))}: changed in {home} and not committed. A worktree runs "
            "what is committed, every other command what lies there. Commit it, or `git restore` "
            "it."
        )


def _add_worktree(worktree: RunWorktree) -> None:
    place = worktree.home / WORKTREES
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.chmod(0o700)
    worktree.folder.mkdir(mode=0o700)
    words = ("worktree", "add", "--quiet", "--force", "--detach", str(worktree.folder), "HEAD")
    if git(worktree.home, "-c", "core.hooksPath=/dev/null", *words) is None:
        raise LetheError(f"git makes no worktree in {place}. Try `git worktree prune`.")
    if not (worktree.root / ".dvc").is_dir():
        raise ParamsInvalid(
            f"{worktree.home}: .dvc/config is not committed. Commit it, and dvc.yaml."
        )


def _begin(worktree: RunWorktree) -> None:
    """HOME's lock as it lies there, and what it names."""
    try:
        content = (worktree.home / LOCK).read_bytes()
    except FileNotFoundError:
        (worktree.root / LOCK).unlink(missing_ok=True)
        return
    made = parse_lock(content)
    if missing := missing_objects(worktree.home, made):
        raise NotFound(
            f"DVC's cache does not have {', '.join(missing)} as HOME's {LOCK} names it. Run "
            "`dvc pull` there: without it the worktree would train, and charge everybody, again."
        )
    write_whole(worktree.root / LOCK, content)
    for path, report in uncached_files(worktree.home, made).items():
        write_whole(worktree.root / path, report)
    check_out(worktree.root, made)


def _require_open(worktree: RunWorktree) -> None:
    if not worktree.is_open:
        raise NotFound(
            f"The worktree of run {worktree.run} is not open: it was closed when its run ended. "
            "Open it again, and start with the first stage."
        )


# ---------------------------------------------------------------------- closing


def _end(processes: list[psutil.Process]) -> None:
    """Every command that a stage runs may be ended: it resumes, or is done again."""
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            _send(process, signal)
        _, processes = psutil.wait_procs(processes, timeout=_PATIENCE_S)


def _send(process: psutil.Process, signal: Callable[[psutil.Process], None]) -> None:
    try:
        signal(process)
    except psutil.Error:
        return  # ended meanwhile


def _remove(worktree: RunWorktree) -> None:
    """What says that it is open goes first, what git knows of it last."""
    for mark in (MARK, _OLD_MARK):
        (worktree.root / mark).unlink(missing_ok=True)
    clear_scratch(worktree)
    if worktree.folder.exists():
        shutil.rmtree(worktree.folder)
    for admin in _admin_folders(worktree):
        shutil.rmtree(admin)


def _admin_folders(worktree: RunWorktree) -> list[Path]:
    """Where git keeps what it knows of the worktree, also one that was never finished."""
    common = (git(worktree.home, "rev-parse", "--git-common-dir") or b"").decode().strip()
    found = []
    for path in (worktree.home / common / "worktrees").glob("*/gitdir") if common else ():
        if (path.parent / path.read_text().strip()).parent.resolve() == worktree.folder.resolve():
            found.append(path.parent)
    return found


def _registered(worktree: RunWorktree) -> bool:
    return git(
        worktree.root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"
    ) is not None and bool(_admin_folders(worktree))


@contextmanager
def _held(worktree: RunWorktree) -> Iterator[None]:
    """One `open` or `close` of a worktree at a time; others wait."""
    path = worktree.folder.with_name(f"{worktree.run}.lock")
    with waited_for(path):
        try:
            yield
        finally:
            if not worktree.folder.exists():
                path.unlink(missing_ok=True)


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
