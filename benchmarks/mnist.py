"""Accuracy on MNIST under person-level privacy: epsilon 2.93 by RDP at delta 1e-5, five runs.

Every image is one person. What a person brings are copies of the one image, moved by a
pixel and scattered by fixed wavelets (`benchmarks.scattering`); they are the K records
whose mean gradient is clipped once, so copies cost no privacy. On them a single linear
layer is trained by the project's own loop, under a plan. No other data, and no statistic
of these data: all that normalizes works within one image.

How the constants below were chosen: on the last 10,000 training images, by training on
the first 50,000 under a plan of the same epsilon. That choice read people's data and is
not charged; the epsilon is that of one run with constants given beforehand, as in the
papers it is compared with. The test images had no part in it.

What was tried on those 10,000 images, in one or two runs each of a quick copy of the
mechanism for a linear layer (a share of them has a standard error of 0.11 points): four
moved copies, their outputs averaged, instead of the image alone, 98.6 to 98.8, for
several times the work; 600 steps instead of 300, 98.81 to 98.87, whence 400, for the time; a
learning rate of 2, or a clip of 10 at the same product with it, 98.5 and 98.4; the whole
set in each of 60 steps, where the noise no longer shows but so few steps reach 97.5; a
grid of 7, at half the learning rate, 98.4. The loop itself gave 98.73 there in 300 steps.

Measured once with these constants, five trainings beside each other on a busy machine:
98.86 98.81 98.87 98.81 98.84 on the test images, median 98.84, at epsilon 2.9299 by RDP
and 2.6859 by PLD; 90 seconds of one processor a run, 46 once for the features.
"""

import gzip
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pyroaring import BitMap
from torch import Tensor, nn

from benchmarks.scattering import CHANNELS, scattered
from lethe.config.training import Optimizer
from lethe.core.errors import NotFound
from lethe.data.batches import PersonData
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp, solve_noise_multiplier
from lethe.privacy.plan import Plan
from lethe.training.loop import Task, train
from lethe.training.models import class_loss

EPSILON, DELTA = 2.93, 1e-5
RUNS = 5
PEOPLE, CLASSES = 60_000, 10

SHIFTS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
GRID = 5
SAMPLE_RATE, STEPS, CLIP_NORM = 0.08, 400, 1.0
OPTIMIZER = Optimizer(learning_rate=0.8, momentum=0.9, averaging=0.98)


def measure(folder: Path) -> list[tuple[str, str, str]]:
    """`folder` holds the four files of MNIST, gzipped, under their own names."""
    start = time.perf_counter()
    train_images, train_labels = read(folder, "train")
    test_images, test_labels = read(folder, "t10k")
    data, plan = people(train_images, train_labels), declared_plan(PEOPLE)
    test = features(test_images)
    prepared = time.perf_counter() - start
    found, seconds = [], []
    for _ in range(RUNS):
        start = time.perf_counter()
        model = trained(data, plan)
        seconds.append(time.perf_counter() - start)
        found.append(accuracy(model, test, test_labels))
    rdp, pld = (price([plan.event], DELTA) for price in (epsilon_rdp, epsilon_pld))
    each = " ".join(f"{100 * share:.2f}" for share in found)
    return [
        (
            f"MNIST, accuracy on the 10,000 test images, %: median of {RUNS} runs (each)",
            f"{100 * statistics.median(found):.2f} ({each})",
            "≥ 98.7",
        ),
        ("its person-level epsilon by RDP, delta 1e-5", f"{rdp:.4f}", f"≤ {EPSILON:g}"),
        ("the same by PLD", f"{pld:.4f}", ""),
        (
            "its plan, not counting how it was chosen (on training images)",
            f"q {plan.sample_rate:g}, {plan.steps} steps, clip {plan.clip_norm:g}, "
            f"sigma {plan.noise_multiplier:g}, K {plan.records_per_person}",
            "",
        ),
        ("its features, s; a run, s", f"{prepared:.0f}; {statistics.median(seconds):.0f}", ""),
    ]


def declared_plan(subjects: int) -> Plan:
    """The plan for a public number of people; the noise is solved for."""
    return Plan(
        sample_rate=SAMPLE_RATE,
        steps=STEPS,
        records_per_person=len(SHIFTS),
        clip_norm=CLIP_NORM,
        noise_multiplier=solve_noise_multiplier(SAMPLE_RATE, STEPS, EPSILON, DELTA, "rdp"),
        expected_batch_size=SAMPLE_RATE * subjects,
        delta=DELTA,
    )


def read(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 28, 28] and labels int64 [n] of `train` or `t10k`.

    Raises:
        NotFound: a file is not what MNIST's own is: another length.
    """
    count = {"train": 60_000, "t10k": 10_000}[name]
    arrays = []
    for kind, header, shape in (
        ("images-idx3", 16, (count, 28, 28)),
        ("labels-idx1", 8, (count,)),
    ):
        path = folder / f"{name}-{kind}-ubyte.gz"
        raw = np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=header)
        if raw.size != np.prod(shape):
            raise NotFound(f"{path.name} holds {raw.size} numbers, not {np.prod(shape)}.")
        arrays.append(torch.from_numpy(raw.reshape(shape).copy()))
    return arrays[0], arrays[1].long()


def features(images: Tensor) -> Tensor:
    """[n, K, features] of every image's moved copies; see `scattered`."""
    return scattered(images, shifts=SHIFTS, grid=GRID)


def people(images: Tensor, labels: Tensor) -> PersonData:
    """One person an image, with all of its copies."""
    records = len(SHIFTS)
    return PersonData(
        features=features(images),
        mask=torch.ones(len(images), records, dtype=torch.bool),
        labels=labels.unsqueeze(1).expand(-1, records).contiguous(),
        tokens=np.arange(len(images), dtype=np.uint32),
    )


@dataclass(frozen=True)
class Reservation:
    """Stands in for the ledger: a benchmark has no people whose budget could be spent."""

    admitted: BitMap
    run_id: str = "benchmark"


def trained(data: PersonData, plan: Plan) -> nn.Module:
    """A linear layer trained from zero under the plan, with fresh noise and draws."""
    model = nn.Linear(CHANNELS * GRID**2, CLASSES)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    task = Task(plan, data, model, class_loss, classes=CLASSES)
    return train(task, Reservation(BitMap(data.tokens)), OPTIMIZER).model


def accuracy(model: nn.Module, copies: Tensor, labels: Tensor) -> float:
    """Share of images whose class has the largest mean output over the image's copies."""
    with torch.no_grad():
        outputs = torch.cat([model(part).mean(1) for part in copies.split(1000)])
    return float((outputs.argmax(1) == labels).double().mean())
