"""One person, then a hundred, erased by `lethe erase run` from everything that a million are in.

The workspace is a clone of the project with a source in SQLite, its vault, two versions of the
shards and of a model in DVC's cache and in a local remote, both models registered. Every shard
differs between the versions. Retraining is left to a person (`erasure.retrain: manual`).
"""

import datetime as dt
import hashlib
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap
from ruamel.yaml import YAML

from benchmarks import source
from benchmarks.timing import Row
from lethe.config.keys import load_key
from lethe.config.params import Params, load_params
from lethe.data.partition import held_out, shard_of
from lethe.ledger.ledger import Ledger
from lethe.privacy.planning import plan_from
from lethe.stores.registry.registry import NewVersion, Registry
from lethe.stores.registry.signature import Input
from lethe.stores.registry.tags import RUN_ID
from lethe.stores.vault.vault import Vault

PROJECT = Path(__file__).parents[1]
SUBJECTS, SHARDS, VERSIONS = 1_000_000, 64, 2
SMALL, MANY = 20_000, 100
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)

_STEPS = {  # by class and method
    ("WorkspaceStores", "people"): "look up",
    ("SourceStore", "trace"): "look up",
    ("VaultStore", "trace"): "look up",
    ("WorkspaceStores", "models_of"): "look up",
    ("WorkspaceStores", "suppress"): "suppress",
    ("WorkspaceStores", "remember"): "remember the spend",
    ("SourceStore", "forget"): "source",
    ("SourceStore", "overwrite"): "overwrite the source's free space",
    ("VaultStore", "forget"): "vault",
    ("RegistryStore", "forget"): "retire",
}


def measure(subjects: int = SUBJECTS) -> list[Row]:
    """The whole at full size, by step; then what a hundred requests cost beside one."""
    with _workspace(subjects) as root:
        one = _erase(root, [_made(root)["somebody"]])
        kept = _touched(root)
    rows = [
        (f"erase one of {subjects:,}, {5 * subjects:,} records: {step}", _seconds(*seconds), "")
        for step, seconds in one["steps"].items()
    ]
    rows += [
        ("… start of the command, and the rest", _seconds(*one["rest"]), ""),
        ("… everything but retraining", _seconds(*one["whole"]), "≤ 60 s"),
        (f"… load of the machine, {os.cpu_count()} cores", f"{one['load']:.1f}", ""),
        ("… most shards touched of a version", f"{kept} of {SHARDS}", "≤ 1"),
    ]
    with _workspace(SMALL) as root:
        few = _erase(root, [_made(root)["somebody"]])
        many = _erase(root, [_key(number) for number in range(MANY)])
    wall, cpu = (many["whole"][n] / few["whole"][n] for n in (0, 1))
    what = f"{MANY} requests beside one, {SMALL:,} subjects: time; CPU"
    return [*rows, (what, f"{wall:.1f} times; {cpu:.1f} times", "≤ 10")]


def _seconds(wall: float, cpu: float) -> str:
    return f"{wall:.1f} s, {cpu:.1f} of CPU"


def _key(number: int) -> str:
    return f"P{100_000_001 + number}"  # never written out: the clone's own files are searched


# ---------------------------------------------------------------------- the erasure


