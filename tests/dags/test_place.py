"""Which compiled pipeline a scheduler reads."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT


def _read(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LETHE_HOME", str(home))
    return runpy.run_path(str(PROJECT / "dags" / "place.py"))["PIPELINE"]


def test_the_workspaces_own_comes_first_by_its_old_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an upgrade would ask no approver any more."""
    own = json.loads((PROJECT / "dags" / "pipeline.json").read_text())
    assert _read(tmp_path, monkeypatch) == own
    (tmp_path / "dags").mkdir()
    for name in ("road.json", "pipeline.json"):
        (tmp_path / "dags" / name).write_text(json.dumps(own | {"approvers": [name]}))
        assert _read(tmp_path, monkeypatch)["approvers"] == [name]
