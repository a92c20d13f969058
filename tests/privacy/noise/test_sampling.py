"""Poisson sampling over people from a cryptographic generator."""

import math
import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from lethe.core.errors import TrainingRefused
from lethe.privacy.noise.sampling import Keystream, poisson_draw

KEY = bytes(range(32))


class Fixed(Keystream):
    """A stream of given numbers."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers

    def uint64(self, count: int) -> np.ndarray:
        return np.array(self._numbers[:count], dtype=np.uint64)


def test_the_stream_is_aes_256_in_counter_mode() -> None:
    # NIST SP 800-38A, F.5.5: CTR-AES256.Encrypt, key and first counter block.
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counter)
    assert block.hex() == "0bdf7df1591716335e9a8b15c860c502"
    zero = Cipher(algorithms.AES256(KEY), modes.ECB()).encryptor().update(bytes(16))
    assert Keystream(KEY).uint64(2).tobytes() == zero


def test_no_part_of_the_stream_is_given_twice() -> None:
    whole = Keystream(KEY).uint64(1000)
    stream = Keystream(KEY)
    parts = [stream.uint64(n) for n in (1, 2, 500, 0, 497)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert len(set(whole.tolist())) == 1000


@pytest.mark.parametrize("used", [0, 3])
def test_a_fork_does_not_go_on_with_its_parents_stream(used: int) -> None:
    keystream = Keystream.from_system()
    keystream.uint64(used)
    child = os.fork()
    if child == 0:  # a process of its own: it ends here, whatever happens
        try:
            keystream.uint64(1)
        except TrainingRefused:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(keystream.uint64(1)) == 1


def test_two_streams_of_the_system_differ() -> None:
    first, second = Keystream.from_system(), Keystream.from_system()
    assert not np.array_equal(first.uint64(4), second.uint64(4))


def test_a_short_key_is_refused() -> None:
    with pytest.raises(TrainingRefused, match="32 bytes"):
        Keystream(b"short")


def test_a_person_is_drawn_exactly_when_the_number_is_below_the_rate() -> None:
    quarter = 2**62
    numbers = [0, quarter - 1, quarter, 2**64 - 1, 5]
    assert poisson_draw(Fixed(numbers), 5, 0.25).tolist() == [0, 1, 4]


def test_the_comparison_is_exact_where_floats_are_not() -> None:
    rate = 1 - 2**-53  # as a float32, or a float64 sum, this would be 1
    threshold = 2**64 - 2**11
    assert poisson_draw(Fixed([threshold - 1, threshold]), 2, rate).tolist() == [0]


def test_everybody_is_drawn_at_rate_one_and_nobody_of_nobody() -> None:
    assert poisson_draw(Keystream(KEY), 3, 1.0).tolist() == [0, 1, 2]
    assert poisson_draw(Keystream(KEY), 0, 0.5).tolist() == []


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(TrainingRefused, match="sample_rate"):
        poisson_draw(Keystream(KEY), 3, rate)


@pytest.mark.parametrize("rate", [0.003, 0.1, 0.9])
def test_draws_are_independent_and_binomial(rate: float) -> None:
    """Counts of people and of steps within 5 standard deviations (fixed stream)."""
    stream, people, steps = Keystream(KEY), 2000, 400
    drawn = np.zeros((steps, people), dtype=bool)
    for step in range(steps):
        drawn[step, poisson_draw(stream, people, rate)] = True
    spread = math.sqrt(rate * (1 - rate))
    assert abs(drawn.mean() - rate) < 5 * spread / math.sqrt(steps * people)
    sizes = drawn.sum(1)
    assert sizes.var() == pytest.approx(people * rate * (1 - rate), rel=0.35)  # not a fixed size
    together = (drawn[:, :-1] & drawn[:, 1:]).mean()
    assert together == pytest.approx(rate**2, abs=5 * rate / math.sqrt(steps * people))


def test_nobody_is_drawn_twice_in_a_step() -> None:
    drawn = poisson_draw(Keystream(KEY), 10_000, 0.7)
    assert len(np.unique(drawn)) == len(drawn)
