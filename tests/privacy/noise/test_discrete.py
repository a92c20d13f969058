"""Discrete noise: one public grid, a sensitivity that counts rounding, and the plan's price."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lethe.attacks.clipping import CLIP_TOLERANCE
from lethe.core.errors import NotFinite, ParamsInvalid, TrainingRefused
from lethe.privacy.events import Leaf
from lethe.privacy.noise.discrete import SCALE, SUM_MARGIN, DiscreteNoise, grid_step, to_grid
from lethe.privacy.noise.gaussian import GaussianNoise, make_noise
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import Plan
from lethe.privacy.renyi import ORDERS, rdp_vector

KEY = bytes(range(32))
PLAN = Plan(
    sample_rate=0.1,
    steps=20,
    records_per_person=3,
    clip_norm=0.7,
    noise_multiplier=1.3,
    expected_batch_size=33.0,
    delta=1e-5,
    noise="discrete",
)


def _noise(multiplier: float = 1.3) -> DiscreteNoise:
    return DiscreteNoise(Keystream(KEY), noise_multiplier=multiplier)


# What a plan is, and what it makes.


def test_the_plan_says_which_noise_is_added() -> None:
    assert isinstance(make_noise(PLAN, Keystream(KEY)), DiscreteNoise)
    assert isinstance(make_noise(replace(PLAN, noise="gaussian"), Keystream(KEY)), GaussianNoise)
    assert PLAN.digest != replace(PLAN, noise="gaussian").digest
    assert Plan.from_data(PLAN.to_data()) == PLAN
    assert PLAN.event == replace(PLAN, noise="gaussian").event


def test_a_plan_with_another_noise_is_refused() -> None:
    with pytest.raises(ParamsInvalid, match="'laplace' is none of gaussian, discrete"):
        replace(PLAN, noise="laplace")


# The grid.


@pytest.mark.parametrize("coordinates", [1, 99_073, 10**8])
@pytest.mark.parametrize("multiplier", [1e-3, 0.4, 1.0, 30.0])
@pytest.mark.parametrize("clip", [1e-6, 0.7, 1e5])
def test_the_step_pays_for_rounding_and_margin(
    coordinates: int, multiplier: float, clip: float
) -> None:
    """z (C (1 + m) / step + 2 sqrt(d)) <= sqrt(S^2 - 64), in exact arithmetic."""
    step = Fraction(grid_step(multiplier, multiplier * clip, coordinates))
    root = Fraction(math.isqrt(coordinates * 10**40) + 1, 10**20)  # not below sqrt(d)
    moved = Fraction(clip) * (1 + Fraction(1, 10**4)) / step + 2 * root
    assert (Fraction(multiplier) * moved) ** 2 <= SCALE**2 - 64
    wider = float(step) * SCALE / (multiplier * clip)
    assert 1 + SUM_MARGIN < wider < (1 + 2e-4) / (1 - 1.2e-7 * multiplier * coordinates**0.5)


def test_the_margin_covers_what_the_audit_lets_pass() -> None:
    assert SUM_MARGIN >= CLIP_TOLERANCE


def test_a_grid_that_would_be_too_coarse_is_refused() -> None:
    with pytest.raises(TrainingRefused, match="use noise: gaussian"):
        grid_step(100.0, 100.0, 10**10)
    with pytest.raises(TrainingRefused, match="more than doubled"):
        grid_step(math.inf, math.inf, 10)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 50),
    st.floats(1e-6, 1e6),
    st.sampled_from([1.0, 1e3, 1e9, 1e20]),
)
def test_two_sums_on_the_grid_are_no_further_apart_than_is_paid_for(
    seed: int, coordinates: int, step: float, far: float
) -> None:
    random = np.random.default_rng(seed)
    one = torch.from_numpy(random.normal(size=coordinates) * step * far).float()
    other = one + torch.from_numpy(random.normal(size=coordinates) * step * 3).float()
    apart = [Fraction(a) - Fraction(b) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    exact = math.sqrt(sum(float(x / Fraction(step)) ** 2 for x in apart))
    moved = float((to_grid(one, step) - to_grid(other, step)).double().norm())
    assert moved <= exact + 2 * math.sqrt(coordinates) + 1e-6


def test_a_sum_beyond_the_grid_stays_at_its_end() -> None:
    found = to_grid(torch.tensor([1e30, -1e30, 0.6]), 1.0)
    assert found.tolist() == [2**52, -(2**52), 1]


def test_what_is_released_is_the_rounded_sum_plus_whole_steps() -> None:
    sums = [torch.tensor([[0.25, -1.5], [3e-9, 2.0]]), torch.tensor([7.0])]
    before = [t.clone() for t in sums]
    noisy = _noise().add(sums, standard_deviation=1.3 * 0.7)
    step = grid_step(1.3, 1.3 * 0.7, 5)
    integers = _noise()._integers.draw(5)
    for at, (value, found) in enumerate(
        zip(torch.cat([t.flatten() for t in sums]), torch.cat([t.flatten() for t in noisy]),
            strict=True)
    ):  # fmt: skip
        whole = round(Fraction(float(value)) / Fraction(step)) + int(integers[at])
        assert float(found) == np.float32(whole * step)
    assert all(torch.equal(a, b) for a, b in zip(sums, before, strict=True))
    assert [t.shape for t in noisy] == [t.shape for t in sums]


def test_the_possible_values_do_not_depend_on_the_sum() -> None:
    """Where float32 is finer than the grid, what is released lies on it, not beside it."""
    step = grid_step(1.3, 0.91, 20_000)
    for sums in (torch.zeros(20_000), torch.rand(20_000), torch.full((20_000,), 0.1)):
        found = _noise().add([sums], standard_deviation=0.91)[0].double().numpy()
        fine = found[np.abs(found) < step * 2**21]
        assert len(fine) > 500
        whole = fine / step
        assert np.abs(whole - np.round(whole)).max() < 2.0**-3


def test_noise_has_the_declared_scale_and_no_two_entries_share_it() -> None:
    sums = [torch.full((300, 200), 7.0), torch.full((1,), -1.0)]
    noise = _noise(2.5)
    noisy = noise.add(sums, standard_deviation=2.5)
    realised = (noisy[0] - 7.0).double().numpy().ravel() / (2.5 * 1.0001)
    assert stats.kstest(realised, "norm").pvalue > 1e-6
    assert realised.var() == pytest.approx(1.0, abs=5 * math.sqrt(2 / 60_000))
    again = noise.add(sums, standard_deviation=2.5)
    both = torch.cat([noisy[0].flatten(), again[0].flatten()]) - 7.0
    runs = np.lib.stride_tricks.sliding_window_view(both.numpy(), 3)
    assert len(np.unique(runs, axis=0)) == len(runs)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_noise_that_protects_nobody_is_refused(scale: float) -> None:
    with pytest.raises(TrainingRefused, match="protects nobody"):
        _noise().add([torch.zeros(2)], standard_deviation=scale)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_sum_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(NotFinite, match="counts as spent"):
        _noise().add([torch.tensor([1.0, bad])], standard_deviation=1.0)


# The price: numerically, what the module shows.


def _laws(scale: int, shift: int, q: float) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the outcome's law without a person, and with one drawn at rate q."""
    y = np.arange(-40 * scale - shift, 40 * scale + 2 * shift + 1, dtype=float)
    log_total = np.log(np.exp(-(y**2) / (2 * scale**2)).sum())
    without = -(y**2) / (2 * scale**2) - log_total
    there = -((y - shift) ** 2) / (2 * scale**2) - log_total
    if q == 1:
        return without, there
    return without, np.logaddexp(math.log1p(-q) + without, math.log(q) + there)


