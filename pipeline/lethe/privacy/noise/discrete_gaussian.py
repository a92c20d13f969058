"""Integers from the discrete Gaussian law, exactly: whole numbers alone decide each of them.

A trial takes a whole part v with probability proportional to exp(-v^2 / 2), a fraction u
uniform on the multiples of 1/S in [0, 1), and a sign, and is accepted with probability
exp(-u (u + 2 v) / 2): what is accepted is (-1)^sign S (u + v) with probability
proportional to exp(-y^2 / (2 S^2)), once one of the two zeros is refused.

Each decision asks whether a uniform real number lies below a number such as exp(-3/7).
Its first 32 bits, compared with integers, settle nearly all of them; what they do not
settle is settled by as many more random bits as it takes, against ever finer bounds in
rational arithmetic. No probability is rounded and no tail is cut off: given uniform bits,
the law is the discrete Gaussian's, not one near it. How long it takes depends on the
random bits alone, never on what the noise is for.

Source: Karney (2016), Sampling exactly from the normal distribution, ACM TOMS 42(1),
arXiv:1303.6257; Canonne, Kamath and Steinke (2020), arXiv:2004.00010.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, partial

import torch
from torch import Tensor

from lethe.privacy.noise.chacha import Bits

Bounds = tuple[int, int]

SCALE_BITS = 24
_COIN_BITS = 32
_SIGN_AT, _COIN_AT = 24, 32  # places in a trial's first word; its lower bits are u
_EXPONENT_BITS = 2 * SCALE_BITS + 1  # exponents are multiples of 2^-49
_COARSE_BITS = 10  # of them: a coin for the multiples of 2^-10, one for the rest
_FINE_BITS = _EXPONENT_BITS - _COARSE_BITS
_GUARD_BITS = 64
_AT_ONCE = 1 << 20  # trials; bounds the memory


class DiscreteGaussian:
    """Independent integers of mean 0 and parameter S = 2^scale_bits, on the device of `bits`.

    Guarantee: P(y) = exp(-y^2 / (2 S^2)) / sum over all integers, exactly.
    """

    def __init__(
        self, bits: Bits, *, scale_bits: int = SCALE_BITS, coin_bits: int = _COIN_BITS
    ) -> None:
        """Args: coin_bits: how many bits a decision looks at first; the law is the same."""
        if not (0 <= scale_bits <= SCALE_BITS and 1 <= coin_bits <= _COIN_BITS):
            raise ValueError(f"scale_bits={scale_bits} or coin_bits={coin_bits} is out of range")
        self._bits, self._scale_bits, self._coin_bits = bits, scale_bits, coin_bits
        self._whole, self._coarse = _tables(coin_bits)

    def draw(self, count: int) -> Tensor:
        """The next `count` integers, int64 [count]."""
        parts, missing = [self._bits.int64(0)], count
        while missing > 0:
            # 71 % of trials are accepted.
            found = self._trials(min(_AT_ONCE, missing + missing // 2 + 64))[:missing]
            parts.append(found)
            missing -= len(found)
        return torch.cat(parts)

    def _trials(self, count: int) -> Tensor:
        """The accepted ones of `count` trials, in their order."""
        first, second = self._bits.int64(2 * count).split(count)
        fraction = first.bitwise_and((1 << self._scale_bits) - 1)
        coin = self._coin(first, _COIN_AT)
        edges_below = torch.zeros_like(coin, dtype=torch.int8)
        unsettled = torch.zeros_like(coin, dtype=torch.bool)
        for edge in self._whole:
            edges_below += coin >= edge
            unsettled |= coin == edge
        whole = edges_below.long()

        exponent = self._exponent(fraction, whole)
        self._coarse = table = self._coarse.to(first.device)
        bound = table.index_select(0, (exponent >> _FINE_BITS).clamp_(max=len(table) - 1))
        coin = self._coin(second, _COIN_AT)
        yes, no = coin < bound, coin > bound

        # 1 - x <= exp(-x) <= 1 - x + x^2/2, and x^2/2 <= x / 2^11, for x < 2^-10.
        x = exponent.bitwise_and_((1 << _FINE_BITS) - 1) >> (_EXPONENT_BITS - self._coin_bits)
        coin = self._coin(second, 0)
        least = (1 << self._coin_bits) - x
        yes &= coin <= least - 2
        no |= coin >= least + (((x + 1) >> (_COARSE_BITS + 1)) + 1)

        unsettled |= ~(yes | no)
        if unsettled.any():
            for at in unsettled.nonzero().flatten().tolist():
                whole[at], yes[at] = self._settle(int(first[at]), int(second[at]))
        magnitude = whole.bitwise_left_shift_(self._scale_bits).add_(fraction)
        negative = (first >> _SIGN_AT).bitwise_and_(1)
        yes &= (magnitude > 0) | (negative == 0)
        return magnitude.mul_(1 - 2 * negative)[yes]

    def _exponent(self, fraction: Tensor, whole: Tensor) -> Tensor:
        """u (u + 2 v) / 2 in units of 2^-49; whole parts that are not settled may be wrong."""
        twice = (whole << (self._scale_bits + 1)).add_(fraction)
        return twice.mul_(fraction) << (_EXPONENT_BITS - 2 * self._scale_bits - 1)

    def _coin(self, words: Tensor, at: int) -> Tensor:
        """The upper `coin_bits` of the 32 bits that stand `at` a place of each word."""
        shift = at + _COIN_BITS - self._coin_bits
        return (words >> shift).bitwise_and_((1 << self._coin_bits) - 1)

    def _settle(self, first: int, second: int) -> tuple[int, bool]:
        """A trial's whole part, and whether it is accepted, to the last bit."""
        fraction = first & ((1 << self._scale_bits) - 1)
        real = self._real(first, _COIN_AT)
        whole = 0
        while not real.below(partial(whole_bounds, whole)):
            whole += 1
        exponent = fraction * (fraction + (whole << (self._scale_bits + 1)))
        exponent <<= _EXPONENT_BITS - 2 * self._scale_bits - 1
        coarse = Fraction(exponent >> _FINE_BITS, 1 << _COARSE_BITS)
        fine = Fraction(exponent % (1 << _FINE_BITS), 1 << _EXPONENT_BITS)
        accepted = self._real(second, _COIN_AT).below(partial(exp_bounds, coarse)) and self._real(
            second, 0
        ).below(partial(exp_bounds, fine))
        return whole, accepted

    def _real(self, word: int, at: int) -> "_Real":
        shift = at + _COIN_BITS - self._coin_bits
        prefix = (word >> shift) & ((1 << self._coin_bits) - 1)
        return _Real(prefix, self._coin_bits, self._bits)


