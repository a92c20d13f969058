"""ChaCha20 in PyTorch's integers: bit for bit the cipher's stream, and no part of it twice."""

import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from lethe.core.errors import TrainingRefused
from lethe.privacy.noise import chacha
from lethe.privacy.noise.chacha import ChaCha20, HostBits, bits_on, chacha_blocks
from lethe.privacy.noise.discrete_gaussian import DiscreteGaussian
from lethe.privacy.noise.gaussian import GaussianNoise
from lethe.privacy.noise.sampling import Keystream

KEY = bytes(range(32))
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="needs a CUDA device: this machine has none"
        ),
    ),
]


def _reference(first: int, blocks: int) -> bytes:
    """The stream by the `cryptography` package, block by block."""
    found = b""
    for number in range(first, first + blocks):
        # Its nonce is the RFC's counter and nonce together, 16 bytes.
        start = (number % 2**32).to_bytes(4, "little") + (number >> 32).to_bytes(4, "little")
        cipher = Cipher(algorithms.ChaCha20(KEY, start + bytes(8)), None)
        found += cipher.encryptor().update(bytes(64))
    return found


def _content(words: torch.Tensor) -> bytes:
    return words.cpu().numpy().tobytes()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("first", [0, 1, 2**31 - 2, 2**32 - 3, 5 * 2**32 - 1])
def test_the_stream_is_the_ciphers_also_where_the_counter_overflows(
    first: int, device: str
) -> None:
    stream = ChaCha20(KEY, device, first_block=first, refill_blocks=3)
    assert _content(stream.int64(48)) == _reference(first, 6)


@pytest.mark.parametrize("device", DEVICES)
def test_no_part_of_the_stream_is_given_twice(device: str) -> None:
    stream = ChaCha20(KEY, device, refill_blocks=2)
    parts = [stream.int64(n).clone() for n in (1, 7, 30, 0, 2, 16, 40)]
    assert _content(torch.cat(parts)) == _reference(0, 12)


def test_what_was_given_may_be_changed_without_a_trace_in_what_follows() -> None:
    stream = ChaCha20(KEY, refill_blocks=2)
    stream.int64(5).zero_()
    assert _content(stream.int64(11)) == _reference(0, 2)[40:]


def test_the_block_that_the_rfc_prints() -> None:
    """RFC 8439, section 2.3.2."""
    key = torch.frombuffer(bytearray(KEY), dtype=torch.int32)
    block = chacha_blocks(key, 1 | 0x09000000 << 32, 1, bytes.fromhex("0000004a00000000"))
    assert _content(block)[:16].hex() == "10f1e7e4d13b5915500fdd1fa32071c4"


def test_a_device_that_does_not_give_the_rfcs_block_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chacha._check.cache_clear()
    monkeypatch.setattr(chacha, "chacha_blocks", lambda *words: torch.zeros(8, dtype=torch.int64))
    with pytest.raises(TrainingRefused, match="RFC 8439"):
        ChaCha20(KEY)
    chacha._check.cache_clear()


def test_a_stream_ends_before_its_counter_does() -> None:
    stream = ChaCha20(KEY, first_block=2**62 - 1, refill_blocks=1)
    stream.int64(8)
    with pytest.raises(TrainingRefused, match="at its end"):
        stream.int64(1)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(TrainingRefused, match="32 bytes"):
        ChaCha20(b"short")


def test_on_the_cpu_bits_are_the_keystreams_own() -> None:
    bits = bits_on(torch.device("cpu"), Keystream(KEY))
    assert isinstance(bits, HostBits)
    assert _content(bits.int64(100)) == Keystream(KEY).uint64(100).tobytes()


def test_elsewhere_each_stream_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come from the run's keystream, which gives none of its parts twice."""
    keys: list[bytes] = []
    monkeypatch.setattr(chacha, "ChaCha20", lambda key, device: keys.append(key))
    keystream = Keystream(KEY)
    for _ in range(2):
        bits_on(torch.device("cuda"), keystream)
    assert b"".join(keys) == Keystream(KEY).uint64(8).tobytes()
    bits_on(torch.device("cuda"), Keystream.from_system())
    assert len(set(keys)) == 3


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: this machine has none"
)
@pytest.mark.parametrize("count", [7, 99_073])
def test_noise_is_made_on_the_device(count: int) -> None:
    noise = GaussianNoise(Keystream(KEY), "cuda")
    assert noise.normal(count).device.type == "cuda"
    key = Keystream(KEY).uint64(4).tobytes()
    there = DiscreteGaussian(ChaCha20(key, "cuda")).draw(count)
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), DiscreteGaussian(ChaCha20(key)).draw(count))
