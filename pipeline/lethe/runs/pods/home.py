"""What the workspace does for its runs in pods: open one, take what it came to, close it.

And what an erasure asks of runs that are under way where it cannot reach: one that has somebody's
keys or is sending objects is waited for; one that has the person in its data is revoked, so that
its next step ends, and is waited for until it is closed, volumes and all.
"""

import datetime as dt
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.params import Params
from lethe.core.errors import NotFound, RunEnded, StoreUnavailable
from lethe.core.outcomes import Outcome, Result
from lethe.runs.pods.graph import Pipeline, report_files
from lethe.runs.pods.refs import PodRun, Refs, note_remote, remote_of
from lethe.stores.dvc.content import holds
from lethe.stores.dvc.git import LOCK, git, parse_lock
from lethe.stores.dvc.transfer import (
    content_of,
    fetch_into_cache,
    forget_unnamed,
    push,
    refuse_relative_remote,
)

if TYPE_CHECKING:
    from lethe.runs.publication import Published

STORE = "walks in pods"  # in receipts, and in the marks of requests that are open
_PEOPLE = (workspace.SUBJECTS, workspace.MANIFEST)


def open_run(root: Path, run: str, *, remote: str) -> None:
    """Puts a run's ref on the git remote: this release, this `dvc.lock`, these reports.

    Opened again, it stays as it is: its stages go on where they were.

    Raises:
        NotFound: there is no commit to begin at.
        RunEnded: this run was revoked.
        ParamsInvalid: pods would not find DVC's remote.
        StoreUnavailable: the git remote does not answer.
    """
    refuse_relative_remote(root)
    note_remote(root, remote)  # before anything is there: an erasure must look
    refs = Refs(root, remote)
    pod_run = refs.find(run)
    if pod_run is not None:
        if pod_run.state == "revoked":
            raise RunEnded(f"Run {run} was revoked. Close it, and start a new run.")
        return
    base = (git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}") or b"").decode().strip()
    if not base:
        raise NotFound("There is no commit here. Pods start from one: commit the workspace first.")
    below = (git(root, "rev-parse", "--show-prefix") or b"").decode().strip()
    pipeline = Pipeline(root)
    files = report_files(root, pipeline)
    made = [path for path in pipeline.all_cached() if LOCK.as_posix() in files]
    push(root, made)  # else a stage that has nothing to do would do it, and spend, again
    refs.begin(run, base=base, below=below, files=files)


def publish_run(params: Params, root: Path, run: str, *, now: dt.datetime) -> "Published":
    """Releases what a run in pods made, as every run is released.

    Raises:
        RunEnded: it was revoked or closed, or is still at work.
        PublicationRefused: it cannot be released.
        Busy: an erasure or another publication is under way.
        StoreUnavailable: a remote does not answer.
    """
    from lethe.runs.service import release

    pod_run = came_to(root, run)
    fetch_into_cache(root, pod_run.lock or b"")
    return release(params, run, pod_run.files, now=now)


def came_to(root: Path, run: str) -> PodRun:
    """The run as its last stage left it; its lock and reports are `files`.

    Raises:
        RunEnded: it was revoked or closed, or is still at work.
        StoreUnavailable: the git remote does not answer.
    """
    pod_run = _refs(root).find(run)
    if pod_run is None or pod_run.state != "idle":
        state = "closed" if pod_run is None else pod_run.state
        raise RunEnded(f"Run {run} has nothing to publish: it is {state}. Start a new run.")
    return pod_run


def close_run(root: Path, run: str) -> int:
    """Ends a run: its ref goes, and what only its lock named on DVC's remotes; how many objects.

    Closed again, it finds nothing. Whatever of the run still runs cannot name anything any more.

    Raises:
        RunEnded: a stage of it swapped the ref just now; close again.
        StoreUnavailable: a remote does not answer; close again.
    """
    if remote_of(root) is None:
        return 0  # it was not even opened
    refs = _refs(root)
    pod_run = refs.find(run)
    if pod_run is None:
        return 0
    if pod_run.state != "revoked":
        pod_run = refs.swap(pod_run, "revoked")
    refs.forget(pod_run)  # here alone: the remote's goes last, so that a close that was cut goes on
    count = forget_unnamed(root, pod_run.lock or b"")
    refs.end(pod_run)
    return count


def fence(root: Path, tokens: BitMap) -> Outcome | None:
    """Sees to runs in pods before and after people are purged; None where there never was one.

    Guarantees: `absent` means that no run that is under way has subject keys, is sending
        objects, or has one of the people in its data; and none can come to have one of them, for
        they are suppressed.
    """
    if remote_of(root) is None:
        return None
    refs = _refs(root)
    try:
        waited = [pod_run.run for pod_run in refs.all() if not _passed(root, refs, pod_run, tokens)]
    except StoreUnavailable as error:
        return Outcome(STORE, Result.UNREACHABLE, reason=str(error))
    if not waited:
        return Outcome(STORE, Result.ABSENT)
    reason = (
        f"{len(waited)} runs are under way with subject keys, with objects on their way, or with "
        "the person, and end at their next step. Once they are closed the next sweep goes on; "
        "`lethe pod close RUN` ends one that nobody closed"
    )
    return Outcome(STORE, Result.PRESENT, len(waited), tuple(waited), reason)


def _passed(root: Path, refs: Refs, pod_run: PodRun, tokens: BitMap) -> bool:
    """Whether an erasure need not wait for a run; revokes it if it has one of the people."""
    if pod_run.state in ("keys", "pushing", "revoked"):
        return False
    if not _has(root, pod_run, tokens):
        return True
    with suppress(RunEnded):  # if it went on just now, the next sweep sees how it is then
        refs.swap(pod_run, "revoked")
    return False


def _has(root: Path, pod_run: PodRun, tokens: BitMap) -> bool:
    """Whether one of the people is in its data; also if what says so is not to be found."""
    for made in parse_lock(pod_run.lock or b""):
        for path in _PEOPLE:
            md5 = made.out(path)
            if md5 is not None:
                content = content_of(root, md5)
                if content is None or holds(content, tokens):
                    return True
    return False


def _refs(root: Path) -> Refs:
    remote = remote_of(root)
    if remote is None:
        raise NotFound("This workspace never opened a run in pods: git config lethe.walks.")
    return Refs(root, remote)
