"""Where the pipeline keeps its files, and how a file gets there whole or not at all.

The names below are `dvc.yaml`'s; nothing else spells them out.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lethe.core.errors import DiskFull, FileDamaged
from lethe.core.files import disk_errors, read_json, write_json

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
FAILURE = STATE / "failure.json"


def report_path(stage: str) -> Path:
    return REPORTS / f"{stage}.json"


def shard_name(shard: int) -> str:
    return f"shard-{shard:04d}.parquet"


@contextmanager
def whole_directory(target: Path, *, private: bool = False) -> Iterator[Path]:
    """Yields an empty folder that replaces `target` if the block ends well, and goes otherwise.

    Args:
        private: readable by the owner alone (what still has subject keys).
    """
    staging = TEMPORARY / target.name
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


def remove_scratch(root: Path = Path()) -> None:
    """Removes what is between minimize and pseudonymize, and what a killed run left."""
    for path in (MINIMIZED, CONSENTED, TEMPORARY):
        shutil.rmtree(root / path, ignore_errors=True)


def write_failure(exit_code: int, message: str) -> None:
    """Leaves a stage's failure where the run that started it can say it again."""
    if not Path("params.yaml").exists():
        return  # not a workspace
    with suppress(OSError, DiskFull):  # the message is on stderr already
        write_json(FAILURE, {"exit_code": exit_code, "message": message})


def take_failure(root: Path = Path()) -> tuple[int, str] | None:
    """The failure that the last stage left, once."""
    try:
        found = read_json(root / FAILURE)
    except (OSError, FileDamaged):
        return None
    (root / FAILURE).unlink(missing_ok=True)
    return int(found["exit_code"]), str(found["message"])
