"""Older versions leave what DVC keeps; seen with a look of the test's own at every file."""

import hashlib
import shutil
from pathlib import Path

import pytest
from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.errors import NotFound
from lethe.stores.dvc.expire import purge_versions, verify_versions
from tests.past_pipeline import (
    ADA,
    BO,
    CLEO,
    EVE,
    WARDS,
    dvc,
    files,
    git,
    out,
    results,
    run_pipeline,
    tokens_in,
)

NEWER = "a-row-in-time"


def remake(root: Path) -> str:
    """Ada's old row expires and another of hers stays; the pipeline makes the shards anew."""
    text = (root / "source").read_text()
    (root / "source").write_text(text.replace(WARDS[ADA], NEWER))
    run_pipeline(root, "pseudonymize")
    dvc(root, "push", "--quiet")
    return out(root, workspace.SHARDS)


def shards(*folders: Path, token: int) -> dict[str, list[str]]:
    """md5 → where: every shard that has a token, wherever it lies."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.read_bytes()[:4] == b"PAR1" and token in tokens_in(path):
                md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
                found.setdefault(md5, []).append(path.relative_to(folder).as_posix())
    return found


def old_rows(root: Path) -> list[Path]:
    """Files that have the value of Ada's old row."""
    found = [path for path in root.rglob("*") if path.is_file()]
    return [path for path in found if WARDS[ADA].encode() in path.read_bytes()]


def test_only_the_current_version_is_left_anywhere(past: Path) -> None:
    data = remake(past)
    assert len(shards(past, token=ADA)) == 2
    outcomes = purge_versions(past, BitMap([ADA]))
    (places,) = shards(past, token=ADA).values()
    assert len(places) == 3, "workspace, cache and remote"
    assert out(past, workspace.SHARDS) == data
    assert old_rows(past) == [], "the models that learned from the old row included"
    assert results(outcomes) == {
        "workspace": "erased",
        "branches": "erased",
        "temporary folders": "absent",
        "cache": "erased",
        "run-cache": "erased",
        "remote default": "erased",
    }
    assert {each.result for each in verify_versions(past, BitMap([ADA]))} == {"absent"}


def test_a_fresh_look_before_finds_older_versions_and_none_of_others(past: Path) -> None:
    remake(past)
    seen = {each.store: each for each in verify_versions(past, BitMap([ADA]))}
    assert seen["cache"].count == seen["remote default"].count == 1
    # Eve's shard is as it was: there is no older version of it with her.
    assert {each.result for each in verify_versions(past, BitMap([EVE]))} == {"absent"}
    state = files(past)
    again = purge_versions(past, BitMap([EVE]))
    assert {each.result for each in again} == {"absent"}
    assert files(past) == state


def test_twice_finds_nothing_and_changes_nothing(past: Path) -> None:
    remake(past)
    purge_versions(past, BitMap([ADA]))
    state = files(past)
    again = purge_versions(past, BitMap([ADA]))
    assert {each.result for each in again} == {"absent"}
    assert files(past) == state


def test_people_stay_in_the_manifests_of_models_that_stay(past: Path) -> None:
    model, manifest = out(past, workspace.MODEL), out(past, workspace.MANIFEST)
    kept = {p.name: p.read_bytes() for p in (past / "model").iterdir()}
    remake(past)
    purge_versions(past, BitMap([ADA]), serving=[model])
    assert {p.name: p.read_bytes() for p in (past / "model").iterdir()} == kept
    assert (out(past, workspace.MODEL), out(past, workspace.MANIFEST)) == (model, manifest)
    assert ADA in tokens_in(past / workspace.MANIFEST)
    looked = verify_versions(past, BitMap([ADA]), serving=[model])
    assert {each.result for each in looked} == {"absent"}
    # Once it is replaced it goes as well.
    purge_versions(past, BitMap([ADA]), models=[model])
    assert list((past / "model").iterdir()) == []
    gone = verify_versions(past, BitMap([ADA]), models=[model])
    assert {each.result for each in gone} == {"absent"}


def test_who_was_only_held_out_takes_no_model_along(past: Path) -> None:
    text = (past / "source").read_text()
    (past / "source").write_text(text.replace(WARDS[EVE], NEWER))
    run_pipeline(past, "pseudonymize")
    model = {p.name: p.read_bytes() for p in (past / "model").iterdir()}
    assert results(purge_versions(past, BitMap([EVE])))["cache"] == "erased"
    assert {p.name: p.read_bytes() for p in (past / "model").iterdir()} == model


def test_repro_trains_anew_and_pull_works_here_and_on_other_branches(past: Path) -> None:
    remake(past)
    purge_versions(past, BitMap([ADA]))
    shutil.rmtree(past / ".dvc" / "cache")
    dvc(past, "pull")
    assert tokens_in(past / workspace.SUBJECTS) == BitMap([ADA, BO, CLEO, EVE])
    run_pipeline(past)
    assert NEWER in (past / "model" / "model.json").read_text()
    git(past, "switch", "--quiet", "--discard-changes", "side")
    shutil.rmtree(past / "data")
    dvc(past, "pull", "--force")
    run_pipeline(past)  # the branch forgot its shards, and makes them anew


def test_another_worktree_loses_its_old_shards(past: Path) -> None:
    other = past.parent / "other"
    git(past, "worktree", "add", "--quiet", str(other), "side")
    for root in (past, other):
        (root / ".dvc" / "config.local").write_text(
            f"[cache]\n    dir = {past}/.dvc/cache\n"
            f"['remote \"default\"']\n    url = {past}/remote\n"
        )
    dvc(other, "pull")
    assert WARDS[ADA].encode() in (other / "model" / "model.json").read_bytes()
    remake(past)
    outcomes = purge_versions(past, BitMap([ADA]))
    assert results(outcomes)["worktree other"] == "erased"
    assert list(shards(other, token=ADA)) == []
    assert list((other / "model").iterdir()) == []
    assert {each.result for each in verify_versions(past, BitMap([ADA]))} == {"absent"}
    dvc(other, "pull")


def test_without_the_current_shards_nothing_is_touched(past: Path) -> None:
    data = remake(past)
    (past / ".dvc" / "cache" / "files" / "md5" / data[:2] / data[2:]).unlink()
    state = files(past)
    with pytest.raises(NotFound):
        purge_versions(past, BitMap([ADA]))
    assert files(past) == state


@pytest.mark.parametrize("cut_at", [1, 3, 6])
def test_cut_anywhere_it_goes_on_and_the_current_version_is_never_lost(
    past: Path, monkeypatch: pytest.MonkeyPatch, cut_at: int
) -> None:
    class Cut(BaseException):
        pass

    data = remake(past)
    removed: list[Path] = []
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if "files/md5" in path.as_posix() or "/runs/" in path.as_posix():
            removed.append(path)
            if len(removed) == cut_at:
                raise Cut
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched, pytest.raises(Cut):
        patched.setattr(Path, "unlink", unlink)
        purge_versions(past, BitMap([ADA]))
    purge_versions(past, BitMap([ADA]))
    assert out(past, workspace.SHARDS) == data
    (places,) = shards(past, token=ADA).values()
    assert len(places) == 3
    assert {each.result for each in verify_versions(past, BitMap([ADA]))} == {"absent"}
    assert old_rows(past) == []
