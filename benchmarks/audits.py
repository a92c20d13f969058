"""Honest runs and their whole audits: how often one is contradicted, and what p-values they have.

    python -m benchmarks.audits measure FILE --runs 2000
    python -m benchmarks.audits report FILE

Each run is trained by the train stage, of one of `VARIANTS` in turn, under fresh keys; each audit
is the audit stage's. Only the process of the look at the run is played in this one: its start takes
longer than all that it does here. What is found is added to FILE, a line for each audit, so that
what was ended goes on, and several processes may work at once.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pydantic import JsonValue

from benchmarks.audit_rates import report, suspicious
from lethe.attacks import own_run
from lethe.attacks.run import examine
from lethe.config import workspace
from lethe.config.params import Params, parse_params
from lethe.core.errors import AuditContradiction
from lethe.core.files import read_json, write_json
from lethe.stages import audit, train
from lethe.training.trainers import trainer_of
from tests import trained_run

_OWN_MODEL = "own_network"
_OWN_SOURCE = """
from torch import nn

def build(features, outputs):
    first, last = nn.Linear(features, 6), nn.Linear(6, outputs)
    return nn.Sequential(first, nn.LayerNorm(6), nn.Tanh(), nn.Dropout(0.5), last)
"""
Changes = Mapping[str, Mapping[str, JsonValue]]


def _mechanism(**changes: JsonValue) -> Changes:
    return {"mechanism": changes}


def _optimizer(**changes: JsonValue) -> Changes:
    return {"optimizer": {"learning_rate": 0.2, **changes}}


def _training(**changes: JsonValue) -> Changes:
    return {"training": changes}


# What differs from `trained_run.raw`: a noise multiplier of 1.5, a rate of 0.1; over 12 steps.
VARIANTS: Mapping[str, Changes] = {
    "as it is": {},
    "everybody in each step": _mechanism(sample_rate=1.0, steps=4),
    "half of everybody": _mechanism(sample_rate=0.5, noise_multiplier=3.0),
    "hardly anybody": _mechanism(sample_rate=0.005),
    "one step": _mechanism(steps=1),
    "forty steps": _mechanism(steps=40),
    "little noise": _mechanism(noise_multiplier=0.6),
    "much noise": _mechanism(noise_multiplier=20.0),
    "a narrow clip": _mechanism(clip_norm=0.01),
    "a wide clip": _mechanism(clip_norm=50.0),
    "one record": _mechanism(records_per_person=1),
    "discrete noise": _mechanism(noise="discrete"),
    "a clip that moves": _mechanism(adaptive={"quantile": 0.6, "count_noise": 2.0}),
    "momentum and averages": _optimizer(momentum=0.9, averaging=0.9),
    "Adam": _optimizer(name="adam"),
    "a cosine": _optimizer(schedule="cosine", momentum=0.5),
    "logistic": _training(model="logistic"),
    "two layers": _training(hidden=[6, 5]),
    "functional": _training(engine="functional"),
    "Opacus": _training(engine="opacus"),
    "Opacus, ghost": _training(engine="opacus_ghost"),
    "dropout": _training(model=f"{_OWN_MODEL}:build"),
}


def declared(variant: str) -> Params:
    raw = trained_run.raw()
    training = raw["training"]
    training["mechanism"] |= {"steps": 12}
    training["hidden"] = [6]
    raw["audit"] = {"subjects": 50, "replays": 1}
    raw["budget"]["epsilon"] = 1e6
    changes = VARIANTS[variant]
    training["mechanism"] |= changes.get("mechanism", {})
    training["optimizer"] |= changes.get("optimizer", {})
    training |= changes.get("training", {})
    return parse_params(raw)


def measure(file: Path, runs: int) -> None:
    """Adds audits to the file until it has so many."""
    torch.set_num_threads(1)
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as made, _in_this_process():
        try:
            while (done := len(read(file))) < runs:
                variant = list(VARIANTS)[done % len(VARIANTS)]
                _add(file, audited(variant, Path(made)))
                os.chdir(home)
        finally:
            os.chdir(home)


def audited(variant: str, folder: Path) -> dict[str, Any]:
    """One honest run, trained and audited in a copy of a workspace; the working directory moves."""
    start, params = time.process_time(), declared(variant)
    template = folder / variant
    if not template.exists():
        _prepare(template, params)
    here = folder / f"run-{os.getpid()}"
    shutil.copytree(template, here)
    os.chdir(here)
    try:
        train.run(params, now=trained_run.NOW)
        with suppress(AuditContradiction):  # it is in the report
            audit.run(params, now=trained_run.NOW)
        found = read_json(workspace.report_path("audit"))
    finally:
        os.chdir(folder)
        shutil.rmtree(here)
    return {
        "variant": variant,
        "failed": found["failed"],
        "facts": sum(c["false_alarm_rate"] == 0 for c in found["checks"]),
        "limits": sum(_is_limit(c) for c in found["checks"]),
        "p_values": {c["name"]: c["statistic"] for c in found["checks"] if c["kind"] == "p-value"},
        "rate": found["false_alarm_rate"],
        "seconds": round(time.process_time() - start, 2),
    }


def _is_limit(check: Mapping[str, Any]) -> bool:
    """A statistical check that compares a bound at its own confidence: it has no p-value."""
    return bool(check["false_alarm_rate"] > 0 and check["kind"] != "p-value")


def _prepare(root: Path, params: Params) -> None:
    """People, encoding and plan, as the stages before train leave them."""
    root.mkdir()
    os.chdir(root)
    (root / f"{_OWN_MODEL}.py").write_text(_OWN_SOURCE)
    trained_run.write_people(params)
    write_json(workspace.PLAN, trainer_of(params.training).plan(params).to_data())


@contextmanager
def _in_this_process() -> Iterator[None]:
    """The process that examines the run is played here."""

    def answered(command: list[str], **words: Any) -> subprocess.CompletedProcess[bytes]:
        examine.main(*command[-2:])
        torch.set_num_threads(1)
        return subprocess.CompletedProcess(command, 0)

    with mock.patch.object(own_run.subprocess, "run", answered):
        yield


def read(file: Path) -> list[dict[str, Any]]:
    """What was measured so far, audit by audit."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _add(file: Path, found: Mapping[str, Any]) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps(found, allow_nan=False) + "\n")


def main() -> str:
    """What is suspicious, which ends the process with an error; nothing otherwise."""
    parser = argparse.ArgumentParser(prog="benchmarks.audits", description=__doc__)
    parser.add_argument("what", choices=("measure", "report"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=int, default=2000)
    asked = parser.parse_args()
    if asked.what == "measure":
        measure(asked.file.resolve(), asked.runs)
    found = read(asked.file)
    print(report(found))
    return "; ".join(suspicious(found))


if __name__ == "__main__":
    sys.exit(main() or 0)
