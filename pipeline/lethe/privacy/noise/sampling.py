"""Who is drawn for a step: Poisson sampling over persons, from a cryptographic generator.

The generator is AES-256 in counter mode under a key from the operating system: what it
gives cannot be distinguished from random without the key, and the key is never written down.
No seed of a file, no state of numpy or torch has a part in it.
"""

import math
import os
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from lethe.core.errors import TrainingRefused

KEY_BYTES = 32


class Keystream:
    """Uniform 64-bit numbers from AES-256-CTR.

    Production makes it by `from_system`; a fixed key is for tests alone.
    Guarantee: no part of the stream is ever given twice, not by a copy in a forked process either.
    Source: NIST SP 800-38A (counter mode).
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise TrainingRefused(f"A keystream takes a key of {KEY_BYTES} bytes, not {len(key)}.")
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        self._zeros = b""
        self._process = os.getpid()

    @classmethod
    def from_system(cls) -> "Keystream":
        """A stream under a fresh key from the operating system."""
        return cls(os.urandom(KEY_BYTES))

    def uint64(self, count: int) -> npt.NDArray[np.uint64]:
        """The next `count` uniform 64-bit numbers.

        Raises:
            TrainingRefused: in a fork of the process that made the stream.
        """
        if os.getpid() != self._process:
            raise TrainingRefused(
                "A keystream was used in a forked process, where it would repeat its parent's "
                "noise. Make one there."
            )
        if len(self._zeros) < 8 * count:
            self._zeros = bytes(8 * count)
        out = np.empty(8 * count + 15, dtype=np.uint8)  # cryptography asks for a block less a byte
        self._encryptor.update_into(memoryview(self._zeros)[: 8 * count], out.data)
        return out[: 8 * count].view(np.uint64)


def poisson_draw(keystream: Keystream, subjects: int, sample_rate: float) -> npt.NDArray[np.int64]:
    """Draws each of `subjects` persons independently with probability `sample_rate`.

    Guarantees: every person's draw is its own 64-bit number, compared with
        floor(sample_rate * 2^64), computed exactly: the probability is at most the
        declared one, and less by no more than 2^-64. Nobody is drawn twice in a step.
    Shapes: the result is int64 [drawn], rising positions; it may be empty.
    Source: Abadi et al. (2016), arXiv:1607.00133.
    """
    if not (math.isfinite(sample_rate) and 0 < sample_rate <= 1):
        raise TrainingRefused(f"sample_rate={sample_rate!r} must be in (0, 1].")
    numbers = keystream.uint64(subjects)
    if sample_rate == 1:
        return np.arange(subjects, dtype=np.int64)
    threshold = math.floor(Fraction(sample_rate) * 2**64)
    return np.flatnonzero(numbers < np.uint64(threshold)).astype(np.int64, copy=False)
