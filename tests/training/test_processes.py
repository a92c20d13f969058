"""Real processes that train together: one charge and one model, and no end without an error."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyroaring import BitMap
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torch.distributed.distributed_c10d import _set_pg_timeout

from lethe.config import workspace
from lethe.config.params import Params
from lethe.config.sections import Parallel
from lethe.core.errors import LetheError, NotFinite, ProcessLost
from lethe.core.files import read_json, write_json
from lethe.ledger.ledger import Ledger
from lethe.stages import audit
from lethe.stages import train as stage
from lethe.training import wire
from lethe.training.description import DESCRIPTION, WEIGHTS
from tests import trained_run
from tests.warm import warm_bin

NOW = trained_run.NOW
# A model that meets with an accident in the second process, at its fourth batch; in training, and
# not where it is tried before.
UNLUCKY = """
import inspect, os, signal
from torch import nn

class Unlucky(nn.Module):
    def __init__(self, features, outputs):
        super().__init__()
        self.inner, self.batches = nn.Linear(features, outputs), 0

    def forward(self, x):
        out = self.inner(x)
        if any(frame.filename.endswith("rehearsal.py") for frame in inspect.stack(0)):
            return out
        self.batches += len(x) > 20
        rank, batch = os.environ.get("WHERE", "1 4").split()
        if self.batches == int(batch) and os.environ.get("RANK", "0") == rank:
            accident = os.environ.get("ACCIDENT")
            if not accident:
                return out
            if accident == "NaN":
                return out * float("nan")
            if accident == "RuntimeError":
                raise RuntimeError("person 4711")
            os.kill(os.getpid(), getattr(signal, accident))
        return out
"""


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = replace(trained_run.params(), parallel=Parallel(processes=2))
    trained_run.write_people(made)
    return made


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes begin with their imports done; not for how they end together."""
    monkeypatch.setattr(sys, "executable", str(warm_bin() / "python"))


def _runs() -> list[Any]:
    with Ledger.open(trained_run.params().stores.ledger) as ledger:
        return list(ledger.runs())


def _one_settled_run_and_its_model() -> None:
    (run,) = _runs()
    assert run.state == "settled"
    report = read_json(workspace.report_path("train"))
    described = read_json(workspace.MODEL / DESCRIPTION)
    assert report["run_id"] == described["run_id"] == run.run_id
    assert report["processes"] == 2
    assert report["steps"] == report["plan"]["steps"]
    assert BitMap.deserialize(workspace.MANIFEST.read_bytes()) == run.eligible
    assert len(load_file(workspace.MODEL / WEIGHTS)) == 4
    assert not list(stage.STAGING.iterdir())
    assert not list(workspace.TEMPORARY.iterdir())


@pytest.mark.usefixtures("warm")
def test_two_processes_train_one_model_for_one_charge_and_the_audit_holds(params: Params) -> None:
    stage.run(params, now=NOW)
    _one_settled_run_and_its_model()
    assert audit.run(params, now=NOW)["passed"] is True


