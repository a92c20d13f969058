"""The run's own transcript: who looks at it, where it lies, and that it is gone afterwards."""

import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pyroaring import BitMap
from safetensors.torch import load_file, save_file

from lethe.attacks import own_run
from lethe.attacks.attack import Target
from lethe.attacks.run import examine
from lethe.attacks.run.examine import COVERS
from lethe.attacks.verdicts import Looked
from lethe.config import transcripts, workspace
from lethe.config.params import Params, parse_params
from lethe.core import locks
from lethe.core.children import environment_without_keys
from lethe.core.errors import (
    AuditContradiction,
    AuditIncomplete,
    Busy,
    NotFinite,
    ParamsInvalid,
    ProcessLost,
)
from lethe.core.files import read_json
from lethe.data.shards import eligible_people, shard_paths
from lethe.stages import audit
from lethe.stages import train as train_stage
from lethe.stages.behaviour import modules
from lethe.stores.dvc import verify
from lethe.stores.dvc.worktree import Worktree
from lethe.stores.opening import open_ledger
from lethe.training import loop, models
from tests import trained_run
from tests.attacks import looks

PARAMS = trained_run.params()
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        trained_run.write_people(PARAMS)
        train_stage.run(PARAMS, now=trained_run.NOW)
    return root


@pytest.fixture
def trained(run_once: Path, tmp_path: Path, monkeypatch: Patch) -> Path:
    root = tmp_path / "workspace"
    shutil.copytree(run_once, root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def here(monkeypatch: Patch) -> Iterator[None]:
    """The process of its own is played in this one, and other looks look away: both take time."""
    looks.only(monkeypatch, "run")

    def answered(command: list[str], **words: Any) -> subprocess.CompletedProcess[bytes]:
        examine.main(*command[-2:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(own_run.subprocess, "run", answered)
    yield


def _run(params: Params = PARAMS) -> dict[str, Any]:
    return audit.run(params, now=trained_run.NOW)


def _failed() -> list[str]:
    with pytest.raises(AuditContradiction):
        _run()
    found: list[str] = read_json(workspace.report_path("audit"))["failed"]
    return found


def _unknown() -> list[str]:
    """What could not be looked at, where nothing contradicts."""
    with pytest.raises(AuditIncomplete, match="not registered"):
        _run()
    report = read_json(workspace.report_path("audit"))
    assert report["failed"] == [] and report["passed"] is False
    found: list[str] = report["not_looked_at"]
    return found


def _looked(report: dict[str, Any]) -> str:
    return str(report["measured"]["run"]["looked"])


def _run_id() -> str:
    return str(read_json(workspace.MODEL / "model.json")["run_id"])


def _target() -> Target:
    with open_ledger(PARAMS) as ledger:
        return audit.load_target(PARAMS, ledger)


def _change_weights() -> None:
    path = workspace.MODEL / "weights.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] * 1.0001}, path)


def _traces() -> list[str]:
    """Whatever of a transcript is anywhere below the workspace."""
    names = {"about.json", "steps.jsonl", "drawn.zlib", "start.safetensors", "people.roaring"}
    return [str(p) for p in Path().rglob("*") if p.name in names or p.suffix == ".f32"]


def test_what_is_recorded_is_its_owners_alone(trained: Path) -> None:
    folder = transcripts.folder_of(trained, _run_id())
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_process_of_its_own_that_knows_no_trainer_looks_and_then_all_is_gone(
    trained: Path, monkeypatch: Patch
) -> None:
    looks.only(monkeypatch, "run")
    monkeypatch.setenv("LETHE_TEST_KEY", "not for children")
    asked = own_run.question(_target(), trained)
    (trained / "asked.json").write_bytes(asked.to_bytes())
    for name, content in (("weights.safetensors", b""), ("manifest", b"")):
        source = workspace.MODEL / name if name != "manifest" else workspace.MANIFEST
        (trained / name).write_bytes(content or source.read_bytes())
    code = (
        "import json, sys; from lethe.attacks.run.examine import main; main(*sys.argv[1:]);"
        "print(json.dumps(sorted(sys.modules)))"
    )
    answer = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            code,
            *map(str, (trained / "asked.json", trained / "answer.json")),
        ],
        env=environment_without_keys(),
        capture_output=True,
        check=True,
        text=True,
    )
    checks = json.loads((trained / "answer.json").read_bytes())
    modules = json.loads(answer.stdout)
    assert [check["name"] for check in checks if not check["passed"]] == []
    names = {c["name"] for c in checks}
    assert names > {f"run.{n}" for n in ("recorded", "start", "clip", "weights")}
    assert {name.partition(".")[0] for name in names} == set(COVERS)
    for name in ("loop", "optimizer", "engines", "dpsgd_fit", "parallel"):
        assert not [m for m in modules if m.startswith(f"lethe.training.{name}")]
    assert "opacus" not in modules
    for name in ("asked.json", "answer.json", "weights.safetensors", "manifest"):
        (trained / name).unlink()

    assert _run()["failed"] == []  # and so by its command
    assert _traces() == []
    verdict = transcripts.verdict_of(trained, _run_id())
    assert stat.S_IMODE(verdict.stat().st_mode) == 0o600


def test_audited_again_a_run_is_what_it_was(trained: Path, here: None) -> None:
    first = _run()
    assert _looked(first) == Looked.NOW
    assert _traces() == []
    again = _run()
    assert again["checks"] == first["checks"]
    assert _looked(again) == Looked.BEFORE
    assert own_run.OwnRun().run(_target())[0].name == "run.recorded"


def _as_elsewhere(root: Path) -> None:
    """The workspace as git and DVC bring it to another machine."""
    shutil.rmtree(root / transcripts.TRANSCRIPTS, ignore_errors=True)
    shutil.rmtree(root / transcripts.VERDICTS, ignore_errors=True)


def test_an_audit_elsewhere_finds_the_report_that_came_with_the_model(
    trained: Path, here: None
) -> None:
    first = _run()
    _as_elsewhere(trained)
    for again in (_run(), _run()):  # however often: this machine never saw it
        assert (again["checks"], again["passed"]) == (first["checks"], True)
        assert _looked(again) == Looked.ELSEWHERE
    assert not transcripts.verdict_of(trained, _run_id()).exists()


def test_while_there_is_a_transcript_no_report_is_taken_for_a_look(
    trained: Path, here: None
) -> None:
    _change_weights()
    kept = trained.parent / "kept"
    shutil.copytree(trained / transcripts.TRANSCRIPTS, kept)
    assert _failed() == ["run.weights"]
    report = read_json(workspace.report_path("audit"))
    for check in report["checks"]:  # as whoever tuned the weights would commit it
        check["passed"] = True
    workspace.report_path("audit").write_text(json.dumps(report))
    _as_elsewhere(trained)
    shutil.copytree(kept, trained / transcripts.TRANSCRIPTS)
    assert _failed() == ["run.weights"]


def test_elsewhere_without_that_report_an_honest_model_is_not_contradicted(
    trained: Path, here: None
) -> None:
    _as_elsewhere(trained)
    assert _unknown() == ["run.recorded"]
    assert _looked(read_json(workspace.report_path("audit"))) == Looked.NOT
    assert _unknown() == ["run.recorded"]  # which is no verdict, however often it is asked
    assert not transcripts.verdict_of(trained, _run_id()).exists()


def test_what_was_contradicted_stays_so_elsewhere(trained: Path, here: None) -> None:
    _change_weights()
    assert _failed() == ["run.weights"]
    _as_elsewhere(trained)
    assert _failed() == ["run.weights"]


@pytest.mark.parametrize("fact", ["model", "plan"])
def test_a_report_of_something_else_is_no_verdict(fact: str, trained: Path, here: None) -> None:
    report = _run()
    _as_elsewhere(trained)
    report["measured"]["run"][fact] = "0" * 64
    workspace.report_path("audit").write_text(json.dumps(report))
    assert _unknown() == ["run.recorded"]


@pytest.mark.parametrize(
    "changed",
    [{"measured": 3}, {"measured": {"run": []}}, {"checks": None}, {"checks": [3]}, {"run_id": 1}],
)
def test_a_report_that_lethe_did_not_write_is_no_verdict(
    changed: dict[str, Any], trained: Path, here: None
) -> None:
    report = _run()
    _as_elsewhere(trained)
    workspace.report_path("audit").write_text(json.dumps(report | changed))
    assert _unknown() == ["run.recorded"]


def test_another_version_of_the_audit_looks_itself_while_it_can_and_says_so_afterwards(
    trained: Path, here: None, monkeypatch: Patch
) -> None:
    today = audit.audit_digest(PARAMS)
    kept = trained.parent / "kept"
    shutil.copytree(trained / transcripts.TRANSCRIPTS, kept)
    monkeypatch.setattr(audit, "audit_digest", lambda params: "a" * 64)
    older = _run()
    assert (older["measured"]["run"]["code"], _looked(older)) == ("a" * 64, Looked.NOW)
    monkeypatch.setattr(audit, "audit_digest", lambda params: today)
    later = _run()
    assert (later["measured"]["run"]["code"], _looked(later)) == ("a" * 64, Looked.BY_OTHER_CODE)
    assert later["passed"]
    shutil.copytree(kept, trained / transcripts.TRANSCRIPTS, dirs_exist_ok=True)
    looked = _run()
    assert (looked["measured"]["run"]["code"], _looked(looked)) == (today, Looked.NOW)


def test_what_audits_is_all_that_its_process_runs(trained: Path) -> None:
    assert {"lethe.attacks.run.__main__", "lethe.attacks.run.examine"} <= modules("audit")
    assert _target().code == audit.audit_digest(PARAMS)


def test_other_weights_are_contradicted_while_the_transcript_is_there_and_after(
    trained: Path, here: None
) -> None:
    _change_weights()
    assert _failed() == ["run.weights"]
    assert _traces() == []
    assert _failed() == ["run.weights"]  # the verdict on these weights
    _change_weights()
    assert _unknown() == ["run.recorded"]
    meaning = read_json(workspace.report_path("audit"))["checks"][0]["meaning"]
    assert "neither is here" in meaning and "train again" in meaning and "charged" in meaning


@pytest.mark.parametrize("fact", ["code", "model", "plan", "run_id"])
def test_a_verdict_of_something_else_is_none(fact: str, trained: Path, here: None) -> None:
    _run()
    path = transcripts.verdict_of(trained, _run_id())
    workspace.report_path("audit").unlink()
    path.write_text(json.dumps(read_json(path) | {fact: "0" * 64}))
    if fact == "code":  # known, and said to be so
        assert _looked(_run()) == Looked.BY_OTHER_CODE
    else:
        assert _unknown() == ["run.recorded"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"checks": [{}]}', b'{"checks": 3}'])
def test_a_damaged_verdict_is_none(content: bytes, trained: Path, here: None) -> None:
    _run()
    workspace.report_path("audit").unlink()
    transcripts.verdict_of(trained, _run_id()).write_bytes(content)
    assert _unknown() == ["run.recorded"]


def test_a_verdict_says_nothing_of_people(trained: Path, here: None) -> None:
    _run()
    verdict = read_json(transcripts.verdict_of(trained, _run_id()))
    assert set(verdict) == {"checks", "code", "model", "plan", "run_id"}
    facts = [c["statistic"] for c in verdict["checks"] if c["name"].startswith("run.")]
    assert set(facts) == {0.0}
    # What else is there follows from noise that was drawn; it leaves no owner's eyes.
    assert transcripts.verdict_of(trained, _run_id()).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("declared", [{"learning_rate": 0.6}, {"momentum": 0.1}, {"name": "adam"}])
def test_another_optimizer_than_is_declared_is_contradicted(
    declared: dict[str, Any], trained: Path, here: None
) -> None:
    raw = trained_run.raw()
    raw["training"]["optimizer"] |= declared
    with pytest.raises(AuditContradiction, match=r"run\.weights"):
        _run(parse_params(raw))


def _killed_audit() -> None:
    """Ends as by a signal that nobody can catch, once the audit has begun."""

    def ended(*words: object, **others: object) -> None:
        os._exit(9)

    own_run.subprocess.run = ended  # type: ignore[assignment]
    _run()


def test_an_audit_that_was_killed_leaves_it_to_the_next_and_to_nobody_else(
    trained: Path, here: None
) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed_audit)
    process.start()
    process.join()
    assert process.exitcode == 9
    kept = trained.parent / "kept"
    shutil.copytree(trained, kept)
    assert _run()["failed"] == []  # tried again
    assert _traces() == []
    os.chdir(kept)
    assert _traces()
    assert transcripts.remove_abandoned(kept) is True  # another command
    assert _traces() == []
    assert transcripts.remove_abandoned(kept) is False


