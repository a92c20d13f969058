"""A pipeline under DVC with real shards, several versions, branches and a remote, to forget from.

The two stages that make what has people in it are the project's own of `dvc.yaml`; stand-ins do
to files what the real ones do. The file `source` lists who is in, `TOKEN WARD` a line; even tokens
are in shard 0, odd ones in shard 1.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from pyroaring import BitMap
from ruamel.yaml import YAML

from lethe.core.outcomes import Outcome
from lethe.stores.dvc.repro import History
from tests.shared import made_once
from tests.warm import warm_bin, warm_environment

PROJECT = Path(__file__).parents[1]

STAND_IN = """
import json, pathlib, shutil, sys, time
stage = sys.argv[1]
if (held := pathlib.Path("held")).exists():
    held.write_text(stage)
while held.exists(): time.sleep(0.05)
def write(path, content):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
from pyroaring import BitMap
source = pathlib.Path("source").read_text()
people = [(int(token), ward) for token, ward in (line.split() for line in source.splitlines())]
if stage == "pseudonymize":
    import pyarrow as pa, pyarrow.parquet as pq
    shutil.rmtree("data/shards", ignore_errors=True)
    pathlib.Path("data/shards").mkdir(parents=True)
    for shard in range(2):
        rows = [each for each in sorted(people) if each[0] % 2 == shard]
        table = pa.table({
            "token": pa.array([token for token, _ in rows], type=pa.uint32()),
            "held_out": pa.array([token % 10 == 9 for token, _ in rows], type=pa.bool_()),
            "rank": pa.array([0] * len(rows), type=pa.int32()),
            "ward": pa.array([ward for _, ward in rows], type=pa.string()),
        })
        pq.write_table(table, f"data/shards/shard-{shard:04d}.parquet", compression="zstd")
    write("data/subjects.roaring", BitMap(t for t, _ in people).serialize())
elif stage == "train":
    shutil.rmtree("model", ignore_errors=True)
    write("model/model.json", json.dumps(sorted(w for t, w in people if t % 10 != 9)))
    write("model/weights.safetensors", "".join(w for t, w in people if t % 10 != 9)[::-1])
    write("data/manifest.roaring", BitMap(t for t, _ in people if t % 10 != 9).serialize())
    for name in ("roc", "calibration"): write(f"reports/plots/{name}.csv", "a,b\\n1,2\\n")
report = {"n": len(people)}
if stage == "register":
    report = {"model": "wards", "version": int(pathlib.Path("version").read_text())}
    write("reports/metrics.json", json.dumps({"version": report["version"]}))