def test_torchrun_is_another_way_to_start_them(params: Params) -> None:
    with Path("params.yaml").open("w") as file:
        YAML().dump(trained_run.raw(), file)  # says nothing of processes
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    done = subprocess.run(
        (*torchrun, "--nproc-per-node", "2", "-m", "lethe", "train"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    _one_settled_run_and_its_model()


@pytest.fixture
def unlucky(params: Params, monkeypatch: pytest.MonkeyPatch) -> Iterator[Params]:
    Path("unlucky.py").write_text(f"{UNLUCKY}\ndef make(*sizes): return Unlucky(*sizes)\n")
    monkeypatch.setattr(wire, "_GRACE_SECONDS", 0.5)
    yield replace(params, training=replace(params.training, model="unlucky:make"))
    sys.modules.pop("unlucky", None)


class _Impatient(wire.ProcessWire):
    def __init__(self) -> None:
        super().__init__()
        _set_pg_timeout(timedelta(seconds=3))


@pytest.mark.parametrize(
    ("accident", "error", "state"),
    [
        ("SIGKILL", ProcessLost, "reserved"),
        ("SIGSTOP", ProcessLost, "reserved"),  # it hangs
        ("RuntimeError", ProcessLost, "reserved"),
        ("NaN", NotFinite, "settled"),
    ],
)
def test_an_accident_of_one_process_ends_all_and_leaves_the_charge(
    accident: str,
    error: type[LetheError],
    state: str,
    unlucky: Params,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ACCIDENT", accident)
    if not accident.startswith("SIG"):
        request.getfixturevalue("warm")
    if accident == "SIGSTOP":  # patience is minutes; once all have met, seconds will do
        monkeypatch.setattr(wire, "ProcessWire", _Impatient)
    earlier = set(psutil.Process().children())  # of other tests: a database server, say
    signal.alarm(1200)  # no hang: the test's own process would end
    try:
        with pytest.raises(error):
            stage.run(unlucky, now=NOW)
    finally:
        signal.alarm(0)
    assert [run.state for run in _runs()] == [state]
    assert not workspace.MODEL.exists()
    assert not list(workspace.TEMPORARY.iterdir())
    assert set(psutil.Process().children()) <= earlier, "a process is left behind"
    assert "4711" not in capfd.readouterr().err  # nobody may read what it held
    monkeypatch.delenv("ACCIDENT")
    alone = replace(unlucky, parallel=Parallel(processes=1))  # how many is no part of the request
    (before,) = _runs()
    after = stage.run(alone, now=NOW)["run_id"]
    assert (after == before.run_id) == (state == "reserved")
    assert {run.state for run in _runs()} == {"settled"}


def _write_params(**training: Any) -> None:
    raw = trained_run.raw()
    raw["training"].update(training)
    raw["parallel"] = {"processes": 2}
    with Path("params.yaml").open("w") as file:
        YAML().dump(raw, file)


def test_a_leader_that_is_killed_takes_the_others_with_it(unlucky: Params) -> None:
    _write_params(model="unlucky:make")
    ended = subprocess.run(  # comes back when nobody holds its stderr any more
        (sys.executable, "-P", "-m", "lethe", "train"),
        env={**os.environ, "ACCIDENT": "SIGKILL", "WHERE": "0 4"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert ended.returncode == -signal.SIGKILL
    assert "lethe: error: A process of this training ended" in ended.stderr
    assert [run.state for run in _runs()] == ["reserved"]


@pytest.mark.usefixtures("warm")
def test_a_training_killed_in_the_middle_goes_on_under_the_same_charge(
    unlucky: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both processes by SIGKILL at step 71 of 120, where every 50th is kept."""
    steps = 120
    plan = replace(trained_run.plan_of(unlucky), steps=steps)
    write_json(workspace.PLAN, plan.to_data())
    _write_params(model="unlucky:make")
    ended = subprocess.run(
        (sys.executable, "-P", "-m", "lethe", "train"),
        env={**os.environ, "ACCIDENT": "SIGKILL", "WHERE": "0 71"},
        stderr=subprocess.PIPE,
        timeout=300,
    )
    assert ended.returncode == -signal.SIGKILL
    (before,) = _runs()
    assert before.state == "reserved"
    checkpoint = stage.STAGING / f"{before.run_id}.checkpoint"
    assert checkpoint.stat().st_mode & 0o777 == 0o600

    done: list[int] = []
    alone = replace(unlucky, parallel=Parallel(processes=1))
    report = stage.run(alone, now=NOW, progress=lambda step, _: done.append(step))
    assert done == list(range(51, steps + 1))
    assert report["steps"] == report["plan"]["steps"] == steps
    (after,) = _runs()
    assert (after.run_id, after.event, after.state) == (before.run_id, before.event, "settled")
    assert not checkpoint.exists()
