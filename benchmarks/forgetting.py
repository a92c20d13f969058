"""What finding and erasing one person costs at a million people."""

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from pyroaring import BitMap

from benchmarks import erasing
from benchmarks.timing import Row
from lethe.stores.dvc.lookup import look_up

SUBJECTS = 1_000_000
VERSIONS, DISTINCT = 1_000, 25  # of 2.5 MB each; the rest are hard links to these

T = TypeVar("T")


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("LETHE_SCRATCH")) as folder:
        found = list(_looking_up(Path(folder) / "many"))
    return [*found, *erasing.measure()]


def _looking_up(root: Path) -> Iterator[Row]:
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
