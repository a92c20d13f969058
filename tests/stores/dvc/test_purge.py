"""Erasing people from what DVC keeps; seen with a look of the test's own at every file."""

import os
import shutil
from pathlib import Path

from pyroaring import BitMap

from lethe.config import workspace
from lethe.stores.dvc.purge import JOURNAL, purge_history
from tests.past_pipeline import (
    ADA,
    BO,
    CLEO,
    DAN,
    EVE,
    dvc,
    files,
    forget_source,
    git,
    holders,
    out,
    people,
    results,
    run_pipeline,
    tokens_in,
)


def test_an_erased_person_is_in_no_file_of_workspace_cache_and_remote(past: Path) -> None:
    forget_source(past)
    assert len(holders(past, token=ADA)) > 10
    outcomes = purge_history(past, BitMap([ADA]))
    assert holders(past, token=ADA) == []
    assert results(outcomes) == {
        "workspace": "erased",
        "branches": "erased",
        "temporary folders": "absent",
        "cache": "erased",
        "run-cache": "erased",
        "remote default": "erased",
    }
    assert not (past / JOURNAL).exists()


def test_others_stay_and_the_shard_without_the_person_keeps_its_bytes(past: Path) -> None:
    odd = past / "data" / "shards" / "shard-0001.parquet"
    before = odd.read_bytes()
    purge_history(past, BitMap([ADA]))
    assert odd.read_bytes() == before
    assert tokens_in(past / "data" / "shards" / "shard-0000.parquet") == BitMap([CLEO])
    assert tokens_in(past / workspace.SUBJECTS) == BitMap([BO, CLEO, EVE])


def test_erased_twice_finds_nothing_and_changes_nothing(past: Path) -> None:
    purge_history(past, BitMap([ADA]))
    forget_source(past)
    state = files(past)
    again = purge_history(past, BitMap([ADA]))
    assert {each.result for each in again} == {"absent"}
    assert files(past) == state


def test_an_unknown_person_changes_nothing(past: Path) -> None:
    state = files(past)
    assert {each.result for each in purge_history(past, BitMap([4711]))} == {"absent"}
    assert files(past) == state


def test_status_pull_and_repro_work_afterwards_and_make_the_same_shards(past: Path) -> None:
    purge_history(past, BitMap([ADA]))
    data = out(past, workspace.SHARDS)
    status = dvc(past, "status")
    assert "pseudonymize" not in status.replace("reports/pseudonymize", "")
    for folder in (".dvc/cache", "data", "model"):
        shutil.rmtree(past / folder)
    dvc(past, "pull")
    assert tokens_in(past / workspace.SUBJECTS) == BitMap([BO, CLEO, EVE])
    assert list((past / "model").iterdir()) == []
    people(past, BO, CLEO, EVE)
    run_pipeline(past)
    assert out(past, workspace.SHARDS) == data
    assert tokens_in(past / workspace.MANIFEST) == BitMap([BO, CLEO])
    assert (past / "model" / "model.json").exists()


def test_without_a_new_source_repro_trains_anew(past: Path) -> None:
    purge_history(past, BitMap([ADA]))
    ran = [line for line in dvc(past, "repro", "--dry").splitlines() if "Running stage" in line]
    assert ran == ["Running stage 'train':"]


def test_the_only_person_of_a_shard_leaves_an_empty_shard(past: Path) -> None:
    purge_history(past, BitMap([ADA, CLEO]))
    assert tokens_in(past / "data" / "shards" / "shard-0000.parquet") == BitMap()
    assert tokens_in(past / workspace.SUBJECTS) == BitMap([BO, EVE])
    people(past, BO, EVE)
    data = out(past, workspace.SHARDS)
    run_pipeline(past)
    assert out(past, workspace.SHARDS) == data


def test_everybody_can_be_erased(past: Path) -> None:
    forget_source(past)
    purge_history(past, BitMap([ADA, BO, CLEO, DAN, EVE]))
    for token in (ADA, BO, CLEO, DAN, EVE):
        assert holders(past, token=token) == []
    dvc(past, "pull")