def _erase(root: Path, keys: list[str]) -> dict[str, Any]:
    """Requests by the command, then `lethe erase run`, a process of its own, by step."""
    (root / "asked.csv").write_text("\n".join(["patient_id", *keys]))
    _lethe(root, "erase", "request", "--csv", "asked.csv")
    (root / "asked.csv").unlink()
    out = root.parent / "steps.json"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = [sys.executable, "-P", "-m", "benchmarks.erasing", str(out)]  # not the clone's
    subprocess.run(
        words,
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{PROJECT}/pipeline:{PROJECT}"},
        check=True,
        stdout=2,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    steps: dict[str, list[float]] = json.loads(out.read_text())
    rest = [whole - sum(each[n] for each in steps.values()) for n, whole in ((0, wall), (1, cpu))]
    return {"steps": steps, "rest": rest, "whole": (wall, cpu), "load": os.getloadavg()[0]}


def run_and_time(out: Path) -> None:
    """`lethe erase run` in this process, with the seconds of each step written to a file."""
    from lethe.rights import erasure_service, workspace_stores

    steps: dict[str, list[float]] = {}

    def timed(method: Callable[..., Any], name: Callable[[], str]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            wall, cpu = time.perf_counter(), sum(os.times()[:4])
            try:
                answer = method(*args, **options)
                return iter(list(answer)) if isinstance(answer, Iterator) else answer
            finally:
                spent = steps.setdefault(name(), [0.0, 0.0])
                spent[0] += time.perf_counter() - wall
                spent[1] += sum(os.times()[:4]) - cpu

        return call

    def purging() -> str:
        return "retire" if "retire" in steps else "history (DVC)"

    def looking() -> str:
        return "verify" if "retire" in steps else "look where the person is"

    names: dict[tuple[str, str], Callable[[], str]] = {("DvcStore", "forget"): purging}
    for store in ("SourceStore", "VaultStore", "PodRunsStore", "DvcStore", "RegistryStore"):
        names[store, "look"] = looking
    for both, step in _STEPS.items():
        names[both] = lambda step=step: step  # type: ignore[misc]
    for (store, method), name in names.items():
        kind = getattr(workspace_stores, store)
        setattr(kind, method, timed(getattr(kind, method), name))
    summary = erasure_service.run(
        load_params(), clock=lambda: dt.datetime.now(dt.UTC), report=print
    )
    if summary.problems or not summary.closed:
        raise RuntimeError(f"the benchmark's requests stay open: {summary.problems}")
    out.write_text(json.dumps(steps))


def _made(root: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((root.parent / "made.json").read_text())
    return made


def _touched(root: Path) -> int:
    """The most shards of a version that are not there any more as they were."""
    made = _made(root)["shards"]
    stores = [root / ".dvc" / "cache", root.parent / "remote"]
    return max(
        sum(not _object(store, md5).exists() for md5 in shards)
        for store in stores
        for shards in made
    )


# ---------------------------------------------------------------------- the workspace


@contextmanager
def _workspace(subjects: int) -> Iterator[Path]:
    place = os.environ.get("LETHE_SCRATCH")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        root = Path(folder) / "lethe"
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(root)], check=True)
        raw = source.declared(PROJECT / "params.yaml", "sqlite:///data/clinic.db")
        raw |= {"shards": SHARDS, "erasure": {"delay_days": 0, "retrain": "manual"}}
        with (root / "params.yaml").open("w") as file:
            YAML().dump(raw, file)
        (root / "data").mkdir(exist_ok=True)
        _lethe(root, "key")
        source.build(root / "data" / "clinic.db", subjects)
        with chdir(root):  # the stores' addresses are relative
            _history(root, load_params(), subjects)
        yield root


def _mention(database: Path, numbers: list[int]) -> None:
    """Names people in the notes of others."""
    with sqlite3.connect(database) as connection:
        connection.executemany(
            "UPDATE notes SET text = text || ? WHERE note_id = ?",
            [(f" A room with FIRST{n + 1} last{n + 1}.", 500 + n % 97) for n in numbers],
        )
    connection.close()


def _history(root: Path, params: Params, subjects: int) -> None:
    """Vault, shards, manifests and models of every version, oldest first."""
    keys = pd.Series([_key(number) for number in range(subjects)], dtype="str")
    with Vault.open(
        params.address(params.stores.vault), load_key(params.stores, params.root)
    ) as vault:
        tokens = vault.tokens(keys.tolist())
        shards = shard_of(keys, secret=vault.secret("shard"), shards=SHARDS)
        apart = held_out(keys, secret=vault.secret("holdout"), share=params.training.held_out)
    stores = [root / ".dvc" / "cache", root.parent / "remote"]
    subjects_file = BitMap(np.sort(tokens).astype(np.uint32)).serialize()
    manifest = BitMap(np.sort(tokens[~apart]).astype(np.uint32)).serialize()
    made = []
    for version in range(VERSIONS):
        entries = _shards(stores, tokens, shards, apart, version)
        made.append([entry["md5"] for entry in entries])
        model = {f"model/{n}": f"{n} {version}".encode() * 999 for n in ("model.json", "weights")}
        for name, content in model.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(content)
        hashes = {
            "data/shards": put_folder(stores, entries),
            "data/subjects.roaring": put(stores, subjects_file),
            "data/manifest.roaring": put(stores, manifest),
            "model": put_folder(
                stores, [{"md5": put(stores, c), "relpath": Path(n).name} for n, c in model.items()]
            ),
        }
        _commit(root, hashes, version)
        _register(params, manifest, hashes, version)
    (root / "data" / "subjects.roaring").write_bytes(subjects_file)
    (root / "data" / "manifest.roaring").write_bytes(manifest)
    (root / "data" / "shards").mkdir()
    for entry in entries:
        shutil.copy(_object(stores[0], entry["md5"]), root / "data" / "shards" / entry["relpath"])
    number = int(np.flatnonzero(~apart)[subjects // 2])  # somebody in every model
    _mention(root / "data" / "clinic.db", [number, *range(MANY)])
    content = {"shards": made, "somebody": _key(number)}
    (root.parent / "made.json").write_text(json.dumps(content))


def _shards(
    stores: list[Path], tokens: np.ndarray, shards: np.ndarray, apart: np.ndarray, version: int
) -> list[dict[str, str]]:
    """Five records a person, in the form of pseudonymize."""
    random = np.random.default_rng(version)
    entries = []
    for number in range(SHARDS):
        here = np.flatnonzero(shards == number)
        order = np.repeat(here[np.argsort(tokens[here])], 5)
        columns = {
            "token": pa.array(tokens[order].astype(np.uint32)),
            "held_out": pa.array(apart[order]),
            "rank": pa.array(np.tile(np.arange(5, dtype=np.int32), len(here))),
        }
        for name in range(6):
            columns[f"n{name}"] = pa.array(random.integers(0, 40, len(order)))
            codes = random.integers(0, 20, len(order)).astype(np.int32)
            columns[f"c{name}"] = pa.DictionaryArray.from_arrays(
                codes, [f"code {n}" for n in range(20)]
            ).cast(pa.string())
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd")
        md5 = put(stores, sink.getvalue().to_pybytes())
        entries.append({"md5": md5, "relpath": f"shard-{number:04d}.parquet"})
    return entries


def _register(params: Params, manifest: bytes, hashes: dict[str, str], version: int) -> None:
    with Ledger.open(params.address(params.stores.ledger)) as ledger:
        run = ledger.reserve(
            plan_from(params).release(BitMap.deserialize(manifest)),
            budget=params.budget,
            request=f"training {version}",
            now=NOW,
        )
        ledger.settle(run.run_id, now=NOW)
    registry = Registry.open(params.address(params.stores.registry))
    tags = {
        "data_md5": hashes["data/shards"],
        "manifest_md5": hashes["data/manifest.roaring"],
        "model_md5": hashes["model"],
    }
    made = registry.register(
        NewVersion(
            name=params.registration.name,
            folder=Path("model"),
            inputs=[Input("age")],
            network="logistic",
            outputs=["readmitted"],
            tags={RUN_ID: run.run_id, **tags},
        )
    )
    if version == VERSIONS - 1:
        registry.alias(made, "champion")


def _commit(root: Path, hashes: dict[str, str], version: int) -> None:
    def outs(*paths: str) -> str:
        return "".join(f"    - path: {p}\n      hash: md5\n      md5: {hashes[p]}\n" for p in paths)

    (root / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n"
        "  pseudonymize:\n    cmd: lethe pseudonymize\n    outs:\n"
        + outs("data/shards", "data/subjects.roaring")
        + "  train:\n    cmd: lethe train\n    outs:\n"
        + outs("data/manifest.roaring", "model")
    )
    who = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    subprocess.run(["git", "add", "--force", "dvc.lock", "params.yaml"], cwd=root, check=True)
    words = ["git", *who, "commit", "--quiet", "--message", f"version {version}"]
    subprocess.run(words, cwd=root, check=True)


def put(stores: list[Path], content: bytes, *, suffix: str = "") -> str:
    """An object's hash, once every store has it."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + suffix
    for store in stores:
        path = _object(store, md5)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return md5


def put_folder(stores: list[Path], entries: list[dict[str, str]]) -> str:
    return put(stores, json.dumps(entries, sort_keys=True).encode(), suffix=".dir")


def _object(store: Path, md5: str) -> Path:
    return store / "files" / "md5" / md5[:2] / md5[2:]


def _lethe(root: Path, *words: str) -> None:
    command = [str(Path(sys.executable).parent / "lethe"), *words]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    run_and_time(Path(sys.argv[1]))
