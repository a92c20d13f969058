"""What runs came to, and which of them requests wait for: kept in HOME after they are gone.

A run that was published, or ended without, leaves one small file: the version or the failure.
An erasure that lets the schedule train asks for a run by name (`begin`), and takes what that run
came to once it has ended (`EndedRun`). There are opaque ids of runs and requests here, no person.
"""

import datetime as dt
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lethe.config import workspace
from lethe.core.errors import Busy, FileDamaged
from lethe.core.files import read_json, write_json
from lethe.core.reading import damage
from lethe.runs.runner import StageFailed

ENDED = workspace.STATE / "ended"
_ATTEMPTS = workspace.STATE / "attempts.json"
KEPT_DAYS = 120  # longer than a request may take, extended
# After a second failure; doubled by each that follows, up to this.
_REST, _LONGEST_REST = dt.timedelta(minutes=5), dt.timedelta(hours=6)


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: the version that was published, or the failure's code and words.

    `anew`: whether another attempt trains, and is charged, anew: nothing of a run in pods is left
    for the next one to go on with.
    """

    at: dt.datetime
    version: str | None
    exit_code: int
    message: str
    anew: bool


@dataclass(frozen=True)
class Attempt:
    """A run that was asked for, and the requests that wait for it."""

    run: str
    at: dt.datetime
    requests: frozenset[str]


def note(
    home: Path,
    run: str,
    *,
    now: dt.datetime,
    version: str | None = None,
    failure: tuple[int, str] | None = None,
    anew: bool = False,
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
        {
            "anew": anew,
            "at": now.isoformat(),
            "exit_code": code,
            "message": message,
            "version": version,
        },
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
            bool(found["anew"]),
        )


def begin(
    home: Path, run: str, requests: Collection[str], *, final: Collection[int], now: dt.datetime
) -> bool:
    """Asks for a run that these requests wait for; False if the last one has brought an answer.

    After a failure that may pass the next is asked for at once, then later each time; what is
    charged anew is asked for once in six hours.

    Args:
        run: names it; one that ended under this name is forgotten.
        final: exit codes of failures that trying again does not correct.

    Raises:
        Busy: one has not ended, or it is too early for the next.
    """
    tried = _attempts(home, requests)
    if tried:
        last, outcome = tried[-1], ended(home, tried[-1].run)
        covered = last.requests >= set(requests)
        if outcome is None:
            if last.run != run:
                raise Busy(f"Run {last.run} of the pipeline is under way. Wait for it.")
        elif outcome.version is not None or outcome.exit_code in final:
            if covered:
                return False
        elif now < (again := outcome.at + _rest(_covering(tried, requests), anew=outcome.anew)):
            raise Busy(
                f"Run {last.run} failed: {outcome.message} Next try at {again:%F %H:%M} UTC."
            )
    (home / ENDED / f"{run}.json").unlink(missing_ok=True)
    others = [each for each in _all_attempts(home) if now - each.at < dt.timedelta(days=KEPT_DAYS)]
    _write_attempts(home, [*others, Attempt(run, now, frozenset(requests))])
    return True


class EndedRun:
    """In place of a runner, where somebody else runs the pipeline: takes what its run came to.

    Args:
        requests: gives the ids of those who wait, when it is asked for.
    """

    def __init__(self, home: Path, requests: Callable[[], Collection[str]]) -> None:
        self._home = home
        self._requests = requests

    def run(self) -> None:
        """Does nothing if the run that all of them wait for was published.

        Raises:
            StageFailed: it ended without a version.
            Busy: it has not ended, or none was asked for.
        """
        waiting = self._requests()
        tried = [each for each in _attempts(self._home, waiting) if each.requests >= set(waiting)]
        if not tried:
            raise Busy("No run of the pipeline was started for them yet.")
        found = ended(self._home, tried[-1].run)
        if found is None:
            raise Busy(f"Run {tried[-1].run} of the pipeline has not ended. Wait for it.")
        if found.version is None:
            raise StageFailed(f"run {tried[-1].run}", found.exit_code, found.message)


def _covering(tried: list[Attempt], requests: Collection[str]) -> int:
    """How many were for all of these: what failed before somebody asked may have been for that."""
    return sum(each.requests >= set(requests) for each in tried)


def _rest(attempts: int, *, anew: bool) -> dt.timedelta:
    if anew:
        return _LONGEST_REST
    if attempts < 2:
        return dt.timedelta(0)
    return min(_REST * 2 ** min(attempts - 2, 20), _LONGEST_REST)


def _attempts(home: Path, requests: Collection[str]) -> list[Attempt]:
    """The attempts for any of these requests, oldest first."""
    return [each for each in _all_attempts(home) if each.requests & set(requests)]


def _all_attempts(home: Path) -> list[Attempt]:
    path = home / _ATTEMPTS
    try:
        found: Any = read_json(path)
    except FileNotFoundError:
        return []
    with damage(lambda: FileDamaged(f"{path} says nothing of runs. Remove it.")):
        return [
            Attempt(
                str(each["run"]), dt.datetime.fromisoformat(each["at"]), frozenset(each["requests"])
            )
            for each in found["attempts"]
        ]


def _write_attempts(home: Path, attempts: list[Attempt]) -> None:
    listed = [
        {"at": each.at.isoformat(), "requests": sorted(each.requests), "run": each.run}
        for each in attempts
    ]
    write_json(home / _ATTEMPTS, {"attempts": listed})


def _remove_old(home: Path, now: dt.datetime) -> None:
    for path in (home / ENDED).glob("*.json"):
        with suppress(FileDamaged):
            found = ended(home, path.stem)
            if found is not None and now - found.at > dt.timedelta(days=KEPT_DAYS):
                path.unlink(missing_ok=True)
