"""The fresh look: whatever is left, in whichever place, is seen and named."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.outcomes import Outcome, Traces
from lethe.stores.dvc.purge import purge_history
from lethe.stores.dvc.verify import verify_history
from tests.past_pipeline import ADA, commit, forget_source, out, results

TRACES = Traces(key="P-0004711", token=ADA, identifiers=("Ada Quill", "42"))


def verify(root: Path) -> dict[str, Outcome]:
    return {o.store: o for o in verify_history(root, BitMap([ADA]), traces=TRACES)}


def test_before_a_purge_every_place_is_named(past: Path) -> None:
    found = verify(past)
    assert {store for store, each in found.items() if each.count} == {
        "workspace",
        "cache",
        "remote default",
    }
    assert out(past, workspace.SUBJECTS) in found["cache"].places
    assert "data/shards/shard-0000.parquet" in found["workspace"].places
    assert found["cache"].result == "present"
    assert "still in" in str(found["cache"].reason)


def test_after_a_purge_nothing_is_found_anywhere(past: Path) -> None:
    forget_source(past)
    purge_history(past, BitMap([ADA]))
    assert {each.result for each in verify(past).values()} == {"absent"}


def _object(root: Path, md5: str) -> Path:
    return root / "files" / "md5" / md5[:2] / md5[2:]


def _shard(root: Path) -> str:
    entries = json.loads(_object(root / ".dvc" / "cache", out(root, workspace.SHARDS)).read_bytes())
    return str(entries[0]["md5"])


LEFT: dict[str, tuple[str, Callable[[Path], list[Path]]]] = {
    "a shard in the cache": (
        "cache",
        lambda root: [_object(root / ".dvc" / "cache", _shard(root))],
    ),
    "a manifest in the cache": (
        "cache",
        lambda root: [_object(root / ".dvc" / "cache", out(root, workspace.SUBJECTS))],
    ),
    "a shard in the remote": (
        "remote default",
        lambda root: [_object(root / "remote", _shard(root))],
    ),
    "a model in the remote": (
        "remote default",
        lambda root: [_object(root / "remote", out(root, workspace.MODEL))],
    ),
    "a model in the cache": (
        "cache",
        lambda root: [_object(root / ".dvc" / "cache", out(root, workspace.MODEL))],
    ),
    "a shard in the workspace": (
        "workspace",
        lambda root: [root / "data" / "shards" / "shard-0000.parquet"],
    ),
    "a manifest in the workspace": ("workspace", lambda root: [root / workspace.MANIFEST]),
}


@pytest.mark.parametrize("left", LEFT)
def test_one_thing_left_in_one_place_is_seen_there_and_nowhere_else(
    past: Path, tmp_path: Path, left: str
) -> None:
    store, paths = LEFT[left]
    kept = {path: path.read_bytes() for path in paths(past)}
    forget_source(past)
    purge_history(past, BitMap([ADA]))
    for path, content in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    found = verify(past)
    assert {s for s, each in found.items() if each.result != "absent"} == {store}
    assert found[store].count == 1


@pytest.mark.parametrize(
    "place",
    [".dvc/tmp/exps/copy/shard", ".lethe/staging/run/manifest.roaring", ".lethe/tmp/x/shard"],
)
def test_what_a_killed_run_left_is_seen_and_then_erased(past: Path, place: str) -> None:
    forget_source(past)
    shard = (past / "data" / "shards" / "shard-0000.parquet").read_bytes()
    manifest = (past / workspace.MANIFEST).read_bytes()
    purge_history(past, BitMap([ADA]))
    (past / place).parent.mkdir(parents=True)
    (past / place).write_bytes(manifest if "manifest" in place else shard)
    found = verify(past)
    assert {s for s, each in found.items() if each.count} == {"temporary folders"}
    again = results(purge_history(past, BitMap([ADA])))
    assert again["temporary folders"] == "erased"
    assert {each.result for each in verify(past).values()} == {"absent"}


def _text(root: Path, name: str, content: bytes) -> str:
    (root / "reports" / name).write_bytes(content)
    return f"reports/{name}"


def _cell(root: Path, value: str) -> str:
    pq.write_table(pa.table({"said": [value, "other"] * 500}), root / "reports" / "x.parquet")
    return "reports/x.parquet"


@pytest.mark.parametrize(
    "leave",
    [
        lambda root: _text(root, "a.json", b'{"who": "P-0004711"}'),
        lambda root: _text(root, "a.txt", b"seen: ADA QUILL, twice"),
        lambda root: _text(root, "a.csv.gz", gzip.compress(b"name\nAda Quill\n")),
        lambda root: _text(root, "a.json", b'["42"]'),
        lambda root: _cell(root, "written by Ada Quill"),
        lambda root: _cell(root, "42"),
    ],
)
def test_key_and_identifiers_are_seen_in_files(past: Path, leave: Callable[[Path], str]) -> None:
    forget_source(past)
    purge_history(past, BitMap([ADA]))
    name = leave(past)
    assert verify(past)["workspace"].places == (name,)


def test_a_short_key_is_not_seen_in_every_number(past: Path) -> None:
    forget_source(past)
    purge_history(past, BitMap([ADA]))
    _text(past, "a.json", b'{"count": 42, "seconds": 0.42}')
    _cell(past, "version 42.1")
    assert verify(past)["workspace"].result == "absent"


def test_what_was_once_committed_to_git_is_seen(past: Path) -> None:
    forget_source(past)
    purge_history(past, BitMap([ADA]))
    (past / "note.txt").write_text("ask Ada Quill\n")
    commit(past, "A note")
    (past / "note.txt").unlink()
    commit(past, "No note")
    found = verify(past)
    assert {s for s, each in found.items() if each.count} == {"git history"}


def test_files_of_other_stores_are_left_to_them(past: Path) -> None:
    purge_history(past, BitMap([ADA]))
    (past / "source").write_text("Ada Quill\n")
    (past / "clinic.db").write_bytes(b"SQLite format 3\0 Ada Quill")
    outcomes = verify_history(past, BitMap([ADA]), traces=TRACES, skip=[past / "source"])
    assert {each.result for each in outcomes} == {"absent"}


def test_a_damaged_shard_is_not_called_clean(past: Path) -> None:
    forget_source(past)
    md5 = _shard(past)
    for store in (past / ".dvc" / "cache", past / "remote"):
        shard = _object(store, md5)
        shard.chmod(0o644)
        shard.write_bytes(shard.read_bytes()[:-40])
    outcomes = {each.store: each for each in purge_history(past, BitMap([ADA]))}
    assert outcomes["cache"].result == "unreachable"
    found = verify(past)
    assert found["cache"].result == "unreachable"
    assert "damaged" in str(found["cache"].reason)


def test_a_remote_that_does_not_answer_is_named_and_done_later(past: Path) -> None:
    forget_source(past)
    (past / "remote").rename(past.parent / "away")
    (past / "remote").write_text("a file, where a folder is expected")
    outcomes = {each.store: each for each in purge_history(past, BitMap([ADA]))}
    assert outcomes["remote default"].result == "unreachable"
    assert outcomes["cache"].result == "erased"
    assert verify(past)["remote default"].result == "unreachable"
    (past / "remote").unlink()
    shutil.move(past.parent / "away", past / "remote")
    assert verify(past)["remote default"].count > 0
    again = results(purge_history(past, BitMap([ADA])))
    assert again["remote default"] == "erased"
    assert {each.result for each in verify(past).values()} == {"absent"}
    shutil.rmtree(past / ".dvc" / "cache")
    for md5 in (out(past, workspace.SHARDS), out(past, workspace.SUBJECTS)):
        assert _object(past / "remote", md5).is_file()


def test_a_remote_of_another_kind_is_refused_by_name(past: Path) -> None:
    with (past / ".dvc" / "config").open("a") as config:
        config.write("['remote \"web\"']\n    url = http://127.0.0.1:1/store\n")
        config.write("['remote \"named\"']\n    url = s3://bucket/x\n    version_aware = true\n")
    found = {each.store: each for each in purge_history(past, BitMap([ADA]))}
    assert found["remote web"].result == found["remote named"].result == "unreachable"
    assert "http" in str(found["remote web"].reason)
    assert "version_aware" in str(found["remote named"].reason)
    assert found["cache"].result == "erased"
