"""The pipeline under DVC, run with stand-in stages, and what its history can show."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from pyroaring import BitMap
from ruamel.yaml import YAML

from lethe.config import workspace
from lethe.core.errors import Busy, LetheError, NotFound
from lethe.stages import STAGES
from lethe.stores.dvc.graph import META
from lethe.stores.dvc.inputs import content_md5
from lethe.stores.dvc.repro import History, StageEvent
from tests.conftest import PROJECT
from tests.warm import warm_bin, warm_environment

SECRET = "ana-4711"  # stands for a subject key; the stand-in stages write it where keys may be

# Does what the eight stages do to files, in milliseconds; `ran.log` says which ran, and the
# file `source` stands for the people's answers.
STAND_IN = f"""
import json, pathlib, shutil, sys, time
stage = sys.argv[1]
with open("ran.log", "a") as log: log.write(stage + "\\n")
order = pathlib.Path("order")
if order.exists():
    name, what, number = order.read_text().split()
    if name == stage and what == "exit": sys.exit(int(number))
    if name == stage and what == "sleep": time.sleep(float(number))
source = pathlib.Path("source").read_text()
def write(path, content):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
def tokens(path):
    from pyroaring import BitMap
    write(path, BitMap([12]).serialize())
def plots(*names):
    for name in names: write(f"reports/plots/{{name}}.csv", "a,b\\n1,2\\n")
if stage == "minimize":
    for shard in range(2): write(f"data/minimized/shard-{{shard}}", "{SECRET} " + source)
elif stage == "consent":
    shutil.copytree("data/minimized", "data/consented", dirs_exist_ok=True)
elif stage == "pseudonymize":
    text = pathlib.Path("data/consented/shard-0").read_text()
    write("data/shards/shard-0", text.replace("{SECRET}", "12"))
    tokens("data/subjects.roaring")
elif stage == "budget":
    write("data/encoding.json", "{{}}")
    write("data/plan.json", "{{}}")
    plots("budget")
elif stage == "train":
    write("model/model.json", source)
    tokens("data/manifest.roaring")
    plots("roc", "calibration")
elif stage == "audit":
    plots("audit_roc")
elif stage == "register":
    for path in ("data/minimized", "data/consented"): shutil.rmtree(path, ignore_errors=True)
    write("reports/metrics.json", json.dumps({{"n": len(source)}}))
