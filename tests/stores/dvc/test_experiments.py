"""DVC's experiments: they run on the workspace's stores, and an erasure reaches all they leave."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyroaring import BitMap

from lethe.config import workspace
from lethe.core import locks
from lethe.core.outcomes import Result
from lethe.stores.dvc.git import committed_locks, parse_lock
from lethe.stores.dvc.purge import purge_history
from lethe.stores.dvc.survey import md5_of
from lethe.stores.dvc.verify import LookedFor, verify_histories
from tests.past_pipeline import (
    ADA,
    BO,
    CLEO,
    DAN,
    commit,
    dvc,
    forget_source,
    git,
    holders,
    make_pipeline,
    people,
    results,
    run_pipeline,
)

WHERE = """
from lethe.config.home import home, in_experiment
with open({log!r}, "a") as log:
    here = pathlib.Path.cwd()
    log.write(f"{{home(here)}} {{in_experiment(here)}} {{here}}\\n")
"""


@pytest.fixture(scope="session")
def tried_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that was run once, and an experiment of DVC with one person more, by --temp."""
    root = make_pipeline(tmp_path_factory.mktemp("tried") / "pipeline")
    with (root / "stand_in.py").open("a") as code:
        code.write(WHERE.format(log=str(root.parent / "where")))
    people(root, BO, CLEO)
    run_pipeline(root)
    commit(root, "First")
    (root.parent / "where").unlink()
    people(root, ADA, BO, DAN)
    dvc(root, "exp", "run", "--temp", "--name", "tried")
    git(root, "checkout", "--quiet", "--", ".")
    shutil.rmtree(root / ".dvc" / "cache" / "runs")  # so that only the lock says what was made
    return root


@pytest.fixture
def tried(tried_template: Path, tmp_path: Path) -> Path:
    root = tmp_path / "pipeline"
    shutil.copytree(tried_template, root, symlinks=True)
    return root


def _experiment(root: Path) -> tuple[str, str]:
    """The ref of the experiment, and its commit."""
    (line,) = [
        line
        for line in git(
            root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps"
        ).splitlines()
        if "/tried " in line
    ]
    name, sha = line.split()
    return name, sha


def test_a_stage_of_an_experiment_works_on_the_workspaces_stores(tried_template: Path) -> None:
    lines = (tried_template.parent / "where").read_text().splitlines()
    assert len(lines) == 2, "both stages ran"
    for line in lines:
        home, experiment, place = line.split()
        assert (home, experiment) == (str(tried_template), "True")
        assert Path(place).parent == tried_template / ".dvc/tmp/exps/standalone"


def _forget_ref(root: Path) -> str:
    name, sha = _experiment(root)
    git(root, "update-ref", "-d", name)
    return sha


def _stash(root: Path) -> None:
    lock = git(root, "show", f"{_forget_ref(root)}:dvc.lock")
    (root / "dvc.lock").write_text(lock + "\n")
    git(root, "prune", "--expire=now")
    git(root, "stash", "push", "--quiet")


def _older_stash(root: Path) -> None:
    _stash(root)
    (root / "source").write_text("")
    git(root, "stash", "push", "--quiet")


def _queued(root: Path) -> None:
    _stash(root)
    git(root, "update-ref", "--create-reflog", "refs/exps/celery/stash", "stash@{0}")
    git(root, "stash", "drop", "--quiet")
    git(root, "prune", "--expire=now")


def _detached(root: Path) -> None:
    lock = git(root, "show", f"{_forget_ref(root)}:dvc.lock")
    git(root, "prune", "--expire=now")
    committed_locks(root)  # what is known from now on is asked again only if something moved
    git(root, "switch", "--quiet", "--detach")
    (root / "dvc.lock").write_text(lock + "\n")
    commit(root, "Nowhere")
    git(root, "switch", "--quiet", "main")


PLACES: dict[str, Callable[[Path], object]] = {
    "an experiment": lambda root: None,
    "a removed experiment": _forget_ref,
    "a stash": _stash,
    "an older stash": _older_stash,
    "DVC's queue": _queued,
    "a detached commit": _detached,
}


