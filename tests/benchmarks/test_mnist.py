"""The accuracy benchmark claims what it runs; on made-up images, which anybody has."""

import gzip
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import mnist
from lethe.core.errors import NotFound
from lethe.privacy.accounting import epsilon_rdp
from lethe.privacy.plan import Plan


def bars(count: int = 60) -> tuple[Tensor, Tensor]:
    """Lying bars are a 0, standing ones a 1: uint8 [count, 28, 28], int64 [count]."""
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    for number in range(count):
        place = 9 + number % 9
        if labels[number]:
            images[number, 6:22, place : place + 2] = 250
        else:
            images[number, place : place + 2, 6:22] = 250
    return images, labels


def test_plan_costs_at_most_what_is_claimed_and_hardly_less() -> None:
    plan = mnist.declared_plan(mnist.PEOPLE)
    assert 2.9 < epsilon_rdp([plan.event], 1e-5) <= 2.93
    assert plan.delta == 1e-5
    assert plan.expected_batch_size == pytest.approx(60_000 * plan.sample_rate)


def test_every_image_is_one_person_and_its_copies_are_records() -> None:
    images, labels = bars()
    data = mnist.people(images, labels)
    assert len(data) == 60
    assert data.features.shape[:2] == data.mask.shape == data.labels.shape
    assert data.mask.shape[1] == mnist.declared_plan(60).records_per_person
    assert torch.equal(data.labels, labels.unsqueeze(1).expand_as(data.labels))
    assert bool(data.mask.all())


def test_training_by_the_loop_distinguishes_bars() -> None:
    images, labels = bars()
    plan = Plan(
        sample_rate=0.5,
        steps=30,
        records_per_person=len(mnist.SHIFTS),
        clip_norm=1.0,
        noise_multiplier=0.01,
        expected_batch_size=30.0,
        delta=1e-5,
    )
    model = mnist.trained(mnist.people(images, labels), plan)
    assert mnist.accuracy(model, mnist.features(images), labels) == 1.0
    assert mnist.accuracy(model, mnist.features(images), 1 - labels) == 0.0


def test_files_of_another_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16 + 784)))
    with pytest.raises(NotFound, match="784 numbers"):
        mnist.read(tmp_path, "t10k")
