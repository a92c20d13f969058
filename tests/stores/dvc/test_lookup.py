"""Which versions a person is in, of all that any commit, worktree or run ever named."""

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap
from ruamel.yaml import YAML

from lethe.config import workspace
from lethe.stores.dvc.git import INDEX, committed_locks
from lethe.stores.dvc.lookup import WORKSPACE, Lookup, look_up
from lethe.stores.dvc.manifest import Manifest, NotAManifest
from lethe.stores.dvc.purge import purge_history
from tests.past_pipeline import ADA, BO, DAN, EVE, git, out, people, run_pipeline


def test_a_person_is_found_in_every_version_of_every_branch(past: Path) -> None:
    found = look_up(past, ADA)
    commits = [git(past, "rev-parse", name) for name in ("main~1", "side", "main")]
    assert [each.commit for each in found.datasets] == commits
    assert len(found.manifests) == 2  # main's first and third trained on the same people
    assert len(found.models) == 2
    assert out(past, workspace.MODEL) in found.models
    assert found.missing == ()


def test_who_is_on_one_branch_alone_is_found_there_alone(past: Path) -> None:
    found = look_up(past, DAN)
    assert [each.commit for each in found.datasets] == [git(past, "rev-parse", "side")]
    assert len(found.manifests) == len(found.models) == 1


def test_who_is_held_out_is_in_data_and_in_no_model(past: Path) -> None:
    found = look_up(past, EVE)
    assert [each.data_md5 for each in found.datasets] == [out(past, workspace.SHARDS)]
    assert found.manifests == found.models == ()


def test_what_is_not_committed_yet_is_found_too(past: Path) -> None:
    people(past, BO, DAN)
    run_pipeline(past, "pseudonymize")
    assert [each.commit for each in look_up(past, DAN).datasets][-1] == WORKSPACE


def test_an_unknown_token_is_nowhere(past: Path) -> None:
    found = look_up(past, 4711)
    assert (found.datasets, found.manifests, found.models) == ((), (), ())


def test_after_an_erasure_a_person_is_nowhere_and_others_are_where_they_were(past: Path) -> None:
    before = look_up(past, EVE)
    purge_history(past, BitMap([ADA]))
    lookup = Lookup(past)
    found = lookup.find(ADA)
    assert (found.datasets, found.manifests, found.models) == ((), (), ())
    assert found.missing
    assert lookup.fetchable(found.missing) == []  # they are gone, not elsewhere
    after = lookup.find(EVE)
    assert len(after.datasets) == len(before.datasets) == 1
    assert after.datasets[0].commit == WORKSPACE


def test_a_manifest_that_only_a_remote_has_is_said_to_be_missing(past: Path) -> None:
    md5 = out(past, workspace.SUBJECTS)
    (past / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    lookup = Lookup(past)
    assert lookup.find(ADA).missing == (md5,)
    assert lookup.fetchable([md5]) == [md5]


def test_the_index_says_what_git_says_and_follows_new_commits(past: Path) -> None:
    first = committed_locks(past)
    assert [lock.commit for lock in first] == [
        git(past, "rev-parse", name) for name in ("main~1", "side", "main")
    ]
    assert (past / INDEX).stat().st_mode & 0o777 == 0o600
    assert committed_locks(past) == first
    git(past, "commit", "--quiet", "--allow-empty", "--message", "Nothing")
    assert committed_locks(past) == first
    (past / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    git(past, "commit", "--quiet", "--all", "--message", "Fourth")
    assert len(committed_locks(past)) == 4
    (past / INDEX).write_text("{")
    assert len(committed_locks(past)) == 4


def test_datasets_agree_with_the_history_that_reads_every_lock(past: Path) -> None:
    slow = set()
    for commit in git(past, "rev-list", "--all", "--", "dvc.lock").split():
        made = YAML(typ="safe").load(git(past, "show", f"{commit}:dvc.lock"))["stages"]
        outs = {out["path"]: out["md5"] for stage in made.values() for out in stage["outs"]}
        slow.add((outs["data/shards"], outs["data/subjects.roaring"]))
    quick = {(d.data_md5, d.subjects_md5) for t in (ADA, DAN) for d in look_up(past, t).datasets}
    assert quick == slow


def test_a_worktree_without_git_has_no_past(past: Path) -> None:
    shutil.rmtree(past / ".git")
    assert look_up(past, ADA).datasets[0].commit == WORKSPACE


TOKENS = st.integers(0, 2**32 - 2)


@given(
    st.sets(TOKENS, max_size=50),
    st.lists(st.tuples(TOKENS, st.integers(1, 9000), st.integers(1, 3)), max_size=3),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_a_manifest_says_of_every_token_what_the_bitmap_says(
    alone: set[int], ranges: list[tuple[int, int, int]], optimized: bool, seed: int
) -> None:
    people = BitMap(alone)
    for start, length, step in ranges:
        people |= BitMap(range(start, min(start + length * step, 2**32 - 1), step))
    if optimized:
        people.run_optimize()
    manifest = Manifest(people.serialize())
    random_ = random.Random(seed)
    asked = {random_.randrange(2**32) for _ in range(50)} | alone
    for start, length, step in ranges:
        end = start + length * step
        asked |= {t for t in (start - 1, start, start + 1, end - 1, end) if 0 <= t < 2**32}
    assert {token for token in asked if token in manifest} == asked & set(people)


@pytest.mark.parametrize("cut", [0, 1, 5, 9, -1])
def test_what_is_no_whole_manifest_is_refused(cut: int) -> None:
    whole = BitMap([1, 70_000, *range(200_000, 209_000)]).serialize()
    with pytest.raises(NotAManifest):
        Manifest(whole[:cut])
    with pytest.raises(NotAManifest):
        Manifest(whole + b"x")


def test_what_is_something_else_is_no_manifest() -> None:
    for content in (b"", b"PAR1", b"{}", b":0", b":0\0\0\xff\xff\xff\xff", b";0\xff\xff"):
        with pytest.raises(NotAManifest):
            Manifest(content)
