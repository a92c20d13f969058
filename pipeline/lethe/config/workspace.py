"""Where the pipeline keeps its files, and how a file gets there whole or not at all.

The names below are `dvc.yaml`'s, from the workspace's root; nothing else spells them out, and
nothing opens them without a root (`Params.at`).
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lethe.config.home import of_a_run
from lethe.core import locks
from lethe.core.errors import DiskFull, FileDamaged
from lethe.core.files import disk_errors, read_json, write_json
from lethe.core.shown import shown

MINIMIZED = Path("data/minimized")  # subject keys: owner only, never cached, gone at the end
CONSENTED = Path("data/consented")  # likewise
SHARDS = Path("data/shards")  # shard-0000.parquet …, by token
SUBJECTS = Path("data/subjects.roaring")  # the tokens in SHARDS
PLAN = Path("data/plan.json")
ENCODING = Path("data/encoding.json")  # how declared columns become numbers
MODEL = Path("model")
MANIFEST = Path("data/manifest.roaring")  # the tokens that the model was trained on
REPORTS = Path("reports")
PLOTS = Path("reports/plots")
RECEIPTS = Path("receipts")  # of erasures; they name nobody
STATE = Path(".lethe")
TEMPORARY = STATE / "tmp"
WORKING = STATE / "working"  # a locked file for each command at work: one that is free was killed
_TURN = STATE / "working.lock"  # who marks and who looks at the marks take turns
FAILURE = STATE / "failure.json"
_WITH_KEYS = (MINIMIZED, CONSENTED, TEMPORARY)


def report_path(stage: str) -> Path:
    return REPORTS / f"{stage}.json"


def shard_name(shard: int) -> str:
    return f"shard-{shard:04d}.parquet"


@contextmanager
def whole_directory(root: Path, path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yields an empty folder that replaces `path` if the block ends well, and goes otherwise.

    Args:
        root: of the workspace in which `path` lies, and in which the folder is made.
        private: readable by the owner alone (what still has subject keys).
    """
    target, staging = root / path, root / TEMPORARY / path.name
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    staging.mkdir(parents=True, mode=0o700)
    try:
        with disk_errors():
            yield staging
            staging.chmod(0o700 if private else 0o755)
            for path in staging.rglob("*"):
                if path.is_file():
                    path.chmod(0o600 if private else 0o644)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_scratch(root: Path) -> None:
    """Removes what is between minimize and pseudonymize, and what a killed run left."""
    for path in _WITH_KEYS:
        shutil.rmtree(root / path, ignore_errors=True)


@contextmanager
def working(root: Path) -> Iterator[None]:
    """Marks that a command is at work in the workspace, which may leave what has subject keys.

    The mark is a file that the process holds locked: however it dies, the lock is let go of.
    """
    mark = root / WORKING / f"{os.getpid()}-{secrets.token_hex(4)}"
    with ExitStack() as marked:
        with locks.waited_for(root / _TURN):  # nobody sees it before it is held
            marked.enter_context(locks.held(mark, busy="It is new."))
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


def remove_leftovers(root: Path) -> bool:
    """Removes what has subject keys of commands that were killed; whether there was any.

    Where another command is at work, or the folder is a run's own that ends with the run, it
    stays: it is theirs.
    """
    if not any((root / WORKING).glob("*")):
        return False  # most often; nothing is made where there is no workspace
    with locks.waited_for(root / _TURN):  # no command begins while another's files are removed
        marks = {mark: locks.is_free(mark) for mark in (root / WORKING).glob("*")}
        if False in marks.values():
            return False
        dead = [mark for mark, free in marks.items() if free]
        found = any((root / path).exists() for path in _WITH_KEYS)
        if dead and not of_a_run(root):
            remove_scratch(root)
        for mark in dead:  # last: killed before, the next command does it again
            mark.unlink(missing_ok=True)
    return bool(dead) and found and not of_a_run(root)


def write_failure(root: Path, exit_code: int, message: str) -> None:
    """Leaves a stage's failure where the run that started it can say it again."""
    if not (root / "params.yaml").exists():
        return  # not a workspace
    with suppress(OSError, DiskFull):  # the message is on stderr already
        write_json(root / FAILURE, {"exit_code": exit_code, "message": shown(message)})


def take_failure(root: Path) -> tuple[int, str] | None:
    """The failure that the last stage left, once."""
    try:
        found = read_json(root / FAILURE)
        failure = int(found["exit_code"]), str(found["message"])
    except FileNotFoundError:
        return None
    except (OSError, FileDamaged, ValueError, TypeError, LookupError):
        failure = None  # a half of a message says nothing; the stage's own stands on the screen
    (root / FAILURE).unlink(missing_ok=True)
    return failure
