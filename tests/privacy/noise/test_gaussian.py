"""Gaussian noise: its law, its scale, and that no variate is used twice."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from lethe.core.errors import TrainingRefused
from lethe.privacy.noise.gaussian import GaussianNoise
from lethe.privacy.noise.sampling import Keystream

KEY = bytes(range(32))


class Fixed(Keystream):
    """A stream that gives one number for ever."""

    def __init__(self, number: int) -> None:
        self._number = number

    def uint64(self, count: int) -> np.ndarray:
        return np.full(count, self._number, dtype=np.uint64)


def test_variates_follow_the_normal_law() -> None:
    found = GaussianNoise(Keystream(KEY)).normal(200_000).double().numpy()
    # Kolmogorov-Smirnov: a false alarm has probability 1e-6, and the stream is fixed.
    assert kstest(found, "norm").pvalue > 1e-6
    assert abs(found.mean()) < 5 / math.sqrt(200_000)
    assert found.var() == pytest.approx(1.0, abs=5 * math.sqrt(2 / 200_000))
    assert (found**4).mean() == pytest.approx(3.0, abs=5 * math.sqrt(96 / 200_000))


def test_both_halves_of_a_pair_and_neighbours_are_uncorrelated() -> None:
    found = GaussianNoise(Keystream(KEY)).normal(100_000).double()
    for shift in (1, 2, 50_000):
        product = float((found * found.roll(shift)).mean())
        assert abs(product) < 5 / math.sqrt(100_000)


@pytest.mark.parametrize("number", [0, 2**64 - 1, 2**11 - 1])
def test_the_ends_of_the_stream_give_finite_noise(number: int) -> None:
    found = GaussianNoise(Fixed(number)).normal(6)
    assert bool(torch.isfinite(found).all())
    assert float(found.abs().max()) < 8.6


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_as_many_variates_come_as_were_asked_for(count: int) -> None:
    assert GaussianNoise(Keystream(KEY)).normal(count).shape == (count,)


def test_no_two_steps_and_no_two_entries_share_noise() -> None:
    noise = GaussianNoise(Keystream(KEY))
    zeros = [torch.zeros(3, 4), torch.zeros(5)]
    drawn = [t.flatten() for _ in range(2) for t in noise.add(zeros, standard_deviation=1.0)]
    values = torch.cat(drawn).tolist()
    assert len(set(values)) == len(values)


def test_noise_has_the_declared_scale_and_leaves_the_sum_as_it_was() -> None:
    sums = [torch.full((300, 200), 7.0), torch.full((1,), -1.0)]
    noisy = GaussianNoise(Keystream(KEY)).add(sums, standard_deviation=2.5)
    realised = (noisy[0] - 7.0).double()
    assert float(realised.std()) == pytest.approx(2.5, rel=0.02)
    assert sums[0].eq(7.0).all()
    assert [t.shape for t in noisy] == [t.shape for t in sums]


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_noise_that_protects_nobody_is_refused(scale: float) -> None:
    with pytest.raises(TrainingRefused, match="protects nobody"):
        GaussianNoise(Keystream(KEY)).add([torch.zeros(2)], standard_deviation=scale)
