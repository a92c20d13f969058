"""What finding and erasing one person costs in DVC's stores, at a million people."""

import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap

from pipeline.stores.history_lookup import look_up
from pipeline.stores.history_purge import purge_history
from pipeline.stores.history_verify import verify_history

SUBJECTS, RECORDS, SHARDS = 1_000_000, 5_000_000, 64
VERSIONS, DISTINCT = 1_000, 25  # of 2.5 MB each; the rest are hard links to these

T = TypeVar("T")


def measure() -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        return [*_looking_up(Path(folder) / "many"), *_erasing(Path(folder) / "one")]


def _looking_up(root: Path) -> Iterator[tuple[str, str, str]]:
    random = np.random.default_rng(1)
    store = root / ".dvc" / "cache" / "files" / "md5"
    files: list[Path] = []
    tokens = random.choice(2**32 - 1, SUBJECTS, replace=False, shuffle=False)
    for number in range(DISTINCT):
        kept = BitMap(np.sort(tokens[random.random(SUBJECTS) < 0.999]).astype(np.uint32))
        path = root / f"manifest-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(kept.serialize())
        files.append(path)
    commits = []
    for number in range(VERSIONS):
        names = [hashlib.md5(f"{number} {what}".encode()).hexdigest() for what in "abcd"]
        for md5 in names[1:3]:
            target = store / md5[:2] / md5[2:]
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(files[number % DISTINCT], target)
        commits.append(_lock(f"{names[0]}.dir", names[1], names[2], f"{names[3]}.dir"))
    _commit(root, commits)
    token = int(tokens[0])
    cold, found = _timed(lambda: look_up(root, token))
    warm = min(_timed(lambda: look_up(root, token))[0] for _ in range(3))
    what = f"look up among {VERSIONS:,} versions x {SUBJECTS:,} subjects ({len(found.datasets):,})"
    yield what, f"{warm * 1000:.0f} ms", "≤ 100 ms"
    yield "the same, the first time", f"{cold:.1f} s", ""


def _erasing(root: Path) -> Iterator[tuple[str, str, str]]:
    """Two versions of the shards, which differ in one, in a cache and in a remote."""
    random = np.random.default_rng(2)
    tokens = random.choice(2**32 - 1, SUBJECTS, replace=False, shuffle=False).astype(np.uint32)
    stores = [root / ".dvc" / "cache", root / "remote"]
    entries = []
    shards = root / "data" / "shards"
    shards.mkdir(parents=True)
    for number in range(SHARDS):
        people = np.sort(tokens[number::SHARDS])
        token = np.sort(random.choice(people, RECORDS // SHARDS))
        columns = {"token": pa.array(token), "held_out": pa.array(token % 5 == 0)}
        for name in range(12):
            columns[f"c{name}"] = pa.array(random.integers(0, 40, len(token)))
        path = shards / f"shard-{number:04d}.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd")
        entries.append({"md5": _put(stores, path.read_bytes()), "relpath": path.name})
    first = pq.read_table(shards / "shard-0000.parquet")
    person = int(first["token"][0].as_py())
    sink = pa.BufferOutputStream()
    pq.write_table(first.slice(0, len(first) - 7), sink)
    older = _put(stores, sink.getvalue().to_pybytes())
    manifest = BitMap(tokens).serialize()
    (root / "data" / "subjects.roaring").write_bytes(manifest)
    subjects = _put(stores, manifest)
    locks = []
    for shard in (older, entries[0]["md5"]):
        folder = [{**entries[0], "md5": shard}, *entries[1:]]
        md5 = _put(stores, json.dumps(folder, sort_keys=True).encode(), suffix=".dir")
        locks.append(_lock(md5, subjects, None, None))
    _commit(root, locks)
    (root / "dvc.lock").write_bytes(locks[-1])
    (root / ".dvc" / "config").write_text("['remote \"default\"']\n    url = ../remote\n")
    before = {path: path.stat().st_ino for path in shards.iterdir()}
    took, outcomes = _timed(lambda: purge_history(root, BitMap([person])))
    looked, seen = _timed(lambda: verify_history(root, BitMap([person])))
    clean = {each.result for each in seen} == {"nothing found"}
    touched = sum(path.stat().st_ino != inode for path, inode in before.items())
    what = f"erase one of {SUBJECTS:,} people, {RECORDS:,} records in {SHARDS} shards from DVC"
    yield what, f"{took:.1f} s", "≤ 60 s"
    yield "look afresh into workspace, cache and remote", f"{looked:.1f} s", "≤ 60 s"
    removed = sum(each.count for each in outcomes if each.store == "cache")
    yield (
        "shards of the workspace rewritten; objects gone from the cache; clean",
        f"{touched}; {removed}; {'yes' if clean else 'no'}",
        "1",
    )


def _lock(data: str, subjects: str, manifest: str | None, model: str | None) -> bytes:
    text = (
        "schema: '2.0'\nstages:\n  pseudonymize:\n    cmd: lethe pseudonymize\n    outs:\n"
        f"    - path: data/shards\n      hash: md5\n      md5: {data}\n      size: 1\n"
        "    - path: data/subjects.roaring\n      hash: md5\n"
        f"      md5: {subjects}\n      size: 1\n"
    )
    if manifest is not None:
        text += (
            "  train:\n    cmd: lethe train\n    outs:\n"
            f"    - path: data/manifest.roaring\n      hash: md5\n      md5: {manifest}\n"
            f"    - path: model\n      hash: md5\n      md5: {model}\n"
        )
    return text.encode()


def _put(stores: list[Path], content: bytes, *, suffix: str = "") -> str:
    md5 = hashlib.md5(content).hexdigest() + suffix
    for store in stores:
        path = store / "files" / "md5" / md5[:2] / md5[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return md5


def _commit(root: Path, locks: list[bytes]) -> None:
    """One commit a lock, by git's own importer."""
    (root / ".dvc").mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=root, check=True)
    stream = b""
    for number, content in enumerate(locks):
        stream += b"commit refs/heads/main\ncommitter bench <bench@example.org> %d +0000\n" % number
        stream += b"data 4\nlock\nM 644 inline dvc.lock\ndata %d\n" % len(content) + content + b"\n"
    subprocess.run(["git", "fast-import", "--quiet"], cwd=root, input=stream, check=True)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    done = work()
    return time.perf_counter() - start, done
