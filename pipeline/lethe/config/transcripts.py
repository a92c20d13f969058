"""Where a training's transcript is until its audit is over, and when it goes.

What a training leaves for its audit names the places of people (who was drawn in which step), so
it is kept for one purpose and no longer: it is its owner's alone, below `.lethe/` of HOME, where
neither git nor DVC nor MLflow looks, and it goes

- when the audit ends, whatever came of it; what is kept is the verdict, which has no people in it;
- when the run was spent without a model;
- when its folder trains another run, or is gone and another run of HOME's is trained;
- when an audit was killed and something else than the pipeline is run next;
- when somebody who may be in it is erased;
- when nothing was written to it for `audit.transcript_days`: its audit never came.

One HOME may be seen from several machines, and from containers that have it by another path.
Whether a folder is gone, or a process, is known where it was, and only there: elsewhere a
transcript stays until its time is over.

That a folder is gone is no reason for a mere look to remove anything: the run goes on elsewhere.
A training that was killed does from its checkpoint in HOME, one that was trained is published or
audited from there. Without its transcript it could not, and would be charged a second time.
"""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, with_config

from lethe.config import workspace
from lethe.config.home import at_home
from lethe.core import locks
from lethe.core.errors import FileDamaged
from lethe.core.files import checked, json_bytes, read_json, write_whole

TRANSCRIPTS = workspace.STATE / "transcripts"  # a folder for each run, by its id
VERDICTS = workspace.STATE / "verdicts"
DRAWN_BEFORE = workspace.STATE / "drawn"  # a digest of each run's draws, long enough not to guess
PEOPLE = "people.roaring"  # in a transcript: who was admitted, so that an erasure finds them
_OF = "of.json"  # in a transcript: what trained, a `_Training`
_AUDITED = "audited.lock"  # in a transcript, once its audit has begun: on which machine; held
_DAYS = 14  # where nothing says for how long
_DAY_S = 86_400


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class _Training:
    """Where a run trains, and for how many days what it leaves waits for its audit.

    `place` is a path from HOME if the folder lies in it, which is the same from everywhere.
    """

    place: str
    in_home: bool
    machine: str
    days: int

    @classmethod
    def of(cls, root: Path, days: int) -> "_Training":
        root, home = root.absolute(), at_home(Path(), root).absolute()
        inside = root.is_relative_to(home)
        place = root.relative_to(home) if inside else root
        return cls(place.as_posix(), inside, machine(), days)

    def trains_in(self, other: "_Training") -> bool:
        mine, its = (asdict(each) | {"days": 0} for each in (self, other))
        return mine == its

    def is_gone(self, root: Path) -> bool:
        """Whether its folder is, as far as it can be seen from here."""
        if self.in_home:
            return not at_home(Path(self.place), root).is_dir()
        return self.machine == machine() and not Path(self.place).is_dir()


_TRAINING = TypeAdapter(_Training)


def machine() -> str:
    """What distinguishes this machine, or container, from others that see the same files."""
    named = ""
    with suppress(OSError, ValueError):
        named = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()} {named} {Path('/').stat().st_ino}"


def folder_of(root: Path, run_id: str) -> Path:
    """The folder of one run's transcript; it need not be there."""
    return at_home(TRANSCRIPTS, root) / run_id


def verdict_of(root: Path, run_id: str) -> Path:
    return at_home(VERDICTS, root) / f"{run_id}.json"


def begin(root: Path, run_id: str, people: bytes, *, days: int = _DAYS) -> Path:
    """The run's folder, made if it is not there; those of this root's other runs go.

    So do those whose folder is gone: worktrees come and go, and each may train. One that is
    being audited stays.

    Args:
        people: who is admitted, as a list of people is written.
        days: for how long it waits for its audit.
    """
    own, training = folder_of(root, run_id), _Training.of(root, days)
    for other in _all(root):
        before = _training(other)
        over = before is not None and (before.trains_in(training) or before.is_gone(root))
        if other != own and over and locks.is_free(other / _AUDITED) is not False:
            shutil.rmtree(other, ignore_errors=True)
    own.mkdir(parents=True, exist_ok=True)
    for folder in (own.parent, own):
        folder.chmod(0o700)
    write_whole(own / PEOPLE, people, private=True)
    write_whole(own / _OF, json_bytes(asdict(training)), private=True)
    return own


def take_over(root: Path, run_id: str, *, days: int = _DAYS) -> None:
    """Says that a run which another folder trained is this one's now; nothing without any."""
    own = folder_of(root, run_id)
    if own.is_dir():
        write_whole(own / _OF, json_bytes(asdict(_Training.of(root, days))), private=True)


def remove(root: Path, run_id: str) -> None:
    shutil.rmtree(folder_of(root, run_id), ignore_errors=True)


@contextmanager
def audited(root: Path, run_id: str) -> Iterator[None]:
    """While a run is audited; after a verdict its transcript is gone.

    A block that ends by an error has none, and leaves the transcript for the next try as if it had
    not begun. One that is killed leaves it too; but of that any other command removes it.

    Raises:
        Busy: another process audits it.
    """
    folder = folder_of(root, run_id)
    if not folder.exists():
        yield
        return
    with locks.held(folder / _AUDITED, busy="Another audit of this run is under way."):
        try:
            (folder / _AUDITED).write_text(machine())
            yield
        except BaseException:
            (folder / _AUDITED).unlink(missing_ok=True)
            raise
        remove(root, run_id)


def remove_abandoned(root: Path) -> bool:
    """Removes those whose audit had begun here and whose process is gone; whether there was any."""
    left = [each for each in _all(root) if _is_left(each)]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return bool(left)


def remove_expired(root: Path, now: float) -> list[str]:
    """Removes those to which nothing was written for as long as was declared; of which runs.

    One that trains is written to in every step, and one that is audited is held.

    Args:
        now: seconds, as the time of files is.
    """
    left = [each for each in _all(root) if _is_expired(each, now)]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return [folder.name for folder in left]


def _all(root: Path) -> list[Path]:
    place = at_home(TRANSCRIPTS, root)
    return sorted(each for each in place.iterdir() if each.is_dir()) if place.is_dir() else []


def _training(transcript: Path) -> _Training | None:
    """What trained; None where nothing says so, as where one is just being made."""
    try:
        return checked(_TRAINING, read_json(transcript / _OF), of=_OF)
    except (OSError, FileDamaged):
        return None


def _is_left(transcript: Path) -> bool:
    """Whether its audit was killed. A lock of another machine may look free from here."""
    lock = transcript / _AUDITED
    if not locks.is_free(lock):
        return False
    with suppress(OSError, ValueError):
        return lock.read_text() == machine()
    return False


def _is_expired(transcript: Path, now: float) -> bool:
    training = _training(transcript)
    times = []
    for path in (transcript, *transcript.rglob("*")):
        with suppress(OSError):  # removed meanwhile
            times.append(path.stat().st_mtime)
    days = _DAYS if training is None else training.days
    old = bool(times) and now - max(times) > days * _DAY_S
    return old and locks.is_free(transcript / _AUDITED) is not False