def test_one_whose_audit_has_not_begun_or_is_under_way_stays(trained: Path) -> None:
    assert transcripts.remove_abandoned(trained) is False
    folder = transcripts.folder_of(trained, _run_id())
    with locks.held(folder / "audited.lock", busy=""):
        assert transcripts.remove_abandoned(trained) is False
        with pytest.raises(Busy):
            _run()
    assert _traces()


def test_a_process_that_was_ended_leaves_the_transcript(trained: Path, monkeypatch: Patch) -> None:
    looks.only(monkeypatch, "run")
    ended = subprocess.CompletedProcess([], -9, b"")
    monkeypatch.setattr(own_run.subprocess, "run", lambda *words, **others: ended)
    with pytest.raises(ProcessLost, match="signal 9"):
        _run()
    assert _traces()


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize(
    "answer", [None, b"", b"[]", b"{}", b"null", b"[[]]", b'[{"name": "run"}]']
)
def test_without_an_answer_nothing_is_known_and_the_audit_may_be_tried_again(
    answer: bytes | None, code: int, trained: Path, monkeypatch: Patch
) -> None:
    looks.only(monkeypatch, "run")

    def answered(command: list[str], **words: Any) -> subprocess.CompletedProcess[bytes]:
        if answer is not None:
            Path(command[-1]).write_bytes(answer)
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(own_run.subprocess, "run", answered)
    with pytest.raises(ProcessLost, match=rf"\({code}\).*run the audit again"):
        _run()
    assert transcripts.remove_abandoned(trained) is False  # another command leaves it
    assert _traces()
    assert not transcripts.verdict_of(trained, _run_id()).exists()


