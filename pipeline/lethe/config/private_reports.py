"""The operator's exact numbers: of people, without noise, and for no other eyes.

They lie below `.lethe/` of HOME, where neither git nor DVC nor MLflow looks, one file a stage,
readable by their owner alone. The next run of the stage writes over them. `docs/what-leaves.md`
says of every output which of the three it is: charged, rounded, or here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lethe.config import workspace
from lethe.config.home import at_home
from lethe.core.files import json_bytes, read_json, write_whole

PRIVATE = workspace.STATE / "private"
REPORTS = PRIVATE / "reports"


def write(root: Path, stage: str, content: Mapping[str, Any]) -> None:
    """Keeps a stage's exact numbers."""
    write_file(root, f"{stage}.json", json_bytes(content))


def write_file(root: Path, name: str, content: bytes) -> None:
    folder = at_home(REPORTS, root)
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder.parent, folder):
        each.chmod(0o700)
    write_whole(folder / name, content, private=True)


def read(root: Path, stage: str) -> dict[str, Any]:
    """A stage's exact numbers; empty where it has not run here."""
    try:
        return read_json(at_home(REPORTS, root) / f"{stage}.json")
    except FileNotFoundError:
        return {}
