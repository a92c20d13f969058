"""What a proof of its own costs a run: the transcript on each step, and the look at all of it."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pyroaring import BitMap
from torch import nn

from benchmarks.timing import Row, interleaved, median_ms, ratio
from lethe.attacks.run import draws, residuals
from lethe.attacks.run.recompute import Recomputation
from lethe.attacks.run.recorded import Recorded
from lethe.attacks.run.steps import RunStep
from lethe.attacks.run.sums import PersonSums
from lethe.config.sections import Audit
from lethe.config.training import Optimizer
from lethe.data.batches import PersonData
from lethe.privacy.plan import Plan
from lethe.training import loop
from lethe.training.models import binary_loss
from lethe.training.parallel import Admission
from lethe.training.transcript import Recorder

_PEOPLE, _RECORDS, _FEATURES = 46_000, 4, 66  # the demonstration's
_LIMIT = 2**30
_RUN = "0" * 32
_OPTIMIZER = Optimizer(learning_rate=4.0, momentum=0.9, averaging=0.99)
PLAN = Plan(
    sample_rate=0.1,
    steps=300,
    records_per_person=_RECORDS,
    clip_norm=1.0,
    noise_multiplier=6.5856,
    expected_batch_size=4800.0,
    delta=1e-5,
)


def measure() -> list[Row]:
    """On the demonstration's network and plan, and as many made-up people."""
    people = _people()
    with tempfile.TemporaryDirectory() as made:
        few = replace(PLAN, steps=40)
        folders = (Path(made, str(number)) for number in range(1000))
        seconds = interleaved(
            {
                "with": lambda: _train(people, few, next(folders)),
                "without": lambda: _train(people, few, None),
            },
            rounds=9,
        )
        step = median_ms(seconds, "without") / few.steps
        looked = _looked_at(people, Path(made, "whole"))
    share = ratio(seconds, "with", "without")
    where = "the demonstration's network"
    return [
        (f"step with its transcript / without, {where}", f"{share:.3f}", "≤ 1.15"),
        (f"that step without, {where}, ms", f"{step:.1f}", ""),
        (f"the look at the run, {where}, s", f"{looked:.1f}", "≤ 60"),
    ]


def _people() -> PersonData:
    made = torch.Generator().manual_seed(0)
    places = (_PEOPLE, _RECORDS)
    mask = torch.rand(places, generator=made) < 0.12
    mask[:, 0] = True
    features = (torch.rand(*places, _FEATURES, generator=made) < 0.2).float()
    labels = (torch.rand(places, generator=made) < 0.1).float()
    return PersonData(features, mask, labels, np.arange(_PEOPLE, dtype=np.uint32))


def _network() -> nn.Module:
    layer = nn.Linear(_FEATURES, 1)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    return nn.Sequential(layer)


def _train(people: PersonData, plan: Plan, folder: Path | None) -> loop.TrainedModel:
    recorder = None
    if folder is not None:
        folder.mkdir(mode=0o700)
        recorder = Recorder(folder, run_id=_RUN, plan=plan.digest, limit=_LIMIT)
    return loop.train(
        loop.Task(plan, people, _network(), binary_loss),
        Admission(_RUN, BitMap(people.tokens)),
        _OPTIMIZER,
        loop.Execution(transcript=recorder),
    )


def _looked_at(people: PersonData, folder: Path) -> float:
    """Seconds of all that the audit looks at of a run's own steps, but for its process's start."""
    trained = _train(people, PLAN, folder)
    released = {name: t.detach().clone() for name, t in trained.model.state_dict().items()}
    random = np.random.default_rng()
    start = time.perf_counter()
    recorded = Recorded(folder)
    again = Recomputation(recorded, PLAN, _OPTIMIZER, _network(), released)
    network = _network()
    sums = PersonSums(network, binary_loss, people, seed=PLAN.initial_seed)
    first = RunStep(0, PLAN.clip_norm, recorded.draws[0], network.state_dict(), ())
    sums.known(first)
    most = max(len(drawn) for drawn in recorded.draws)
    affordable = int(Audit().look_operations / (most * sums.operations(first)))
    steps = residuals.steps_to_look_at(PLAN, again.coordinates, affordable, again.kept, random)
    checks = residuals.check_residuals(PLAN, sums, again.steps(steps), random=random)
    checks += again.checks()
    checks += draws.check_draws(PLAN, people, BitMap(), recorded.draws, random=random)
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise AssertionError(f"an honest run is contradicted: {', '.join(failed)}")
    return time.perf_counter() - start
