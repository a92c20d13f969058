"""Random bits where the noise is needed: AES on the host, ChaCha20 on the accelerator.

On a CUDA device the bits are made there, by ChaCha20 in integer operations of PyTorch, so
that nothing is moved and the host is not waited for. Its key is 256 bits of the run's
keystream, which the operating system keyed, and no other stream has it.
"""

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from lethe.core.errors import TrainingRefused
from lethe.privacy.noise.sampling import KEY_BYTES, Keystream

REFILL_BLOCKS = 1 << 18  # 16 MiB: the twenty rounds' small kernels pay for many steps at once
_WORDS = 8  # of 64 bits in a block of 64 bytes
_LAST_BLOCK = 1 << 62
_CONSTANTS = b"expand 32-byte k"

# RFC 8439, section 2.3.2: the block of key 00 01 … 1f, counter 1, nonce 00000009 0000004a 00000000.
_KNOWN_COUNTER = 1 | 0x09000000 << 32
_KNOWN_NONCE = bytes.fromhex("0000004a00000000")
_KNOWN_BLOCK = bytes.fromhex(
    "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
    "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
)


class Bits(Protocol):
    """A source of random bits on one device."""

    def int64(self, count: int) -> Tensor:
        """The next `count` uniform 64-bit numbers, as int64 [count]; the caller's to change."""
        ...


class HostBits:
    """The keystream itself, for noise on the CPU."""

    def __init__(self, keystream: Keystream) -> None:
        self._keystream = keystream

    def int64(self, count: int) -> Tensor:
        return torch.from_numpy(self._keystream.uint64(count).view("int64"))


class ChaCha20:
    """Uniform 64-bit numbers from ChaCha20, made on any device of PyTorch.

    The counter of 32 bits and the nonce's first word count blocks as one number of 64
    bits: where the RFC's counter would come back to 0, the next nonce begins.

    Guarantees: no part of the stream is ever given twice; a device whose integer
        arithmetic does not give the RFC's own block is refused.
    Source: Nir and Langley (2018), RFC 8439.
    """

    def __init__(
        self,
        key: bytes,
        device: torch.device | str = "cpu",
        *,
        first_block: int = 0,
        refill_blocks: int = REFILL_BLOCKS,
    ) -> None:
        """Args: first_block, refill_blocks: for tests; they change no bit of the stream.

        Raises:
            TrainingRefused: the key is of another length, or the device fails the test.
        """
        if len(key) != KEY_BYTES:
            raise TrainingRefused(f"ChaCha20 takes a key of {KEY_BYTES} bytes, not {len(key)}.")
        self._device = torch.device(device)
        _check(self._device)
        self._key = _words(key).to(self._device)
        self._next, self._refill = first_block, refill_blocks
        self._left = torch.empty(0, dtype=torch.int64, device=self._device)

    def int64(self, count: int) -> Tensor:
        missing = count - len(self._left)
        if missing > 0:
            blocks = max(self._refill, -(-missing // _WORDS))
            if self._next + blocks > _LAST_BLOCK:
                raise TrainingRefused("The keystream is at its end. Start another run.")
            made = chacha_blocks(self._key, self._next, blocks, bytes(8))
            self._next += blocks
            self._left = torch.cat([self._left, made]) if len(self._left) else made
        given, self._left = self._left[:count], self._left[count:]
        return given


def bits_on(device: torch.device, keystream: Keystream) -> Bits:
    """Bits for noise on `device`, of a stream that nothing else reads."""
    if device.type == "cpu":
        return HostBits(keystream)
    return ChaCha20(keystream.uint64(KEY_BYTES // 8).tobytes(), device)


def chacha_blocks(key: Tensor, first: int, count: int, nonce: bytes) -> Tensor:
    """Blocks `first` to `first + count` of a stream, one after another, on the key's device.

    Args:
        key: int32 [8].
        nonce: the last 8 of the RFC's 12 bytes; its first 4 are the upper half of `first`.
    Shapes: int64 [8 * count].
    """
    number = torch.arange(first, first + count, dtype=torch.int64, device=key.device)
    start = torch.empty(16, count, dtype=torch.int32, device=key.device)
    start[0:4] = _words(_CONSTANTS).to(key.device)[:, None]
    start[4:12] = key[:, None]
    start[12] = _low_half(number)
    start[13] = _low_half(number >> 32)
    start[14:16] = _words(nonce).to(key.device)[:, None]
    a, b, c, d = (rows.clone() for rows in start.split(4))
    for _ in range(10):
        _quarter_rounds(a, b, c, d)
        # The diagonals become columns, and columns again.
        b, c, d = b.roll(-1, 0), c.roll(-2, 0), d.roll(-3, 0)
        _quarter_rounds(a, b, c, d)
        b, c, d = b.roll(1, 0), c.roll(2, 0), d.roll(3, 0)
    start.add_(torch.cat([a, b, c, d]))
    return start.t().flatten().view(torch.int64)


def _quarter_rounds(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> None:
    """Four of them side by side, in place; sums wrap around at 32 bits.

    Shapes: int32 [4, blocks] each.
    """
    for one, other, onto, left in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        one.add_(other)
        onto.bitwise_xor_(one)
        # >> copies the sign; what it copied is masked away.
        right = onto.bitwise_right_shift(32 - left).bitwise_and_((1 << left) - 1)
        onto.bitwise_left_shift_(left).bitwise_or_(right)


def _low_half(number: Tensor) -> Tensor:
    """The lower 32 bits of each, as the int32 that has them."""
    low = number.bitwise_and(0xFFFFFFFF)
    return torch.where(low >= 1 << 31, low - (1 << 32), low).to(torch.int32)


def _words(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.int32)


@lru_cache(maxsize=16)
def _check(device: torch.device) -> None:
    key = _words(bytes(range(32))).to(device)
    found = chacha_blocks(key, _KNOWN_COUNTER, 1, _KNOWN_NONCE).cpu()
    if found.numpy().tobytes() != _KNOWN_BLOCK:
        raise TrainingRefused(
            f"ChaCha20 on {device} does not give the block that RFC 8439 prints. Train on the CPU."
        )
