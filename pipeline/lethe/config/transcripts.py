"""Where a training's transcript is until its audit is over, and when it goes.

What a training leaves for its audit names the places of people (who was drawn in which step), so
it is kept for one purpose and no longer: it is its owner's alone, below `.lethe/` of HOME, where
neither git nor DVC nor MLflow looks, and it goes

- when the audit ends, whatever came of it; what is kept is the verdict, which has no people in it;
- when the run was spent without a model, or its folder is gone, or trains anew;
- when an audit was killed and something else than the pipeline is run next;
- when somebody who may be in it is erased.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lethe.config import workspace
from lethe.config.home import at_home
from lethe.core import locks
from lethe.core.files import write_whole

TRANSCRIPTS = workspace.STATE / "transcripts"  # a folder for each run, by its id
VERDICTS = workspace.STATE / "verdicts"
DRAWN_BEFORE = workspace.STATE / "drawn"  # a digest of each run's draws, long enough not to guess
PEOPLE = "people.roaring"  # in a transcript: who was admitted, so that an erasure finds them
_OF = "of"  # in a transcript: the folder that trained
_AUDITED = "audited.lock"  # in a transcript, once its audit has begun; held meanwhile


def folder_of(root: Path, run_id: str) -> Path:
    """The folder of one run's transcript; it need not be there."""
    return at_home(TRANSCRIPTS, root) / run_id


def verdict_of(root: Path, run_id: str) -> Path:
    return at_home(VERDICTS, root) / f"{run_id}.json"


def begin(root: Path, run_id: str, people: bytes) -> Path:
    """The run's folder, made if it is not there; those of this root's other runs go.

    So do those whose folder is gone: worktrees come and go, and each may train.

    Args:
        people: who is admitted, as a list of people is written.
    """
    own = folder_of(root, run_id)
    for other in _all(root):
        if other != own and (_trained_in(other) == root.absolute() or _is_orphan(other)):
            shutil.rmtree(other, ignore_errors=True)
    own.mkdir(parents=True, exist_ok=True)
    for folder in (own.parent, own):
        folder.chmod(0o700)
    write_whole(own / PEOPLE, people, private=True)
    write_whole(own / _OF, str(root.absolute()).encode(), private=True)
    return own


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
            yield
        except BaseException:
            (folder / _AUDITED).unlink(missing_ok=True)
            raise
        remove(root, run_id)


def remove_abandoned(root: Path) -> bool:
    """Removes those whose audit had begun and whose process is gone, and those whose folder that
    trained is gone; whether there was any."""
    left = [each for each in _all(root) if locks.is_free(each / _AUDITED) or _is_orphan(each)]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return bool(left)


def _all(root: Path) -> list[Path]:
    place = at_home(TRANSCRIPTS, root)
    return sorted(each for each in place.iterdir() if each.is_dir()) if place.is_dir() else []


def _trained_in(transcript: Path) -> Path | None:
    """The folder that trained; None where nothing says so, as where one is just being made."""
    try:
        return Path((transcript / _OF).read_text())
    except (OSError, ValueError):
        return None


def _is_orphan(transcript: Path) -> bool:
    folder = _trained_in(transcript)
    return folder is not None and not folder.is_dir()