write(f"reports/{{stage}}.json", json.dumps({{"n": len(source)}}))
"""


def _git(root: Path, *words: str) -> str:
    name = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(
        ["git", *name, *words], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return _make_pipeline(tmp_path / "pipeline")


def _make_pipeline(root: Path) -> Path:
    """The project's own dvc.yaml with stand-ins for the stages, in a git repository."""
    (root / ".dvc").mkdir(parents=True)
    copied = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "params.yaml")
    for name in (*copied, "behaviour.json"):
        (root / name).write_text((PROJECT / name).read_text())
    text = (PROJECT / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(text.replace("cmd: lethe ", "cmd: python stand_in.py "))
    (root / "stand_in.py").write_text(STAND_IN)
    (root / "source").write_text("yes")
    _git(root, "init", "--quiet", "--initial-branch=main")
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message", "The pipeline")
    return root


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that was run once: a run takes seconds, a copy of it none."""
    root = _make_pipeline(tmp_path_factory.mktemp("template") / "pipeline")
    with patch.object(sys, "executable", str(warm_bin() / "python")):
        events = list(History(root).repro())
    assert [e.kind for e in events] == ["started", "finished"] * len(STAGES), events
    assert [e.stage for e in events[::2]] == list(STAGES)
    assert _ran(root) == list(STAGES)
    (root / "ran.log").unlink()
    return root


@pytest.fixture
def finished(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "executable", str(warm_bin() / "python"))
    shutil.copytree(template, tmp_path / "finished", symlinks=True)
    return tmp_path / "finished"


def _ran(root: Path) -> list[str]:
    return (root / "ran.log").read_text().split()


def _summary(events: Iterator[StageEvent]) -> dict[str, str]:
    return {event.stage: event.kind for event in events}


def test_second_run_looks_at_the_source_and_the_gate_and_repeats_nothing_else(
    finished: Path,
) -> None:
    assert not (finished / "data" / "minimized").exists()
    before = (finished / "dvc.lock").read_bytes()
    assert _summary(History(finished).repro()) == {
        "minimize": "finished",
        "consent": "finished",
        "pseudonymize": "skipped",
        "validate": "skipped",
        "budget": "skipped",
        "train": "skipped",
        "audit": "skipped",
        "register": "finished",
    }
    assert _ran(finished) == ["minimize", "consent", "register"]
    assert (finished / "dvc.lock").read_bytes() == before


def test_a_changed_source_is_seen_though_no_file_changed(finished: Path) -> None:
    (finished / "source").write_text("withdrawn")
    list(History(finished).repro(["train"]))
    assert _ran(finished) == list(STAGES[: STAGES.index("train") + 1])


def test_a_raised_budget_trains_nobody_again(finished: Path) -> None:
    text = (finished / "params.yaml").read_text()
    (finished / "params.yaml").write_text(text.replace("epsilon: 4.0", "epsilon: 5.0"))
    list(History(finished).repro(["train"]))
    assert _ran(finished) == ["minimize", "consent", "budget"]


def test_what_has_subject_keys_never_reaches_dvcs_cache(finished: Path) -> None:
    dvc = [str(warm_bin() / "dvc")]
    list(History(finished).repro(["consent"]))  # register took what the first run left
    assert (finished / "data" / "consented").exists()
    subprocess.run(
        [*dvc, "commit", "--force"],
        cwd=finished,
        env=warm_environment(),
        check=True,
        capture_output=True,
    )
    hashes = {
        out["md5"]
        for stage in ("minimize", "consent")
        for out in History(finished).lock()["stages"][stage]["outs"]
        if out["path"].startswith("data/")
    }
    keyed = f"{SECRET} yes".encode()
    hashes |= {hashlib.md5(keyed).hexdigest()}
    files = [path for path in (finished / ".dvc").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
        assert f"{path.parent.name}{path.name}" not in hashes, path


def test_stages_that_see_subject_keys_are_always_changed() -> None:
    """`dvc commit` copies `cache: false` outputs of every stage that is not."""
    stages = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        for out in stage.get("outs", ()):
            path = next(iter(out)) if isinstance(out, dict) else out
            if path in (str(workspace.MINIMIZED), str(workspace.CONSENTED)):
                assert out[path] == {"cache": False}, name
                assert stage["always_changed"] is True, name
                assert stage["meta"]["subject_keys"] is True, name


def test_dvc_yaml_has_the_stages_and_meta_that_a_scheduler_needs() -> None:
    stages = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())["stages"]
    assert tuple(stages) == STAGES
    for name, stage in stages.items():
        assert stage["cmd"] == f"lethe {name}"
        assert set(stage["meta"]) == set(META)


def test_a_folder_is_held_against_what_was_recorded_of_it(finished: Path) -> None:
    history = History(finished)
    md5 = history.out_md5(workspace.MODEL)
    model = finished / workspace.MODEL
    assert content_md5(model) == md5
    assert history.used_md5("train", workspace.SHARDS) == history.out_md5(workspace.SHARDS)
    assert history.used_md5("train", Path("nothing")) is None
    (finished / "model" / "more").write_text("x")
    assert content_md5(model) != md5
    (finished / "model" / "more").unlink()
    (finished / "model" / "model.json").write_text("swapped")
    assert content_md5(model) != md5


def test_no_stage_depends_on_files_of_code() -> None:
    """A comment would repeat it; what its code does is its key of behaviour.json."""
    stages = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        assert not [path for path in stage.get("deps", ()) if path.endswith(".py")], name
        assert not [path for path in stage.get("deps", ()) if path.startswith("pipeline")], name
        assert {"behaviour.json": [name]} in stage["params"]


@pytest.mark.parametrize("stage", ["pseudonymize", "validate", "budget", "train", "audit"])
def test_another_digest_repeats_its_stage_and_no_other_that_gets_the_same(
    finished: Path, stage: str
) -> None:
    digests = json.loads((finished / "behaviour.json").read_text())
    (finished / "behaviour.json").write_text(json.dumps(digests | {stage: "0" * 64}))
    list(History(finished).repro())
    assert set(_ran(finished)) == {"minimize", "consent", stage, "register"}


def test_a_failed_stage_is_reported_with_its_exit_code(pipeline: Path) -> None:
    (pipeline / "order").write_text("validate exit 22")
    events = list(History(pipeline).repro())
    assert (events[-1].kind, events[-1].stage, events[-1].exit_code) == ("failed", "validate", 22)
    assert "budget" not in _ran(pipeline)


def test_a_missing_parameter_fails_its_stage_and_says_which(pipeline: Path) -> None:
    text = (pipeline / "params.yaml").read_text()
    (pipeline / "params.yaml").write_text(re.sub(r"^audit:.*$", "", text, flags=re.MULTILINE))
    last = list(History(pipeline).repro())[-1]
    assert (last.kind, last.stage) == ("failed", "audit")
    assert "audit" in last.message


def test_a_broken_dvc_yaml_is_an_error_of_one_line(pipeline: Path) -> None:
    (pipeline / "dvc.yaml").write_text("stages: [")
    with pytest.raises(LetheError, match="dvc repro ended with") as caught:
        list(History(pipeline).repro())
    assert "\n" not in str(caught.value)


def test_a_second_run_at_once_ends_because_the_workspace_is_busy(pipeline: Path) -> None:
    (pipeline / "order").write_text("minimize sleep 30")
    first = History(pipeline).repro()
    assert next(first).kind == "started"
    with pytest.raises(Busy, match="Another run holds this workspace"):
        list(History(pipeline).repro())
    first.close()


def test_leaving_a_run_early_ends_the_stage_that_runs(pipeline: Path) -> None:
    (pipeline / "order").write_text("minimize sleep 30")
    running = History(pipeline).repro()
    assert next(running) == StageEvent("started", "minimize")
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 10
    (pipeline / "order").unlink()
    assert [e.kind for e in History(pipeline).repro(["minimize"])] == ["started", "finished"]


def test_targets_and_single_run_no_more_than_asked(finished: Path) -> None:
    list(History(finished).repro(["validate"], single=True, force=True))
    assert _ran(finished) == ["validate"]


def test_lock_has_the_md5s_that_md5sum_says(finished: Path) -> None:
    history = History(finished)
    assert history.lock_bytes() == (finished / "dvc.lock").read_bytes()
    assert set(history.lock()["stages"]) == set(STAGES)
    plan = hashlib.md5((finished / "data" / "plan.json").read_bytes()).hexdigest()
    assert history.out_md5(workspace.PLAN) == plan
    assert history.out_md5(Path("data/nothing")) is None


def test_manifest_is_read_from_the_cache_and_checked(finished: Path) -> None:
    history = History(finished)
    md5 = history.out_md5(workspace.MANIFEST)
    assert md5 is not None
    (finished / workspace.MANIFEST).unlink()
    assert history.read_manifest(md5) == BitMap([12])
    path = history.cached(md5)
    path.chmod(0o644)
    path.write_bytes(BitMap([13]).serialize())
    with pytest.raises(NotFound, match="damaged"):
        history.read_manifest(md5)
    path.unlink()
    with pytest.raises(NotFound, match="dvc pull"):
        history.cached(md5)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "x" * 32])
def test_what_is_not_an_md5_is_not_looked_up_as_a_path(finished: Path, name: str) -> None:
    with pytest.raises(NotFound):
        History(finished).cached(name)


def test_cache_elsewhere_is_found(finished: Path, tmp_path: Path) -> None:
    (finished / ".dvc" / "cache").rename(tmp_path / "shared")
    (finished / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    md5 = History(finished).out_md5(workspace.MANIFEST)
    assert History(finished).read_manifest(md5 or "") == BitMap([12])


def test_git_state_names_the_commit_and_sees_changed_code_only(finished: Path) -> None:
    history = History(finished)
    state = history.git_state()
    assert state.commit == _git(finished, "rev-parse", "HEAD")
    assert not state.dirty
    _git(finished, "add", "--force", "dvc.lock", "reports")
    _git(finished, "commit", "--quiet", "--message", "What ran")
    (finished / "dvc.lock").write_text("schema: '2.0'\n")
    (finished / "reports" / "train.json").write_text("{}\n")
    (finished / "untracked").write_text("x")
    assert not history.git_state().dirty
    (finished / "params.yaml").write_text("purpose: other\n")
    assert history.git_state().dirty


def test_without_commit_or_git_there_is_no_history_and_no_error(tmp_path: Path) -> None:
    history = History(tmp_path)
    for _ in range(2):
        state = history.git_state()
        assert state.commit is None
        assert state.dirty
        assert history.lock() == {}
        assert history.lock_bytes() is None
        _git(tmp_path, "init", "--quiet")


def test_a_lock_with_merge_conflicts_is_named(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> side\n")
    with pytest.raises(LetheError, match=r"dvc\.lock"):
        History(tmp_path).lock()
