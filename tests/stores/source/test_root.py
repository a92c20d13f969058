"""What a source in files leaves for a while lies in its workspace, wherever the process is."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest

from lethe.config.params import Params
from lethe.core.outcomes import Traces
from lethe.stores.source.compact import MARKS
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests import library

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    root, elsewhere = tmp_path / "workspace", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    library.build("csv", root, library.rows(), None)
    monkeypatch.chdir(elsewhere)
    return replace(library.declare("csv:csv"), root=root)


def test_the_private_copy_of_a_folder_lies_in_its_workspace(params: Params) -> None:
    with Source.open(params) as source:
        source.check(params)
        (copy,) = (params.root / ".lethe/tmp").iterdir()
        assert copy.stat().st_mode & 0o777 == 0o600
        assert list(Path().iterdir()) == []
    assert list((params.root / ".lethe/tmp").iterdir()) == []


def test_what_is_remembered_of_an_erasure_until_it_is_seen_to_be_done_lies_there_too(
    params: Params,
) -> None:
    """Beside the process, the erasure of another workspace would be taken for this one's."""
    ada = Traces("7", None, ("ada@example.org",))
    assert erase_from_source(params, ada, now=NOW).result == "erased"
    assert (params.root / MARKS).is_file()
    assert "ada@example.org" not in (params.root / "csv/readers.csv").read_text()
    assert verify_source(params, ada).result == "absent"
    assert not (params.root / MARKS).exists()
    assert list(Path().iterdir()) == []
