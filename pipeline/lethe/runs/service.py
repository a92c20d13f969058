"""Opening, promoting and closing walks: what `lethe walk …` does, in HOME's name."""

import datetime as dt
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from pyroaring import BitMap

from lethe.config.home import home
from lethe.config.params import Params
from lethe.core.errors import Busy, NotFound
from lethe.runs.promotion import Promoted, made_in, promote_own
from lethe.runs.promotion import promote as promote_files
from lethe.runs.worktree import Walk, clear_scratch, close_walk, open_walk, wait_for_walk, walks

HALF_MADE_HOURS = 1  # after which what an `open` that was killed left is removed
SCRATCH_HOURS = 24  # after which a walk that nothing works in loses what has subject keys
WALK_DAYS = 7  # after which it goes; longer than a run waits for a device


def start(run: str) -> Walk:
    """Opens a walk, or goes on with it; closes those that were left behind."""
    sweep()
    return open_walk(home(), run)


def wait(run: str, *, seconds: float) -> Walk:
    """The open walk, once nothing holds it."""
    return wait_for_walk(home(), run, seconds=seconds)


def end(run: str) -> bool:
    """Closes a walk and those that were left behind; whether there was one of that name."""
    try:
        return close_walk(home(), run)
    finally:
        sweep(but=run)


def promote(params: Params, run: str, *, now: dt.datetime) -> Promoted:
    """Releases what a walk made, alone among erasures and other promotions.

    Raises:
        NotFound: the walk is not open.
        PromotionRefused: it cannot be released; HOME is as it was.
        Busy: an erasure, another promotion or a run in HOME is under way.
    """
    walk = Walk.of(home(), run)
    if not walk.is_open:
        raise NotFound(f"Walk {run} is not open. `lethe walk open {run}`, and walk the road in it.")
    return release(params, run, made_in(walk), now=now)


def release(params: Params, run: str, files: Mapping[str, bytes], *, now: dt.datetime) -> Promoted:
    """Releases a lock and its reports, wherever they were made.

    Raises:
        PromotionRefused, Busy: as `promote`.
    """

    def objection(subjects: BitMap) -> str | None:
        from lethe.people.withdrawn import count_withdrawn

        gone = count_withdrawn(params, subjects, now)
        if not gone:
            return None
        return f"{gone} people in the walk's shards have withdrawn or were erased since."

    with _alone(params):
        return promote_files(home(), run, files, objection=objection)


def promote_home(params: Params) -> Promoted | None:
    """Commits HOME's own changed lock; None where there is nothing to release.

    Raises:
        PromotionRefused, Busy: as `promote`.
    """
    sweep()
    with _alone(params):
        return promote_own(home())


def sweep(*, but: str | None = None, now: float | None = None) -> list[str]:
    """Closes walks that dead runs left behind; their names.

    A run may wait for days between two stages, so no walk goes for that alone: it goes when
    nothing has worked in it for `WALK_DAYS`. If its run lives after all, it fails at its next
    stage and loses nothing: reservations and checkpoints are HOME's. What has subject keys goes
    after `SCRATCH_HOURS`.
    """
    moment = time.time() if now is None else now

    def dead(walk: Walk) -> bool:
        idle = walk.idle_seconds(moment) / 3600
        return idle > (WALK_DAYS * 24 if walk.is_open else HALF_MADE_HOURS) and not in_use(walk)

    def in_use(walk: Walk) -> bool:
        return any(walk.processes(at_terminal=each) for each in (False, True))

    closed = []
    for walk in walks(home()):
        if walk.run == but:
            continue
        # What stands in the way of one is no reason for others; the next sweep tries again.
        with suppress(Busy, OSError):
            if dead(walk):
                closed += [walk.run] if close_walk(walk.home, walk.run, only_if=dead) else []
            elif walk.idle_seconds(moment) > SCRATCH_HOURS * 3600 and not in_use(walk):
                clear_scratch(walk)
    return closed


@contextmanager
def _alone(params: Params) -> Iterator[None]:
    from lethe.stores.opening import open_requests

    with open_requests(params) as requests, requests.alone():
        yield
