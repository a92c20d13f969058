"""No person, whatever the records, moves a step's sum by more than the clip."""

import math
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from lethe.privacy.noise.sampling import Keystream, poisson_draw
from lethe.privacy.plan import Plan
from lethe.training.engines.bookkeeping import BookkeepingEngine
from lethe.training.engines.contract import clip_factors
from lethe.training.loop import DpStep
from lethe.training.models import binary_loss

FEATURES, RECORDS = 3, 2
numbers = st.floats(-1e6, 1e6, width=32)


@st.composite
def people(draw: Any) -> tuple[Tensor, Tensor, Tensor]:
    """A handful of people with any numbers, any of their records absent."""
    count = draw(st.integers(1, 6))
    shape = (count, RECORDS)
    features = draw(hnp.arrays(np.float32, (*shape, FEATURES), elements=numbers))
    mask = draw(hnp.arrays(np.bool_, shape))
    labels = draw(hnp.arrays(np.bool_, shape)).astype(np.float32)
    return torch.from_numpy(features), torch.from_numpy(mask), torch.from_numpy(labels)


def step(clip_norm: float, seed: int, hidden: int) -> DpStep:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(FEATURES, hidden), nn.Tanh(), nn.Linear(hidden, 1))
    plan = Plan(
        sample_rate=0.5,
        steps=1,
        records_per_person=RECORDS,
        clip_norm=clip_norm,
        noise_multiplier=1.0,
        expected_batch_size=3.0,
        delta=1e-5,
    )
    return DpStep(plan, model, BookkeepingEngine(model, binary_loss), Keystream(bytes(32)))


def length(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


@settings(max_examples=150, deadline=None)
@given(people(), st.floats(1e-3, 1e3), st.integers(0, 50), st.integers(1, 9), st.data())
def test_adding_or_removing_one_person_moves_the_sum_by_at_most_the_clip(
    data: tuple[Tensor, Tensor, Tensor], clip_norm: float, seed: int, hidden: int, more: Any
) -> None:
    made = step(clip_norm, seed, hidden)
    person = more.draw(st.integers(0, len(data[0]) - 1))
    others = [i for i in range(len(data[0])) if i != person]
    whole = made.clipped_sum(*data)
    less = made.clipped_sum(*(part[others] for part in data))
    moved = length([a - b for a, b in zip(whole, less, strict=True)])
    # Beyond the clip by no more than float32 sums of that size are rounded.
    assert moved <= clip_norm * (1 + 1e-6 * 8 * len(data[0]))


@settings(max_examples=100, deadline=None)
@given(people(), st.integers(0, 50))
def test_the_order_of_people_and_what_is_absent_change_nothing(
    data: tuple[Tensor, Tensor, Tensor], seed: int
) -> None:
    made = step(1.0, seed, 4)
    features, mask, labels = data
    first = made.clipped_sum(features, mask, labels)
    back = list(range(len(features)))[::-1]
    features = features.masked_fill(~mask.unsqueeze(-1), -5.0)
    second = made.clipped_sum(features[back], mask[back], labels[back])
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@given(hnp.arrays(np.float32, 5, elements=st.floats(0, 2.0**100, width=32)), st.floats(1e-6, 1e6))
def test_a_clipped_length_never_exceeds_the_clip(norms: np.ndarray, clip_norm: float) -> None:
    lengths = torch.from_numpy(norms)
    clipped = lengths.double() * clip_factors(lengths, clip_norm).double()
    assert float(clipped.max()) <= clip_norm
    small = lengths <= clip_norm * 0.999
    assert bool((clip_factors(lengths, clip_norm)[small] == 1).all())


@given(st.integers(0, 300), st.floats(1e-9, 1.0), st.binary(min_size=32, max_size=32))
def test_a_draw_holds_nobody_twice_and_only_people_who_are_there(
    subjects: int, rate: float, key: bytes
) -> None:
    drawn = poisson_draw(Keystream(key), subjects, rate).tolist()
    assert drawn == sorted(set(drawn))
    assert all(0 <= position < subjects for position in drawn)