write(f"reports/{stage}.json", json.dumps(report))
"""

ADA, BO, CLEO, DAN, EVE = 12, 13, 14, 15, 19  # Eve is held out: in shards, in no manifest
WARDS = {
    ADA: "ward-of-ada",
    BO: "ward-of-bo",
    CLEO: "ward-of-cleo",
    DAN: "ward-of-dan",
    EVE: "ward-of-eve",
}


def git(root: Path, *words: str) -> str:
    name = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(
        ["git", *name, *words], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def dvc(root: Path, *words: str) -> str:
    done = subprocess.run(
        [str(warm_bin() / "dvc"), *words],
        cwd=root,
        env=os.environ | {"PATH": warm_environment()["PATH"]},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise AssertionError(
            f"dvc {words} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
    return done.stdout


def people(root: Path, *tokens: int) -> None:
    """Says who is in the source."""
    (root / "source").write_text("".join(f"{token} {WARDS[token]}\n" for token in tokens))


def run_pipeline(root: Path, *targets: str) -> None:
    with patch.object(sys, "executable", str(warm_bin() / "python")):
        events = list(History(root).repro(targets or None))
    assert [e for e in events if e.kind == "failed"] == [], events


def make_pipeline(root: Path, *, registers: bool = False) -> Path:
    """An empty pipeline in a git repository, with a remote beside it.

    Args:
        registers: with a third stage, which registers the version that the file `version` says.
    """
    (root / ".dvc").mkdir(parents=True)
    copied = (".dvc/config", ".dvc/.gitignore", ".dvcignore", "params.yaml", "behaviour.json")
    for name in copied:
        (root / name).write_text((PROJECT / name).read_text())
    ignored = (PROJECT / ".gitignore").read_text()
    (root / ".gitignore").write_text(f"{ignored}/reports/\n")
    pipeline = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())
    reads = {"pseudonymize": ["source"], "train": ["data/shards"]}
    if registers:
        reads["register"] = ["data/manifest.roaring", "model", "reports/train.json"]
    for name in set(pipeline["stages"]) - set(reads):
        del pipeline["stages"][name]
    for name, stage in pipeline["stages"].items():
        stage["cmd"] = f"python stand_in.py {name}"
        stage["deps"] = reads[name]
    YAML().dump(pipeline, root / "dvc.yaml")
    (root / "stand_in.py").write_text(STAND_IN)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "The pipeline")
    return root


def commit(root: Path, message: str) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", message)


def tokens_in(path: Path) -> BitMap:
    """Everybody in a shard or manifest, read with no code of the pipeline's."""
    import pyarrow.parquet as pq

    content = path.read_bytes()
    if content[:4] == b"PAR1":
        return BitMap(pq.read_table(path)["token"].to_pylist())
    try:
        return BitMap.deserialize(content)
    except ValueError:
        return BitMap()


def holders(*folders: Path, token: int) -> list[str]:
    """Files that have a token, or its person's ward; looked at with no code of the pipeline's."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and ".git" not in path.relative_to(folder).parts:
                content = path.read_bytes()
                held = content[:4] == b"PAR1" or content[:2] in (b":0", b";0")
                if (held and token in tokens_in(path)) or WARDS[token].encode() in content:
                    found.append(path.relative_to(folder).as_posix())
    return found


def out(root: Path, path: Path) -> str:
    md5 = History(root).out_md5(path)
    assert md5 is not None, path
    return md5


def versions(root: Path) -> None:
    """Three versions with everybody's goings: main, the branch `side`, main again; all pushed."""
    people(root, ADA, BO, CLEO)
    run_pipeline(root)
    commit(root, "First")
    dvc(root, "push", "--run-cache", "--quiet")
    git(root, "switch", "--quiet", "--create", "side")
    people(root, ADA, BO, CLEO, DAN)
    run_pipeline(root)
    commit(root, "Second")
    dvc(root, "push", "--run-cache", "--quiet")
    git(root, "switch", "--quiet", "main")
    people(root, ADA, BO, CLEO, EVE)
    run_pipeline(root)
    commit(root, "Third")
    dvc(root, "push", "--run-cache", "--quiet")


@pytest.fixture(scope="session")
def past_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of three versions on two branches, pushed: a run takes seconds, a copy none."""

    def make(folder: Path) -> None:
        versions(make_pipeline(folder / "pipeline"))

    return made_once(tmp_path_factory, "past", make) / "pipeline"


@pytest.fixture
def past(past_template: Path, tmp_path: Path) -> Path:
    """A pipeline with a past of its own: three versions on two branches, and a remote."""
    root = tmp_path / "pipeline"
    shutil.copytree(past_template, root, symlinks=True)
    return root


def forget_source(root: Path) -> None:
    """The source is another store's; here it must not be what keeps a person."""
    (root / "source").unlink()


def files(root: Path) -> dict[str, bytes]:
    """Every file but those that say who holds the workspace."""
    locks = (".lethe/train.lock", ".lethe/staging.lock", ".lethe/locks.json")
    held = (".dvc/tmp/", *locks, ".git/index")
    return {
        name: path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not (name := path.relative_to(root).as_posix()).startswith(held)
    }


def results(outcomes: list[Outcome]) -> dict[str, str]:
    return {each.store: each.result for each in outcomes}