class _Real:
    """A uniform real number in [0, 1), of which as many bits are drawn as are asked for."""

    def __init__(self, prefix: int, length: int, source: Bits) -> None:
        self._prefix, self._length, self._source = prefix, length, source

    def below(self, bounds: Callable[[int], Bounds]) -> bool:
        """Is it below the number p with lower <= p 2^bits <= upper, for `bounds(bits)`?"""
        while True:
            lower, upper = bounds(self._length)
            if self._prefix < lower:  # so it is, whatever the bits to come
                return True
            if self._prefix >= upper:
                return False
            more = int(self._source.int64(1).item()) & (1 << 64) - 1
            self._prefix, self._length = self._prefix << 64 | more, self._length + 64


@lru_cache(maxsize=4096)
def exp_bounds(x: Fraction, bits: int) -> Bounds:
    """Integers around exp(-x) 2^bits, for x >= 0.

    Source: the alternating series of exp(-y), 0 <= y <= 1, whose partial sums lie on both
        sides; and exp(-x) = exp(-x / n)^n.
    """
    parts = max(1, -(-x.numerator // x.denominator))
    y, unit = x / parts, 1 << (bits + _GUARD_BITS)
    lower = upper = unit
    least, most = unit, unit  # around the partial sum
    small, large, number = unit, unit, 0  # around its last term
    while number == 0 or large > 1:
        number += 1
        divisor = y.denominator * number
        small, large = small * y.numerator // divisor, -(-large * y.numerator // divisor)
        if number % 2:
            least, most = least - large, most - small
            lower = least
        else:
            least, most = least + small, most + large
            upper = most
    if parts > 1:
        lower = lower**parts // unit ** (parts - 1)
        upper = -(-(upper**parts) // unit ** (parts - 1))
    return lower >> _GUARD_BITS, -(-upper >> _GUARD_BITS)


@lru_cache(maxsize=1024)
def whole_bounds(whole: int, bits: int) -> Bounds:
    """Integers around 2^bits times the probability that the whole part is at most `whole`."""
    precise = bits + _GUARD_BITS
    last = whole + 1
    while last * last < 2 * precise:
        last += 1
    terms = [exp_bounds(Fraction(v * v, 2), precise) for v in range(last + 1)]
    lower, upper = (sum(term[side] for term in terms[: whole + 1]) for side in (0, 1))
    rest_lower, rest_upper = (sum(term[side] for term in terms[whole + 1 :]) for side in (0, 1))
    rest_upper += terms[last][1]  # each further term is less than half of the one before
    return (
        (lower << bits) // (lower + rest_upper),
        -(-(upper << bits) // (upper + rest_lower)),
    )


@lru_cache(maxsize=_COIN_BITS)
def _tables(coin_bits: int) -> tuple[tuple[int, ...], Tensor]:
    """The integer parts of 2^coin_bits P(v <= 0), P(v <= 1), … and of that times exp(-i / 2^10).

    What is 1 is entered as the largest number of so many bits; there, equality does not
    settle anything, and so it is right for it too.
    """
    whole: list[int] = []
    number = 0
    while not whole or whole[-1] < (1 << coin_bits) - 1:
        whole.append(whole_bounds(number, coin_bits)[0])
        number += 1
    precise = 4 * _GUARD_BITS
    step = exp_bounds(Fraction(1, 1 << _COARSE_BITS), precise)[0]
    coarse, exact = [(1 << coin_bits) - 1], 1 << precise
    while coarse[-1] > 0:
        exact = exact * step >> precise
        coarse.append(exact >> (precise - coin_bits))
    return tuple(whole), torch.tensor(coarse)
