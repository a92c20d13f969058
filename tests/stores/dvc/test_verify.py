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
from lethe.stores.dvc.survey import md5_of
from lethe.stores.dvc.verify import LookedFor, verify_histories, verify_history
from tests.past_pipeline import ADA, commit, forget_source, git, out, results

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


def _open(root: Path, *code: str) -> dict[str, tuple[str, ...]]:
    """Where the person still is, by store, if some folders are declared to be code."""
    people = [LookedFor(BitMap([ADA]), TRACES)]
    (outcomes,) = verify_histories(root, people, code=code)
    return {each.store: each.places for each in outcomes if each.result != "absent"}


def test_files_of_git_that_are_declared_to_be_code_are_left_out_and_nothing_else_is(
    past: Path,
) -> None:
    forget_source(past)
    shard = (past / "data" / "shards" / "shard-0000.parquet").read_bytes()
    purge_history(past, BitMap([ADA]))
    for folder in ("tests/unit", "tests more", "examples"):
        (past / folder).mkdir(parents=True)
    (past / "tests" / "unit" / "test_names.py").write_text('assert name("Ada Quill")\n')
    commit(past, "A test that names her")
    assert _open(past).keys() == {"workspace", "git history"}
    assert _open(past, "examples").keys() == {"workspace", "git history"}
    assert _open(past, "*").keys() == {"workspace", "git history"}
    assert _open(past, "tests") == _open(past, "tests/unit") == {}

    (past / "tests more" / "notes.txt").write_text("Ada Quill, another time\n")
    (past / "tests" / "patients.csv").write_text("Ada Quill,1955-01-01\n")  # git has neither
    (past / "tests" / "linked.txt").symlink_to("../tests more/notes.txt")
    git(past, "add", "tests/linked.txt")
    found = _open(past, "tests")
    assert found == {"workspace": ("tests more/notes.txt", "tests/patients.csv")}
    for path in ("tests more/notes.txt", "tests/patients.csv"):
        (past / path).unlink()

    (past / "tests" / "shard.parquet").write_bytes(shard)
    commit(past, "Her row in a test")
    assert _open(past, "tests")["workspace"] == ("tests/shard.parquet",)
    git(past, "rm", "--quiet", "tests/shard.parquet")
    copy = past / "examples" / "names.py"
    copy.write_bytes((past / "tests" / "unit" / "test_names.py").read_bytes())
    commit(past, "The same elsewhere")
    git(past, "rm", "--quiet", "examples/names.py")
    commit(past, "No longer")
    assert _open(past, "tests").keys() == {"git history"}
    assert _open(past, "tests", "examples") == {}


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


def _without_first(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    return entries[1:]


def _of_others(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    return [*entries, {"md5": md5_of(b"somebody else's"), "relpath": "shard-0009.parquet"}]


def _same_with_a_blank(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**each, "size": " "} for each in entries]


def _overwrite(listing: Path, entries: list[dict[str, str]]) -> None:
    listing.chmod(0o644)
    listing.write_text(json.dumps(entries))


@pytest.mark.parametrize(
    ("store", "name", "output", "lie"),
    [
        (".dvc/cache", "cache", workspace.MODEL, _of_others),
        ("remote", "remote default", workspace.MODEL, _of_others),
        (".dvc/cache", "cache", workspace.SHARDS, _without_first),
        ("remote", "remote default", workspace.SHARDS, _same_with_a_blank),
    ],
)
def test_a_listing_that_is_not_what_its_name_says_is_reported_and_not_followed(
    past: Path,
    store: str,
    name: str,
    output: Path,
    lie: Callable[[list[dict[str, str]]], list[dict[str, str]]],
) -> None:
    forget_source(past)
    others = _object(past / store, md5_of(b"somebody else's"))
    others.parent.mkdir(parents=True, exist_ok=True)
    others.write_bytes(b"somebody else's")
    listing = _object(past / store, out(past, output))
    _overwrite(listing, lie(json.loads(listing.read_bytes())))
    found = {each.store: each for each in verify_history(past, BitMap())}
    assert {s for s, each in found.items() if each.result != "absent"} == {name}
    assert found[name].places == (out(past, output),)
    # What the other store says of that folder is what its name says, so it is known to go.
    assert results(purge_history(past, BitMap([ADA])))[name] == "erased"
    assert verify(past)[name].result == "absent"
    assert others.exists()


@pytest.mark.parametrize("output", [workspace.SHARDS, workspace.MODEL])
def test_a_request_stays_open_until_a_false_listing_in_every_store_is_gone(
    past: Path, output: Path
) -> None:
    forget_source(past)
    listings = [_object(past / store, out(past, output)) for store in (".dvc/cache", "remote")]
    for listing in listings:
        _overwrite(listing, [])
    old = out(past, output)
    reasons = {each.store: each.reason for each in purge_history(past, BitMap([ADA]))}
    found = verify(past)
    open_ = {name for name, each in found.items() if each.result != "absent"}
    if output == workspace.SHARDS:  # of a model the lock alone says that it goes
        assert open_ == {"cache", "remote default"}
        assert all("1 damaged objects" in str(reasons[name]) for name in open_)
        assert found["cache"].places == (old,)
        for listing in listings:
            listing.unlink()
        purge_history(past, BitMap([ADA]))
    assert {each.result for each in verify(past).values()} == {"absent"}


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