def test_who_was_held_out_leaves_the_model_that_never_saw_them(past: Path) -> None:
    model = {p.name: p.read_bytes() for p in (past / "model").iterdir()}
    purge_history(past, BitMap([EVE]))
    forget_source(past)
    assert holders(past, token=EVE) == []
    assert {p.name: p.read_bytes() for p in (past / "model").iterdir()} == model


def test_who_is_on_another_branch_alone_leaves_this_one_as_it_is(past: Path) -> None:
    lock = (past / "dvc.lock").read_bytes()
    outcomes = purge_history(past, BitMap([DAN]))
    assert results(outcomes)["workspace"] == "absent"
    assert results(outcomes)["cache"] == results(outcomes)["remote default"] == "erased"
    forget_source(past)
    assert holders(past, token=DAN) == []
    assert (past / "dvc.lock").read_bytes() == lock
    dvc(past, "status", "--cloud")


def test_a_branch_that_nobody_has_checked_out_can_be_pulled_afterwards(past: Path) -> None:
    tip = git(past, "rev-parse", "side")
    index = (past / ".git" / "index").read_bytes()
    purge_history(past, BitMap([ADA]))
    assert git(past, "rev-parse", "side~1") == tip
    assert git(past, "diff", "--name-only", "side~1", "side") == "dvc.lock"
    assert (past / ".git" / "index").read_bytes() == index
    forget_source(past)
    git(past, "switch", "--quiet", "--discard-changes", "side")
    (past / "source").unlink()
    shutil.rmtree(past / ".dvc" / "cache")
    dvc(past, "pull", "--force")
    assert tokens_in(past / workspace.SUBJECTS) == BitMap([BO, CLEO, DAN])
    assert holders(past, token=ADA) == []
    again = purge_history(past, BitMap([ADA]))
    assert {each.result for each in again} == {"absent"}


def test_a_model_that_serves_stays_until_it_is_retired(past: Path) -> None:
    forget_source(past)
    model = out(past, workspace.MODEL)
    files = {p.name: p.read_bytes() for p in (past / "model").iterdir()}
    purge_history(past, BitMap([ADA]), serving=[model])
    assert {p.name: p.read_bytes() for p in (past / "model").iterdir()} == files
    assert tokens_in(past / workspace.MANIFEST) == BitMap([BO, CLEO])
    left = holders(past, token=ADA)
    assert [path for path in left if "parquet" in path or "roaring" in path] == []
    outcomes = purge_history(past, BitMap([ADA]), models=[model])
    assert results(outcomes)["workspace"] == "erased"
    assert holders(past, token=ADA) == []
    dvc(past, "pull")


def test_a_worktree_with_hard_links_is_rewritten_and_its_neighbour_is_not_corrupted(
    past: Path,
) -> None:
    git(past, "worktree", "add", "--quiet", str(past.parent / "other"), "side")
    other = past.parent / "other"
    for root in (past, other):
        (root / ".dvc" / "config.local").write_text(
            f"[cache]\n    dir = {past}/.dvc/cache\n    type = hardlink\n"
            f"['remote \"default\"']\n    url = {past}/remote\n"
        )
    dvc(other, "pull")
    assert (other / "data" / "shards" / "shard-0000.parquet").stat().st_nlink > 1
    for root in (past, other):
        forget_source(root)
    outcomes = purge_history(past, BitMap([ADA]))
    assert results(outcomes)["worktree other"] == "erased"
    assert {each.result for each in outcomes} <= {"erased", "absent"}
    assert holders(past, other, token=ADA) == []
    assert tokens_in(other / workspace.SUBJECTS) == BitMap([BO, CLEO, DAN])
    for root in (past, other):
        dvc(root, "pull")


def test_a_hard_link_in_an_unknown_place_keeps_the_request_open(past: Path) -> None:
    odd = out(past, workspace.SUBJECTS)
    os.link(
        past / ".dvc" / "cache" / "files" / "md5" / odd[:2] / odd[2:], past.parent / "elsewhere"
    )
    outcomes = {each.store: each for each in purge_history(past, BitMap([ADA]))}
    assert outcomes["cache"].result == "unreachable"
    assert "hard links" in str(outcomes["cache"].reason)
    (past.parent / "elsewhere").unlink()
    forget_source(past)
    assert results(purge_history(past, BitMap([ADA])))["cache"] == "erased"
    assert holders(past, token=ADA) == []