@pytest.mark.parametrize(("scale", "shift"), [(3, 2), (8, 8), (16, 5)])
@pytest.mark.parametrize("q", [0.01, 0.3])
def test_renyi_divergence_at_whole_orders_is_the_gaussians(
    scale: int, shift: int, q: float
) -> None:
    without, with_ = _laws(scale, shift, q)
    claimed = rdp_vector({Leaf("gaussian", scale / shift, 1, q): 1})
    for order in (2, 3, 8, 20):
        at = int(np.flatnonzero(np.isclose(ORDERS, order))[0])
        removed = np.logaddexp.reduce(order * with_ + (1 - order) * without) / (order - 1)
        added = np.logaddexp.reduce(order * without + (1 - order) * with_) / (order - 1)
        assert removed == pytest.approx(claimed[at], rel=1e-9)
        assert added <= claimed[at] * (1 + 1e-9)


@pytest.mark.parametrize("smoothing", [0.6, 1.0])
@pytest.mark.parametrize("centre", [0, 3])
def test_a_rounded_gaussian_has_the_discrete_law_up_to_eta(centre: int, smoothing: float) -> None:
    """x ~ N(c, S^2 - r^2), then a whole number from D(x, r): within e^(+-3 eta) of D(c, S)."""
    scale = 3.0
    eta = 2.02 * math.exp(-2 * math.pi**2 * smoothing**2)
    y = np.arange(centre - 20, centre + 21)[:, None].astype(float)
    x = np.linspace(centre - 30, centre + 30, 60_001)[None, :]
    total = sum(np.exp(-((k - x) ** 2) / (2 * smoothing**2)) for k in range(-50, 60))
    rounding = np.exp(-((y - x) ** 2) / (2 * smoothing**2)) / total
    law = np.exp(-((y[:, 0] - centre) ** 2) / (2 * scale**2))
    law /= sum(math.exp(-(k**2) / (2 * scale**2)) for k in range(-60, 61))

    def apart(sigma: float) -> float:
        rounded = (rounding * stats.norm.pdf(x, centre, sigma)).sum(1) * float(x[0, 1] - x[0, 0])
        return float(np.abs(np.log(rounded / law)).max())

    assert apart(math.sqrt(scale**2 - smoothing**2)) < 3 * eta + 1e-9
    assert apart(scale) > 0.1  # the real law must be that much narrower


@pytest.mark.parametrize("q", [1.0, 0.2])
def test_the_privacy_curve_is_below_the_gaussians_that_is_charged(q: float) -> None:
    """Delta of the discrete law at every epsilon, against the normal law of variance S^2 - r^2."""
    scale, shift, smoothing = 32, 24, 2.0
    without, with_ = _laws(scale, shift, q)
    sigma = math.sqrt(scale**2 - smoothing**2)
    x = np.linspace(-14 * scale, 14 * scale + shift, 400_001)
    p0 = stats.norm.pdf(x, 0, sigma)
    p1 = (1 - q) * p0 + q * stats.norm.pdf(x, shift, sigma)
    wide = float(x[1] - x[0])
    for epsilon in (0.0, 0.1, 0.3, 0.7, 1.5):
        for ours, theirs in (((with_, without), (p1, p0)), ((without, with_), (p0, p1))):
            delta = np.maximum(np.exp(ours[0]) - np.exp(epsilon + ours[1]), 0).sum()
            charged = np.maximum(theirs[0] - math.exp(epsilon) * theirs[1], 0).sum() * wide
            assert delta <= charged + 1e-9