def test_a_run_that_diverged_leaves_none(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    trained_run.write_people(PARAMS)

    def diverged(model: object) -> None:
        raise NotFinite("A weight is NaN.")

    monkeypatch.setattr(loop, "refuse_not_finite", diverged)
    with pytest.raises(NotFinite):
        train_stage.run(PARAMS, now=trained_run.NOW)
    assert _traces() == []


def test_a_training_removes_those_of_other_runs_of_this_folder_and_of_folders_that_are_gone(
    tmp_path: Path,
) -> None:
    home, people = tmp_path / "home", BitMap([1]).serialize()
    trees = [home / ".lethe" / "worktrees" / name for name in ("one", "two")]
    for root in trees:
        root.mkdir(parents=True)
    made = {
        name: transcripts.begin(root, name, people) for name, root in zip("ab", trees, strict=True)
    }
    transcripts.begin(home, "c", people)
    assert all(folder.exists() for folder in made.values())  # those train elsewhere
    shutil.rmtree(trees[1])
    transcripts.begin(home, "d", people)
    left = {path.name for path in (home / transcripts.TRANSCRIPTS).iterdir()}
    assert left == {"a", "d"}
    shutil.rmtree(trees[0])
    assert transcripts.remove_abandoned(home) is False  # it goes on from HOME
    assert {path.name for path in (home / transcripts.TRANSCRIPTS).iterdir()} == {"a", "d"}


def test_an_erasure_removes_it_and_its_look_finds_one_that_is_left(trained: Path) -> None:
    someone = BitMap([min(eligible_people(shard_paths(workspace.SHARDS)))])
    stranger = BitMap([4_000_000_000])
    place = Worktree(trained)

    def found(tokens: BitMap) -> bool:
        sought = verify.LookedFor(tokens)
        look = verify.Verification(trained, [sought], set())
        look.roots, look.stores = [trained], []
        (*_, temporary) = look.at_worktrees([])
        return bool(temporary.found)

    assert found(someone) and not found(stranger)
    place.clear_temporary(stranger)
    assert _traces()
    removed, _ = place.clear_temporary(someone)
    assert f".lethe/transcripts/{_run_id()}" in removed
    assert _traces() == []
    assert not found(someone)


UNREPEATABLE = """
import os
import torch

def build(features, outputs):
    layer = torch.nn.Linear(features, outputs)
    with torch.no_grad():
        layer.bias.fill_(int.from_bytes(os.urandom(4), "little") / 2**32)
    return layer
"""
OWN = """
import random
import numpy
import torch

def build(features, outputs):
    first, last = torch.nn.Linear(features, 4), torch.nn.Linear(4, outputs)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    with torch.no_grad():
        first.bias.fill_(float(numpy.random.normal()))
        last.bias.fill_(random.random())
    return model
"""


def _with_own_model(root: Path, monkeypatch: Patch, source: str, name: str) -> Params:
    monkeypatch.chdir(root)
    (root / f"{name}.py").write_text(source)
    trained_run.write_people(PARAMS)
    raw = trained_run.raw()
    raw["training"] |= {"model": f"{name}:build", "initial_seed": 7}
    declared = parse_params(raw)
    plan = read_json(workspace.PLAN) | {"initial_seed": 7}
    workspace.PLAN.write_text(json.dumps(plan))
    return declared


def test_a_model_of_ones_own_is_built_again_whatever_draws_its_first_weights(
    tmp_path: Path, monkeypatch: Patch, here: None
) -> None:
    declared = _with_own_model(tmp_path, monkeypatch, OWN, "own_repeatable")
    before = torch.random.get_rng_state()
    train_stage.run(declared, now=trained_run.NOW)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert _run(declared)["failed"] == []


def test_one_that_cannot_be_built_again_is_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    declared = _with_own_model(tmp_path, monkeypatch, UNREPEATABLE, "own_unrepeatable")
    with pytest.raises(ParamsInvalid, match="other first weights each time"):
        train_stage.run(declared, now=trained_run.NOW)


READS = """
from pathlib import Path
import torch

def build(features, outputs):
    layer = torch.nn.Linear(features, outputs)
    known = Path({path!r}).read_text()
    with torch.no_grad():
        layer.bias.fill_(float(known))
    return layer
"""


def test_a_model_that_reads_a_file_is_refused_before_anything_is_drawn_and_in_the_audit(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    known = tmp_path.parent / f"{tmp_path.name}.txt"
    known.write_text("0.25")
    source = READS.format(path=str(known))
    declared = _with_own_model(tmp_path, monkeypatch, source, "own_reader")
    with pytest.raises(ParamsInvalid, match=r"opens a file .* while it makes the network"):
        train_stage.run(declared, now=trained_run.NOW)
    with monkeypatch.context() as patch:
        patch.setattr(models, "code_alone", lambda root: nullcontext())
        train_stage.run(declared, now=trained_run.NOW)
        asked = _question(declared)
    checks = examine.examine(asked)
    assert [(check.name, check.passed) for check in checks] == [("run.network", False)]
    assert "opens a file" in checks[0].meaning
    with pytest.raises(ParamsInvalid, match="opens a file"):
        _run(declared)


def _question(declared: Params) -> examine.Question:
    with open_ledger(declared) as ledger:
        target = audit.load_target(declared, ledger)
    folder = Path("asked")
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(target.files["weights.safetensors"])
    (folder / "manifest").write_bytes(target.manifest.serialize())
    return own_run.question(target, folder)


@pytest.mark.parametrize(("operations", "looked"), [(1.0, "4 of 20"), (1e18, "20 of 20")])
def test_the_look_at_the_noise_costs_what_is_declared(
    operations: float, looked: str, trained: Path, here: None
) -> None:
    raw = trained_run.raw()
    raw["audit"] |= {"look_operations": operations}
    report = _run(parse_params(raw))
    assert report["failed"] == []
    (found,) = [c for c in report["checks"] if c["name"] == "noise_of_run.looked_at"]
    assert looked in found["meaning"]
