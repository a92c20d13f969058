"""Publication: what a run made becomes what HOME releases, by the one writer that there is.

It is the run's `dvc.lock` with the reports that it names, committed together on the branch that
HOME has checked out; nothing else is, and nothing that somebody has staged there. Everything is
checked first: that the run went through the registry's gate, that nothing newer is released, and
that every object is still there, since an erasure may have taken some from the cache.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.errors import Busy, FileDamaged, PublicationRefused
from lethe.core.files import RESTORE, parse_json, read_json, write_whole
from lethe.core.reading import damage
from lethe.runs.worktree import RunWorktree
from lethe.stores.dvc.git import (
    LOCK,
    Made,
    commit_files,
    git,
    ignored,
    parse_lock,
    to_index,
)
from lethe.stores.dvc.graph import read_stages
from lethe.stores.dvc.outputs import check_out, missing_objects, uncached, uncached_files
from lethe.stores.dvc.repro import History
from lethe.stores.dvc.survey import md5_of
from lethe.stores.dvc.worktree import Worktree

Objection = Callable[[BitMap], str | None]  # the people of the shards → why they may not be used


@dataclass(frozen=True)
class Published:
    """What came of a publication: the model version that is released, and the commit, if one was
    made."""

    version: str
    commit: str | None


def made_in(worktree: RunWorktree) -> dict[str, bytes]:
    """The lock of a run and the reports that it names, by path."""
    content = History(worktree.root).lock_bytes()
    if content is None:
        return {}
    return {str(LOCK): content, **uncached_files(worktree.root, parse_lock(content))}


def publish(home: Path, run: str, files: Mapping[str, bytes], *, objection: Objection) -> Published:
    """Releases what a run made. Done again, it finishes what was cut, or finds it done.

    Guarantees: one commit that changes `dvc.lock` and reports alone, on the branch that HOME has
        checked out, and every report in it is the one that this lock names; what is released was
        registered, and every object that it names is in HOME's cache.

    Args:
        run: the run, for messages.
        files: its `dvc.lock` and reports, by path.

    Raises:
        PublicationRefused: it cannot be released; HOME is as it was.
        Busy: a run holds HOME.
    """
    content = files.get(str(LOCK))
    if content is None:
        raise PublicationRefused(f"Run {run} has no {LOCK}: no stage has run in it.")
    made = parse_lock(content)
    with Worktree(home).alone():
        branch = _branch(home)
        if unfinished := _unfinished(home, made):
            raise PublicationRefused(
                f"{', '.join(unfinished)}: not passed with what the stages before made. What was "
                "not registered is not released. Run the pipeline to its end."
            )
        if missing := missing_objects(home, made):
            raise PublicationRefused(
                f"DVC's cache does not have {', '.join(missing)} as run {run} made it: somebody "
                "in it was erased meanwhile. Run the pipeline anew."
            )
        registered = _registered(files, made)
        before = History(home).lock_bytes()
        if before != content:
            _refuse_older(home, registered)
            if reason := objection(_subjects(home, made)):
                raise PublicationRefused(f"{reason} Run the pipeline anew.")
            if before is not None and before != _committed(home, branch):
                _commit(home, branch, before, "Keep the lock that was not committed")
            for path in uncached(home / "dvc.yaml") & files.keys():
                write_whole(home / path, files[path])
            write_whole(home / LOCK, content)
        commit = _commit(home, branch, content, f"Release {_name(registered)} of {run}")
    check_out(home, made)
    return Published(_name(registered), commit)


def publish_own(home: Path) -> Published | None:
    """Commits HOME's own `dvc.lock`, which an erasure or its retraining changed, with its reports.

    One whose stages have not all passed stays uncommitted, unless the committed one names what is
    gone.

    Returns:
        None where there is nothing to commit.

    Raises:
        PublicationRefused: no branch is checked out. Busy: a run holds HOME.
    """
    history = History(home)
    content = history.lock_bytes()
    if content is None or not _differ(home, "HEAD", _files(home, "HEAD", content)):
        return None
    with Worktree(home).alone():
        content = history.lock_bytes() or b""
        made = parse_lock(content)
        branch = _branch(home)
        stale = missing_objects(home, parse_lock(_committed(home, branch) or b""))
        if (_unfinished(home, made) or missing_objects(home, made)) and not stale:
            return None
        try:
            name = _name(_registered(uncached_files(home, made), made))
        except PublicationRefused:
            name = "the shards without a model"
        return Published(name, _commit(home, branch, content, f"Release {name}"))


def _branch(home: Path) -> str:
    """The full name of the branch that is checked out."""
    if git(home, "rev-parse", "--git-dir") is None:
        raise PublicationRefused(
            f"{home} is in no git repository, so there is nothing to commit to."
        )
    name = (git(home, "symbolic-ref", "--quiet", "HEAD") or b"").decode().strip()
    if not name:
        raise PublicationRefused(
            f"{home} has no branch checked out (its HEAD is detached), so there is none to release "
            "to. `git switch` to the release branch there."
        )
    if git(home, "ls-files", "--unmerged", "--", str(LOCK)):
        raise PublicationRefused(
            f"{LOCK} of {home} is in a merge that is not resolved. Resolve it, or `git merge "
            "--abort`."
        )
    return name


def _committed(home: Path, branch: str, path: str = str(LOCK)) -> bytes | None:
    return git(home, "cat-file", "blob", f"{branch}:./{path}")


def _unfinished(home: Path, made: tuple[Made, ...]) -> list[str]:
    """Stages that have not run, or not with what the stages before them made."""
    stages = {each.stage: each for each in made}
    outs = {path: md5 for each in made for path, md5 in each.outs.items()}
    return [
        name
        for name in read_stages(home / "dvc.yaml")
        if name not in stages
        or any(outs.get(path, md5) != md5 for path, md5 in stages[name].deps.items())
    ]


def _registered(files: Mapping[str, bytes], made: tuple[Made, ...]) -> Mapping[str, Any]:
    """What `register` reported, if that is the report that the lock names."""
    path = workspace.report_path("register").as_posix()
    md5 = next((found for each in made if (found := each.outs.get(path))), None)
    content = files.get(path, b"")
    if md5 is None or md5_of(content) != md5:
        raise PublicationRefused(
            f"{path} is not the one that {LOCK} names, so nobody knows what was registered. "
            "Run the pipeline to its end."
        )
    return parse_json(content, of=path)


def _refuse_older(home: Path, registered: Mapping[str, Any]) -> None:
    """Of two runs, the one that was registered last is released, whichever is published last."""
    try:
        there = read_json(home / workspace.report_path("register"))
    except (OSError, FileDamaged):
        return
    same = there.get("model") == registered.get("model")
    if same and _number(there) > _number(registered):
        raise PublicationRefused(
            f"{_name(there)} is released already, and this run's {_name(registered)} is older. "
            "There is nothing to do."
        )


def _number(report: Mapping[str, Any]) -> int:
    with damage(lambda: FileDamaged(f"The report of {_name(report)} names no version. {RESTORE}")):
        return int(report.get("version", 0))


def _name(report: Mapping[str, Any]) -> str:
    return f"{report.get('model')}/{report.get('version')}"


def _subjects(home: Path, made: tuple[Made, ...]) -> BitMap:
    path = workspace.SUBJECTS.as_posix()
    md5 = next((found for each in made if (found := each.outs.get(path))), None)
    return BitMap() if md5 is None else History(home).read_manifest(md5)


def _commit(home: Path, branch: str, content: bytes, message: str) -> str | None:
    """Commits a lock and its reports, and says so to the index, where else they would be staged
    to go back."""
    files = _files(home, branch, content)
    commit: str | None = None
    if _differ(home, branch, files):
        if not commit_files(home, branch, files, message=message):
            raise Busy(f"{branch} moved meanwhile, or git refuses to commit. Try again.")
        commit = (git(home, "rev-parse", branch) or b"").decode().strip()
    if not to_index(home, files):
        raise Busy(f"git's index of {home} is held by another command. Try again.")
    return commit


def _files(home: Path, branch: str, content: bytes) -> dict[str, bytes | None]:
    """A lock and the reports that it names, by path; a committed report of another version is
    None, as it goes. What git ignores is left out."""
    made = parse_lock(content)
    reports = uncached_files(home, made)
    named = {path for each in made for path in each.outs} & uncached(home / "dvc.yaml")
    shown = [
        path
        for path in sorted(named - ignored(home, named))
        if path in reports or _committed(home, branch, path) is not None
    ]
    return {str(LOCK): content, **{path: reports.get(path) for path in shown}}


def _differ(home: Path, branch: str, files: Mapping[str, bytes | None]) -> bool:
    return any(_committed(home, branch, path) != content for path, content in files.items())
