"""Gaussian noise from the cryptographic generator.

What `GaussianNoise` does not promise: float safety. The noise is a float64 Box–Muller
variate rounded to the gradient's float32; the set of values it can take is not that of a
real Gaussian, and an adversary who sees exact floating-point outputs may use that
(Mironov 2012, CCS; Haney et al. 2022, arXiv:2207.13793). The tails end at 8.57 standard
deviations, where a true Gaussian has 1e-17 of its mass. `training.mechanism.noise:
discrete` is the option without these: see `discrete_noise`.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lethe.core.errors import TrainingRefused
from lethe.privacy.noise.chacha import bits_on
from lethe.privacy.noise.discrete import DiscreteNoise
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import Plan

_MANTISSA = (1 << 53) - 1


class Noise(Protocol):
    """What is added to a step's clipped sum."""

    def add(self, sums: Sequence[Tensor], *, standard_deviation: float) -> list[Tensor]:
        """New tensors, each entry with noise of its own."""
        ...


def make_noise(plan: Plan, keystream: Keystream, device: torch.device | str = "cpu") -> Noise:
    """The plan's noise, of bits that are made on `device`."""
    if plan.noise == "discrete":
        return DiscreteNoise(keystream, device, noise_multiplier=plan.noise_multiplier)
    return GaussianNoise(keystream, device)


class GaussianNoise:
    """Independent normal variates of a keystream, on any device.

    Bits and transform are made on `device`: by AES on the CPU, by ChaCha20 elsewhere.
    """

    def __init__(self, keystream: Keystream, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._bits = bits_on(self._device, keystream)

    def normal(self, count: int) -> Tensor:
        """Standard normal variates, float32 [count].

        Source: Box and Muller (1958), Ann. Math. Statist. 29(2).
        """
        pairs = (count + 1) // 2
        bits = self._bits.int64(2 * pairs)
        # 53 bits of each, as multiples of 2^-53 in (0, 1]: the logarithm is finite.
        uniform = bits.bitwise_right_shift_(11).bitwise_and_(_MANTISSA).add_(1).double()
        uniform.mul_(2.0**-53)
        radius = uniform[:pairs].log_().mul_(-2.0).sqrt_()
        angle = uniform[pairs:].mul_(2.0 * math.pi)
        out = torch.empty(2 * pairs, dtype=torch.float32, device=self._device)
        torch.mul(radius, angle.cos(), out=out[:pairs])
        torch.mul(radius, angle.sin_(), out=out[pairs:])
        return out[:count]

    def add(self, sums: Sequence[Tensor], *, standard_deviation: float) -> list[Tensor]:
        """New tensors: each entry of `sums` plus its own normal variate.

        Guarantee: no two entries share a variate, and none is used twice.
        """
        if not (math.isfinite(standard_deviation) and standard_deviation > 0):
            raise TrainingRefused(
                f"Noise of standard deviation {standard_deviation!r} protects nobody."
            )
        flat = self.normal(sum(t.numel() for t in sums)).mul_(standard_deviation)
        parts = flat.split([t.numel() for t in sums])
        return [t + part.view_as(t) for t, part in zip(sums, parts, strict=True)]
