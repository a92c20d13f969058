"""Erasing people from what DVC keeps; seen with a look of the test's own at every file."""

import os
import shutil
from pathlib import Path

import pytest
from pyroaring import BitMap

from pipeline import workspace
from pipeline.records import Outcome
from pipeline.stores.history_purge import JOURNAL, purge_history
from tests.forgotten_road import (
    ADA,
    BO,
    CLEO,
    DAN,
    EVE,
    dvc,
    git,
    holders,
    make_road,
    out,
    people,
    tokens_in,
    versions,
    walk,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A road of three versions on two branches, pushed: a walk takes seconds, a copy none."""
    root = make_road(tmp_path_factory.mktemp("template") / "road")
    versions(root)
    return root


@pytest.fixture
def road(template: Path, tmp_path: Path) -> Path:
    root = tmp_path / "road"
    shutil.copytree(template, root, symlinks=True)
    return root


def forget_source(root: Path) -> None:
    """The source is another store's; here it must not be what keeps a person."""
    (root / "source").unlink()


def files(root: Path) -> dict[str, bytes]:
    """Every file but those that say who holds the workspace."""
    held = (".dvc/tmp/", ".lethe/train.lock", ".lethe/locks.json", ".git/index")
    return {
        name: path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not (name := path.relative_to(root).as_posix()).startswith(held)
    }


def results(outcomes: list[Outcome]) -> dict[str, str]:
    return {each.store: each.result for each in outcomes}


def test_an_erased_person_is_in_no_file_of_workspace_cache_and_remote(road: Path) -> None:
    forget_source(road)
    assert len(holders(road, token=ADA)) > 10
    outcomes = purge_history(road, BitMap([ADA]))
    assert holders(road, token=ADA) == []
    assert results(outcomes) == {
        "workspace": "erased",
        "temporary folders": "nothing found",
        "cache": "erased",
        "run-cache": "erased",
        "remote default": "erased",
    }
    assert not (road / JOURNAL).exists()


def test_others_stay_and_the_shard_without_the_person_keeps_its_bytes(road: Path) -> None:
    odd = road / "data" / "shards" / "shard-0001.parquet"
    before = odd.read_bytes()
    purge_history(road, BitMap([ADA]))
    assert odd.read_bytes() == before
    assert tokens_in(road / "data" / "shards" / "shard-0000.parquet") == BitMap([CLEO])
    assert tokens_in(road / workspace.SUBJECTS) == BitMap([BO, CLEO, EVE])


def test_erased_twice_finds_nothing_and_changes_nothing(road: Path) -> None:
    purge_history(road, BitMap([ADA]))
    forget_source(road)
    state = files(road)
    again = purge_history(road, BitMap([ADA]))
    assert {each.result for each in again} == {"nothing found"}
    assert files(road) == state


def test_an_unknown_person_changes_nothing(road: Path) -> None:
    state = files(road)
    assert {each.result for each in purge_history(road, BitMap([4711]))} == {"nothing found"}
    assert files(road) == state


def test_status_pull_and_repro_work_afterwards_and_make_the_same_shards(road: Path) -> None:
    purge_history(road, BitMap([ADA]))
    data = out(road, workspace.SHARDS)
    status = dvc(road, "status")
    assert "pseudonymize" not in status.replace("reports/pseudonymize", "")
    for folder in (".dvc/cache", "data", "model"):
        shutil.rmtree(road / folder)
    dvc(road, "pull")
    assert tokens_in(road / workspace.SUBJECTS) == BitMap([BO, CLEO, EVE])
    assert list((road / "model").iterdir()) == []
    people(road, BO, CLEO, EVE)
    walk(road)
    assert out(road, workspace.SHARDS) == data
    assert tokens_in(road / workspace.MANIFEST) == BitMap([BO, CLEO])
    assert (road / "model" / "model.json").exists()


def test_without_a_new_source_repro_trains_anew(road: Path) -> None:
    purge_history(road, BitMap([ADA]))
    ran = [line for line in dvc(road, "repro", "--dry").splitlines() if "Running stage" in line]
    assert ran == ["Running stage 'train':"]


def test_the_only_person_of_a_shard_leaves_an_empty_shard(road: Path) -> None:
    purge_history(road, BitMap([ADA, CLEO]))
    assert tokens_in(road / "data" / "shards" / "shard-0000.parquet") == BitMap()
    assert tokens_in(road / workspace.SUBJECTS) == BitMap([BO, EVE])
    people(road, BO, EVE)
    data = out(road, workspace.SHARDS)
    walk(road)
    assert out(road, workspace.SHARDS) == data


def test_everybody_can_be_erased(road: Path) -> None:
    forget_source(road)
    purge_history(road, BitMap([ADA, BO, CLEO, DAN, EVE]))
    for token in (ADA, BO, CLEO, DAN, EVE):
        assert holders(road, token=token) == []
    dvc(road, "pull")


def test_who_was_held_out_leaves_the_model_that_never_saw_them(road: Path) -> None:
    model = {p.name: p.read_bytes() for p in (road / "model").iterdir()}
    purge_history(road, BitMap([EVE]))
    forget_source(road)
    assert holders(road, token=EVE) == []
    assert {p.name: p.read_bytes() for p in (road / "model").iterdir()} == model


def test_who_is_on_another_branch_alone_leaves_this_one_as_it_is(road: Path) -> None:
    lock = (road / "dvc.lock").read_bytes()
    outcomes = purge_history(road, BitMap([DAN]))
    assert results(outcomes)["workspace"] == "nothing found"
    assert results(outcomes)["cache"] == results(outcomes)["remote default"] == "erased"
    forget_source(road)
    assert holders(road, token=DAN) == []
    assert (road / "dvc.lock").read_bytes() == lock
    dvc(road, "status", "--cloud")


def test_a_model_that_serves_stays_until_it_is_retired(road: Path) -> None:
    forget_source(road)
    model = out(road, workspace.MODEL)
    files = {p.name: p.read_bytes() for p in (road / "model").iterdir()}
    purge_history(road, BitMap([ADA]), serving=[model])
    assert {p.name: p.read_bytes() for p in (road / "model").iterdir()} == files
    assert tokens_in(road / workspace.MANIFEST) == BitMap([BO, CLEO])
    left = holders(road, token=ADA)
    assert [path for path in left if "parquet" in path or "roaring" in path] == []
    outcomes = purge_history(road, BitMap([ADA]), models=[model])
    assert results(outcomes)["workspace"] == "erased"
    assert holders(road, token=ADA) == []
    dvc(road, "pull")


def test_a_worktree_with_hard_links_is_rewritten_and_its_neighbour_is_not_corrupted(
    road: Path,
) -> None:
    git(road, "worktree", "add", "--quiet", str(road.parent / "other"), "side")
    other = road.parent / "other"
    for root in (road, other):
        (root / ".dvc" / "config.local").write_text(
            f"[cache]\n    dir = {road}/.dvc/cache\n    type = hardlink\n"
            f"['remote \"default\"']\n    url = {road}/remote\n"
        )
    dvc(other, "pull")
    assert (other / "data" / "shards" / "shard-0000.parquet").stat().st_nlink > 1
    for root in (road, other):
        forget_source(root)
    outcomes = purge_history(road, BitMap([ADA]))
    assert results(outcomes)["worktree other"] == "erased"
    assert {each.result for each in outcomes} <= {"erased", "nothing found"}
    assert holders(road, other, token=ADA) == []
    assert tokens_in(other / workspace.SUBJECTS) == BitMap([BO, CLEO, DAN])
    for root in (road, other):
        dvc(root, "pull")


def test_a_hard_link_in_an_unknown_place_keeps_the_request_open(road: Path) -> None:
    odd = out(road, workspace.SUBJECTS)
    os.link(
        road / ".dvc" / "cache" / "files" / "md5" / odd[:2] / odd[2:], road.parent / "elsewhere"
    )
    outcomes = {each.store: each for each in purge_history(road, BitMap([ADA]))}
    assert outcomes["cache"].result == "not attempted"
    assert "hard links" in str(outcomes["cache"].reason)
    (road.parent / "elsewhere").unlink()
    forget_source(road)
    assert results(purge_history(road, BitMap([ADA])))["cache"] == "erased"
    assert holders(road, token=ADA) == []
