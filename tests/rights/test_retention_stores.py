"""What retention asks of a workspace's stores beside what an erasure does."""

import datetime as dt
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyroaring import BitMap

from lethe.core.outcomes import Traces
from lethe.people.references import Expiry
from lethe.rights.retention_stores import RetentionStores
from tests.library import declare

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
NAME = "Ada Quillfeather"


def git(root: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words],
        cwd=root,
        check=True,
        capture_output=True,
    )


def stores(root: Path, code: list[str]) -> Any:
    """Stores that nothing was opened for but the folder of the workspace."""
    made = object.__new__(RetentionStores)
    made._root = root
    made._params = declare("sqlite:///x.db", erasure__code=code)
    made.registry = SimpleNamespace(  # type: ignore[assignment]
        versions=list, in_use=list, model_hashes=set, ended_hashes=set
    )
    made.stores = []
    return made


@pytest.mark.parametrize(
    ("code", "place", "result"),
    [
        ([], "tests", "present"),
        (["tests"], "tests", "absent"),
        (["tests"], "notes", "present"),
    ],
)
def test_who_leaves_whole_is_not_looked_for_in_the_declared_code(
    tmp_path: Path, code: list[str], place: str, result: str
) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / place).mkdir()
    (tmp_path / place / "made_up.py").write_text(f'NAME = "{NAME}"\n')
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", place)
    git(tmp_path, "commit", "-q", "-m", "Add it")
    expiry = Expiry(BitMap(), (Traces("ada-1", 7, (NAME,)),))
    seen = stores(tmp_path, code).look_expired(expiry, as_of=NOW, about=(), models=())
    found = {each.store: each.result for each in seen}
    assert (found["workspace"], found["git history"]) == (result, result)
