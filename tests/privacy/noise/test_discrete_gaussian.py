"""The discrete Gaussian sampler against the law itself and against another algorithm."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from lethe.privacy.noise import discrete_gaussian
from lethe.privacy.noise.chacha import HostBits
from lethe.privacy.noise.discrete_gaussian import DiscreteGaussian, exp_bounds, whole_bounds
from lethe.privacy.noise.sampling import Keystream

KEY = bytes(range(32))
FALSE_ALARM = 1e-6  # of each test; the streams are fixed, so none comes later


def _draw(count: int, **options: int) -> np.ndarray:
    return DiscreteGaussian(HostBits(Keystream(KEY)), **options).draw(count).numpy()


def _p_value(values: np.ndarray, scale: int) -> float:
    """Chi-square against exp(-y^2 / (2 scale^2)) / sum; rare values together."""
    whole = np.arange(-45 * scale, 45 * scale + 1)
    law = np.exp(-((whole / scale) ** 2) / 2)
    expected = law / law.sum() * len(values)
    often = expected >= 10
    seen = np.array([(values == y).sum() for y in whole[often]])
    seen = np.append(seen, len(values) - seen.sum())
    expected = np.append(expected[often], len(values) - expected[often].sum())
    keep = expected > 1e-9
    return float(stats.chisquare(seen[keep], expected[keep], sum_check=False).pvalue)


@pytest.mark.parametrize("scale_bits", [0, 1, 2, 4])
def test_small_scales_follow_the_exact_law(scale_bits: int) -> None:
    values = _draw(300_000, scale_bits=scale_bits)
    assert _p_value(values, 2**scale_bits) > FALSE_ALARM


@pytest.mark.parametrize(("scale_bits", "coin_bits"), [(0, 1), (1, 2), (2, 4)])
def test_the_law_is_the_same_where_few_bits_leave_much_to_settle(
    scale_bits: int, coin_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[int] = []
    settle = DiscreteGaussian._settle

    def counted(self: DiscreteGaussian, first: int, second: int) -> tuple[int, bool]:
        settled.append(first)
        return settle(self, first, second)

    monkeypatch.setattr(DiscreteGaussian, "_settle", counted)
    values = _draw(4_000, scale_bits=scale_bits, coin_bits=coin_bits)
    assert len(settled) > 400
    assert _p_value(values, 2**scale_bits) > FALSE_ALARM


def test_the_scale_that_is_used_is_normal_to_the_eye() -> None:
    values = _draw(200_000) / 2.0**24
    assert stats.kstest(values, "norm").pvalue > FALSE_ALARM
    assert abs(values.mean()) < 5 / math.sqrt(200_000)
    assert values.var() == pytest.approx(1.0, abs=5 * math.sqrt(2 / 200_000))
    # the last bits are those of uniform numbers
    last = np.bincount(_draw(200_000) & 15, minlength=16)
    assert stats.chisquare(last).pvalue > FALSE_ALARM


class Exact:
    """Canonne, Kamath and Steinke (2020), algorithms 1 to 3, in fractions; slow."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def bernoulli(self, p: Fraction) -> bool:
        return int(self._random.integers(p.denominator)) < p.numerator

    def bernoulli_exp(self, x: Fraction) -> bool:
        while x > 1:
            if not self.bernoulli_exp(Fraction(1)):
                return False
            x -= 1
        k = 1
        while self.bernoulli(x / k):
            k += 1
        return k % 2 == 1

    def laplace(self, t: int) -> int:
        while True:
            u = int(self._random.integers(t))
            if not self.bernoulli_exp(Fraction(u, t)):
                continue
            v = 0
            while self.bernoulli_exp(Fraction(1)):
                v += 1
            negative, x = self.bernoulli(Fraction(1, 2)), u + t * v
            if not (negative and x == 0):
                return -x if negative else x

    def gaussian(self, sigma: int) -> int:
        t = sigma + 1
        while True:
            y = self.laplace(t)
            if self.bernoulli_exp((abs(y) - Fraction(sigma**2, t)) ** 2 / (2 * sigma**2)):
                return y


def test_another_algorithm_gives_the_same_law() -> None:
    reference = Exact(seed=11)
    theirs = np.array([reference.gaussian(4) for _ in range(4_000)])
    ours = _draw(40_000, scale_bits=2)
    edges = np.arange(-9, 10)  # rare values together, at both ends
    table = [np.bincount(np.digitize(values, edges), minlength=20) for values in (theirs, ours)]
    assert stats.chi2_contingency(np.array(table)).pvalue > FALSE_ALARM
    assert _p_value(theirs, 4) > FALSE_ALARM


class Given:
    """Bits that are written down; then zeros, or ones, for ever."""

    def __init__(self, words: list[int], *, then: int) -> None:
        self._words, self._then = words, then

    def int64(self, count: int) -> torch.Tensor:
        taken, self._words = self._words[:count], self._words[count:]
        return torch.tensor(taken + [self._then] * (count - len(taken)), dtype=torch.int64)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


