"""A relative address is the workspace's, and HOME's in a worktree; wherever the process is."""

from pathlib import Path

import pytest

from lethe.config.home import address_at_home, at_home, home, is_copy
from lethe.config.keys import create_key_file, load_key, receipt_key_file
from lethe.config.sections import Stores
from lethe.core.errors import KeyInvalid


@pytest.fixture(params=[".lethe/worktrees", ".lethe/walks"])  # the second is the version before's
def inside(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The worktree of a run."""
    made = tmp_path / request.param / "run-1"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def here(inside: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace, from inside the worktree of a run."""
    monkeypatch.chdir(inside)
    return inside.parents[2]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("sqlite:///.lethe/ledger.db", "sqlite:///{}/.lethe/ledger.db"),
        ("sqlite+pysqlite:///a.db?timeout=5", "sqlite+pysqlite:///{}/a.db?timeout=5"),
        ("sqlite:///file:a.db?mode=ro&uri=true", "sqlite:///file:{}/a.db?mode=ro&uri=true"),
        ("csv:data/clinic", "csv:{}/data/clinic"),
        ("parquet:data/clinic", "parquet:{}/data/clinic"),
        ("csv:/data/clinic", "csv:/data/clinic"),
        ("sqlite:////data/a.db", "sqlite:////data/a.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("postgresql://db.example.org/a", "postgresql://db.example.org/a"),
        ("https://mlflow.example.org", "https://mlflow.example.org"),
    ],
)
def test_a_relative_address_is_homes_and_any_other_itself(
    here: Path, monkeypatch: pytest.MonkeyPatch, address: str, expected: str
) -> None:
    walk = Path().absolute()
    monkeypatch.chdir("/")
    for root in (here, walk):
        assert address_at_home(address, root) == expected.format(here)


def test_a_folder_below_a_worktree_has_the_same_home(here: Path, inside: Path) -> None:
    below = inside / "clinic"
    assert home(below) == home(Path()) == here
    assert (is_copy(below), is_copy(here), is_copy(inside.parent)) == (
        True,
        False,
        False,
    )
    assert at_home(Path("/elsewhere"), below) == Path("/elsewhere")


def test_the_keys_are_homes_and_a_worktree_has_none(here: Path) -> None:
    with pytest.raises(KeyInvalid, match="does not exist"):
        load_key(Stores(), Path())
    create_key_file(here / "secrets" / "lethe.key")
    assert len(load_key(Stores(), Path())) == 32
    assert receipt_key_file(Stores(), Path()) == here / "secrets" / "receipts.key"
    assert not list(Path().iterdir()), "nothing was made in the worktree"


def test_a_plain_folder_is_its_own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert home(Path()) == tmp_path
    assert at_home(Path("secrets/lethe.key"), tmp_path) == tmp_path / "secrets/lethe.key"
    assert list(Path().iterdir()) == []