@pytest.mark.parametrize("place", PLACES)
def test_what_an_experiment_made_goes_wherever_its_lock_is(tried: Path, place: str) -> None:
    _, sha = _experiment(tried)
    lock = parse_lock(git(tried, "show", f"{sha}:dvc.lock").encode())
    (model,) = [md5 for made in lock if (md5 := made.out(workspace.MODEL))]
    cache = tried / ".dvc" / "cache" / "files" / "md5"
    listed = json.loads((cache / model[:2] / model[2:]).read_bytes())
    PLACES[place](tried)
    forget_source(tried)
    outcomes = purge_history(tried, BitMap([ADA]))
    assert results(outcomes)["cache"] == "erased"
    assert holders(tried, token=ADA) == []
    for md5 in (model, *(each["md5"] for each in listed)):
        assert not (cache / md5[:2] / md5[2:]).exists(), "the model learned from her"


@pytest.fixture
def running(past: Path, tmp_path: Path) -> Path:
    """The folder of an experiment that stands beside the workspace, with its data."""
    copy = past / ".dvc/tmp/exps/standalone/tmpx"
    ignored = shutil.ignore_patterns("cache", "remote")
    shutil.copytree(past, tmp_path / "copied", symlinks=True, ignore=ignored)
    copy.parent.mkdir(parents=True)
    (tmp_path / "copied").rename(copy)
    for root in (past, copy):
        (root / ".dvc" / "config.local").write_text(
            f"[cache]\n    dir = {past}/.dvc/cache\n"
            f"['remote \"default\"']\n    url = {past}/remote\n"
        )
        forget_source(root)
    return copy


def test_an_experiment_that_was_left_behind_is_rewritten_like_a_worktree(
    past: Path, running: Path
) -> None:
    outcomes = purge_history(past, BitMap([ADA]))
    assert results(outcomes)["worktree tmpx"] == "erased"
    assert {each.result for each in outcomes} <= {Result.ERASED, Result.ABSENT}
    assert holders(past, token=ADA) == []


def test_an_experiment_at_work_is_waited_for_and_loses_nothing(past: Path, running: Path) -> None:
    shard = running / "data" / "shards" / "shard-0000.parquet"
    before = shard.read_bytes()
    with locks.held(running / ".lethe" / "train.lock", busy="a test"):
        found = results(purge_history(past, BitMap([ADA])))
    assert found["worktree tmpx"] == Result.UNREACHABLE
    assert found["cache"] == Result.UNREACHABLE
    assert shard.read_bytes() == before
    (seen,) = verify_histories(past, [LookedFor(BitMap([ADA]))])
    assert "data/shards/shard-0000.parquet" in {o.store: o for o in seen}["worktree tmpx"].places
    purge_history(past, BitMap([ADA]))
    assert holders(past, token=ADA) == []


def _shard(*tokens: int) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table({"token": pa.array(tokens, type=pa.uint32())}), target)
    return target.getvalue()


FOREIGN = 4711
UNKNOWN: dict[str, tuple[str, str, bytes]] = {
    "a shard in the cache": ("cache", ".dvc/cache/files/md5/{}/{}", _shard(BO, FOREIGN)),
    "a shard in the remote": ("remote default", "remote/files/md5/{}/{}", _shard(FOREIGN)),
    "a manifest in the cache": (
        "cache",
        ".dvc/cache/files/md5/{}/{}",
        BitMap([BO, FOREIGN]).serialize(),
    ),
    "a shard in the workspace": ("workspace", "data/shards/shard-0009.parquet", _shard(FOREIGN)),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_has_tokens_that_no_vault_knows_keeps_every_request_open(
    past: Path, what: str
) -> None:
    store, path, content = UNKNOWN[what]
    md5 = md5_of(content)
    place = past / path.format(md5[:2], md5[2:])
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    forget_source(past)
    purge_history(past, BitMap([ADA]))
    people_ = [LookedFor(BitMap([ADA])), LookedFor(BitMap())]
    known = BitMap(range(30)) - BitMap([ADA])
    for outcomes in verify_histories(past, people_, known=known):
        seen = {each.store: each for each in outcomes}
        assert seen[store].result == Result.PRESENT
        assert seen[store].count == 1
        assert "that the vault does not know" in str(seen[store].reason)
        assert {each.result for name, each in seen.items() if name != store} == {Result.ABSENT}
    place.unlink()
    for outcomes in verify_histories(past, people_, known=known):
        assert {each.result for each in outcomes} == {Result.ABSENT}