@pytest.mark.parametrize(("then", "whole"), [(0, 0), (-1, 1)])
def test_a_coin_on_the_edge_is_settled_by_further_bits(then: int, whole: int) -> None:
    """P(v <= 0) begins with the 32 bits of the coin; what follows them decides."""
    edge = whole_bounds(0, 32)[0]
    sampler = DiscreteGaussian(Given([], then=then), scale_bits=4)
    found, accepted = sampler._settle(edge << 32, 0)
    assert (found, accepted) == (whole, True)


def _below(coin: int, bounds: tuple[int, int]) -> bool:
    """Is coin / 2^32, with zeros after it, below p? For irrational p and 1, at 96 bits."""
    lower, _ = bounds
    return coin << 64 < lower


@pytest.mark.parametrize("scale_bits", [0, 5, 13, 24])
def test_every_decision_is_the_exact_one_also_next_to_its_edge(scale_bits: int) -> None:
    """Trials whose coins lie within some 2^-32 of what decides, against rational arithmetic."""
    random = np.random.default_rng(scale_bits)
    scale, firsts, seconds, expected = 1 << scale_bits, [], [], []
    edges = [whole_bounds(v, 96)[0] >> 64 for v in range(8)]
    for number in range(600):
        fraction, negative = int(random.integers(scale)), int(random.integers(2))
        coin = int(random.integers(2**32))
        if number % 3 == 0:
            coin = min(edges[number % 8] + int(random.integers(-1, 2)), 2**32 - 1)
        whole = next(v for v in range(20) if _below(coin, whole_bounds(v, 96)))
        exponent = Fraction(fraction * (fraction + 2 * whole * scale), 2 * scale**2)
        coarse = Fraction(math.floor(exponent * 1024), 1024)
        parts = [exp_bounds(coarse, 96), exp_bounds(exponent - coarse, 96)]
        most, drift = 2**32 - 1, (int(random.integers(-3, 4)) for _ in range(2))
        coins = [
            max(0, min(most, (part[0] >> 64) + off)) for part, off in zip(parts, drift, strict=True)
        ]
        firsts.append(_signed(coin << 32 | negative << 24 | fraction))
        seconds.append(_signed(coins[0] << 32 | coins[1]))
        magnitude = whole * scale + fraction
        accepted = all(_below(c, part) for c, part in zip(coins, parts, strict=True))
        if accepted and (magnitude or not negative):
            expected.append(-magnitude if negative else magnitude)
    sampler = DiscreteGaussian(Given(firsts + seconds, then=0), scale_bits=scale_bits)
    assert sampler._trials(600).tolist() == expected
    assert 50 < len(expected) < 550


def test_there_is_no_largest_value() -> None:
    """A coin of ones, and ones after it: the whole part grows with every word of them."""
    words = [-1 for _ in range(3)] + [0] * 50
    whole, _ = DiscreteGaussian(Given(words, then=0), scale_bits=4)._settle(_signed(2**64 - 1), 0)
    assert whole > math.sqrt(2 * 32 * math.log(2)) + 5


@pytest.mark.parametrize("bits", [8, 32, 96])
@pytest.mark.parametrize("x", [Fraction(0), Fraction(1, 2**49), Fraction(3, 7), Fraction(45)])
def test_bounds_hold_the_exponential(x: Fraction, bits: int) -> None:
    lower, upper = exp_bounds(x, bits)
    assert 0 <= upper - lower <= 1
    # the series to far more terms than it needs, in fractions
    exact, term = Fraction(0), Fraction(1)
    for k in range(1, 400):
        exact += term
        term *= -x / k
    assert lower <= exact * 2**bits + Fraction(1, 2**200)
    assert upper >= exact * 2**bits - Fraction(1, 2**200)


def test_the_tables_are_the_integer_parts_of_their_probabilities() -> None:
    whole, coarse = discrete_gaussian._tables(32)
    most = 2**32 - 1
    for i in [*range(0, 3000, 7), *range(3000, len(coarse), 997), len(coarse) - 1]:
        lower, upper = exp_bounds(Fraction(i, 1024), 96)
        assert lower >> 64 == (upper - 1) >> 64 or i == 0
        assert int(coarse[i]) == min(most, lower >> 64)
    total = sum(math.exp(-v * v / 2) for v in range(40))
    for v, entry in enumerate(whole):
        exact = sum(math.exp(-i * i / 2) for i in range(v + 1)) / total
        assert entry == pytest.approx(2**32 * exact, abs=1.01)
        lower, upper = whole_bounds(v, 96)
        assert entry == lower >> 64 == (upper - 1) >> 64


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_as_many_come_as_were_asked_for(count: int) -> None:
    found = DiscreteGaussian(HostBits(Keystream(KEY))).draw(count)
    assert found.shape == (count,)
    assert found.dtype == torch.int64


def test_parts_of_the_memory_bound_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discrete_gaussian, "_AT_ONCE", 64)
    values = _draw(20_000, scale_bits=2)
    assert _p_value(values, 4) > FALSE_ALARM
