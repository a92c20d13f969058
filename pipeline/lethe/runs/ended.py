"""What runs came to, kept in HOME after their worktrees are gone: for who waits for one of them.

A run that was published, or ended without, leaves one small file: the version or the failure.
An erasure that lets the schedule train waits for such a run (`EndedRun`).
"""

import datetime as dt
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lethe.config import workspace
from lethe.core.errors import Busy, FileDamaged
from lethe.core.files import read_json, write_json
from lethe.core.reading import damage
from lethe.runs.runner import StageFailed
from lethe.runs.worktree import RunWorktree

ENDED = workspace.STATE / "ended"
KEPT_DAYS = 60  # longer than a request may take
# After a second failure; doubled by each that follows, up to this.
_REST, _LONGEST_REST = dt.timedelta(minutes=5), dt.timedelta(hours=6)


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: the version that was published, or the failure's code and words."""

    at: dt.datetime
    version: str | None
    exit_code: int
    message: str


def note(
    home: Path,
    run: str,
    *,
    now: dt.datetime,
    version: str | None = None,
    failure: tuple[int, str] | None = None,
) -> None:
    """Keeps what a run came to. A run that was published stays so, whatever fails afterwards."""
    _remove_old(home, now)
    before = ended(home, run)
    silent = version is None and failure is None  # it says less than what was noted before
    if before is not None and (silent or before.version is not None):
        return
    code, message = failure or ((0, "") if version else (1, "it ended early."))
    write_json(
        home / ENDED / f"{run}.json",
        {"at": now.isoformat(), "exit_code": code, "message": message, "version": version},
    )


def ended(home: Path, run: str) -> RunOutcome | None:
    """How a run ended; None if it has not, or was not heard of."""
    path = home / ENDED / f"{run}.json"
    try:
        found = read_json(path)
    except FileNotFoundError:
        return None
    with damage(lambda: FileDamaged(f"{path} says nothing of a run. Remove it.")):
        version = found["version"]
        return RunOutcome(
            dt.datetime.fromisoformat(found["at"]),
            None if version is None else str(version),
            int(found["exit_code"]),
            str(found["message"]),
        )


class EndedRun:
    """In place of a runner, where somebody else runs the pipeline: takes what its run came to.

    Args:
        name: gives the run's name when it is asked for.
    """

    def __init__(self, home: Path, name: Callable[[], str]) -> None:
        self._home = home
        self._name = name

    def run(self) -> None:
        """Does nothing if the run was published.

        Raises:
            StageFailed: it ended without a version.
            Busy: it has not ended.
        """
        name = self._name()
        found = ended(self._home, name)
        if found is None:
            raise Busy(f"Run {name} of the pipeline has not ended. Wait for it, or start it.")
        if found.version is None:
            raise StageFailed(f"run {name}", found.exit_code, found.message)


def next_attempt(home: Path, batch: str, *, final: Collection[int], now: dt.datetime) -> str | None:
    """The run that is to be started for a batch of requests; None if one has brought an answer.

    After a failure that may pass the next is another run: at once, then later each time.

    Args:
        final: exit codes of failures that trying again does not correct.

    Raises:
        Busy: one is under way, or it is too early for the next.
    """
    run, found = last_attempt(home, batch)
    if found is None:
        if RunWorktree.of(home, run).is_open:
            raise Busy(f"Run {run} of the pipeline is under way. Wait for it.")
        return run
    if found.version is not None or found.exit_code in final:
        return None
    number = int(run.rpartition("-")[2])
    if number > 1:
        again = found.at + min(_REST * 2 ** min(number - 2, 20), _LONGEST_REST)
        if now < again:
            raise Busy(f"Run {run} failed: {found.message} Next try at {again:%F %H:%M} UTC.")
    return _name(batch, number + 1)


def last_attempt(home: Path, batch: str) -> tuple[str, RunOutcome | None]:
    """The newest run for a batch, and how it ended; the first one's name before there is any."""
    number = 1
    while True:
        run, after = _name(batch, number), _name(batch, number + 1)
        found = ended(home, run)
        if found is None or found.version is not None:
            return run, found
        if ended(home, after) is None and not RunWorktree.of(home, after).is_open:
            return run, found
        number += 1


def _name(batch: str, number: int) -> str:
    return f"erase-{batch}-{number}"


def _remove_old(home: Path, now: dt.datetime) -> None:
    for path in (home / ENDED).glob("*.json"):
        with suppress(FileDamaged):
            found = ended(home, path.stem)
            if found is not None and now - found.at > dt.timedelta(days=KEPT_DAYS):
                path.unlink(missing_ok=True)
