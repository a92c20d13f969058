"""Opening, publishing and closing worktrees: what `lethe worktree …` does, in HOME's name."""

import datetime as dt
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.home import home
from lethe.config.params import Params
from lethe.core.errors import Busy, NotFound, ParamsInvalid, PublicationRefused
from lethe.core.shown import about
from lethe.runs import ended
from lethe.runs.publication import Published, made_in, publish_own
from lethe.runs.publication import publish as publish_files
from lethe.runs.worktree import (
    RunWorktree,
    clear_scratch,
    close_worktree,
    open_worktree,
    run_worktrees,
    wait_for_worktree,
)

HALF_MADE_HOURS = 1  # after which what an `open` that was killed left is removed
SCRATCH_HOURS = 24  # after which a worktree that nothing works in loses what has subject keys
WORKTREE_DAYS = 7  # after which it goes; longer than a run waits for a device


def start(run: str, root: Path, *, now: dt.datetime) -> RunWorktree:
    """Opens a worktree, or goes on with it; closes those that were left behind."""
    sweep(root)
    there = home(root)
    RunWorktree.of(there, run)  # what cannot name a folder names no file either
    try:
        return open_worktree(there, run)
    except (ParamsInvalid, NotFound) as error:  # nobody closes what was never opened
        ended.note(there, run, failure=(error.exit_code, str(error)), now=now)
        raise


def wait(run: str, root: Path, *, seconds: float) -> RunWorktree:
    """The open worktree, once nothing holds it."""
    return wait_for_worktree(home(root), run, seconds=seconds)


def end(run: str, root: Path, *, now: dt.datetime) -> bool:
    """Closes a worktree and those that were left behind; whether there was one of that name."""
    there = home(root)
    worktree = RunWorktree.of(there, run)
    if worktree.is_open:
        ended.note(there, run, failure=workspace.take_failure(worktree.root), now=now)
    try:
        return close_worktree(there, run)
    finally:
        sweep(root, but=run)


def publish(params: Params, run: str, *, now: dt.datetime) -> Published:
    """Releases what a run made in its worktree, alone among erasures and other publications.

    Raises:
        NotFound: the worktree is not open.
        PublicationRefused: it cannot be released; HOME is as it was.
        Busy: an erasure, another publication or a run in HOME is under way.
    """
    worktree = RunWorktree.of(params.home, run)
    if not worktree.is_open:
        raise NotFound(
            f"The worktree of run {run} is not open. `lethe worktree open {run}`, and run the "
            "pipeline in it."
        )
    return release(params, run, made_in(worktree), now=now)


def release(params: Params, run: str, files: Mapping[str, bytes], *, now: dt.datetime) -> Published:
    """Releases a lock and its reports, wherever they were made.

    Raises:
        PublicationRefused, Busy: as `publish`.
    """

    def objection(subjects: BitMap) -> str | None:
        from lethe.people.withdrawn import count_withdrawn

        gone = count_withdrawn(params, subjects, now)
        if not gone:
            return None
        some = about(gone, params.reporting.granularity)
        return f"{some} people in the run's shards have withdrawn or were erased since."

    try:
        with _alone(params):
            made = publish_files(params.home, run, files, objection=objection)
    except PublicationRefused as error:
        ended.note(params.home, run, failure=(error.exit_code, str(error)), now=now)
        raise
    ended.note(params.home, run, version=made.version, now=now)
    return made


def publish_home(params: Params) -> Published | None:
    """Commits HOME's own changed lock; None where there is nothing to release.

    Raises:
        PublicationRefused, Busy: as `publish`.
    """
    sweep(params.root)
    with _alone(params):
        return publish_own(params.home)


def sweep(root: Path, *, but: str | None = None, now: float | None = None) -> list[str]:
    """Closes worktrees that dead runs left behind; their names.

    A run may wait for days between two stages, so no worktree goes for that alone: it goes when
    nothing has worked in it for `WORKTREE_DAYS`. If its run lives after all, it fails at its next
    stage and loses nothing: reservations and checkpoints are HOME's. What has subject keys goes
    after `SCRATCH_HOURS`.
    """
    moment = time.time() if now is None else now

    def dead(worktree: RunWorktree) -> bool:
        idle = worktree.idle_seconds(moment) / 3600
        return idle > (WORKTREE_DAYS * 24 if worktree.is_open else HALF_MADE_HOURS) and not in_use(
            worktree
        )

    def in_use(worktree: RunWorktree) -> bool:
        return any(worktree.processes(at_terminal=each) for each in (False, True))

    closed = []
    for worktree in run_worktrees(home(root)):
        if worktree.run == but:
            continue
        # What stands in the way of one is no reason for others; the next sweep tries again.
        with suppress(Busy, OSError):
            if dead(worktree):
                closed += (
                    [worktree.run]
                    if close_worktree(worktree.home, worktree.run, only_if=dead)
                    else []
                )
            elif worktree.idle_seconds(moment) > SCRATCH_HOURS * 3600 and not in_use(worktree):
                clear_scratch(worktree)
    return closed


@contextmanager
def _alone(params: Params) -> Iterator[None]:
    from lethe.stores.opening import open_requests

    with open_requests(params) as requests, requests.alone():
        yield
