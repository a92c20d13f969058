"""Noise whose last bits reveal nothing: a discrete Gaussian on one public grid.

The clipped sum is rounded to whole numbers of a grid's steps, and whole numbers from the
discrete Gaussian law are added. What is released is a step times a whole number, whatever
the sum was: its set of possible values does not depend on the data, and each has exactly
the probability that the law gives it. Floating-point noise has neither property (Mironov
2012, CCS; Haney et al. 2022, arXiv:2207.13793).

Let S = 2^24 be the whole numbers' parameter, C the clip, d the coordinates, z the noise
multiplier, r = 8. Why the price is that of `GaussianDpEvent(z)`:

*Sensitivity.* Rounding moves each coordinate by less than one step, so two sums apart by
C(1 + m) are apart by at most C(1 + m) / step + 2 sqrt(d) steps. `grid_step` is the step at
which z times that is sqrt(S^2 - r^2): so the step is larger than z C / S, by 0.01 % for the
margin m and by z sqrt(d) / 2^23 for the rounding.

*Law.* For whole c, D(c, S) is the law of c plus the noise. Drawing x from the real normal
law N(c, S^2 - r^2) and then a whole number from D(x, r) gives it too, up to factors
within e^(+-3 eta), eta = 2 exp(-2 pi^2 r^2) (1 + tiny) < 10^-548, since the sum of
exp(-(k - x)^2 / 2 r^2) over all whole k is r sqrt(2 pi) (1 +- eta) for every real x
(Poisson summation; Peikert 2010, CRYPTO, theorem 3.1). So the release is a randomized
rounding of the real Gaussian mechanism's, which is post-processing; and the same for a
Poisson sample, which is a mixture of such laws. Every bound of the accounting carries over:
RDP at every order, PLD, groups, adaptive composition, but for 6 d eta of privacy loss a
step, under 10^-530 for d up to 10^12.

For RDP of whole orders k there is a second proof that needs neither: the sums
E_Q[(P/Q)^k] of two discrete Gaussians a whole number apart equal the integrals of the
normal law's, term by term, and the reflection that makes "remove" the worse direction maps
whole numbers to whole numbers (Mironov, Talwar and Zhang 2019, arXiv:1908.10530, theorem
5; Canonne, Kamath and Steinke 2020, arXiv:2004.00010, proposition 5).

What is not promised. The clipped sum itself is computed in float32, where a person can
move it by more than the clip (Casacuberta et al. 2022, arXiv:2207.10635). The audit
measures by how much, on steps of up to 512 people; the margin m covers what it lets pass.
For larger steps, or against data made to provoke rounding, m is no proof. How long a step
takes is not hidden.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lethe.core.errors import NotFinite, TrainingRefused
from lethe.privacy.noise.chacha import bits_on
from lethe.privacy.noise.discrete_gaussian import SCALE_BITS, DiscreteGaussian
from lethe.privacy.noise.sampling import Keystream

SCALE = 1 << SCALE_BITS  # S, in steps of the grid
SUM_MARGIN = 1e-4  # m, of the clip: by how much float32 sums may move further
_SMOOTHING = 8  # r, in steps
_ROUNDING = 2.0  # per coordinate, in steps: each of two sums is off by less than one
_MOST_STEPS = float(1 << 52)  # a quotient below it is off by a quarter of a step at most
_UPWARDS = 1 + 2.0**-40  # more than the formula's own rounding


def grid_step(noise_multiplier: float, standard_deviation: float, coordinates: int) -> float:
    """The step of the public grid; the noise has the standard deviation `SCALE` times it.

    Guarantee: noise_multiplier times the sensitivity in steps, the rounding and the margin
        included, is at most sqrt(SCALE^2 - 64).
    Args:
        standard_deviation: the plan's, noise multiplier times clip.

    Raises:
        TrainingRefused: the grid is too coarse for so much noise in so many coordinates.
    """
    whole = math.sqrt(SCALE**2 - _SMOOTHING**2)
    room = whole - _ROUNDING * noise_multiplier * math.sqrt(coordinates)
    if not room > SCALE / 2:
        raise TrainingRefused(
            f"Discrete noise at noise_multiplier={noise_multiplier:g} in {coordinates} parameters "
            "would have to be more than doubled to cover rounding. Train a smaller model, lower "
            "noise_multiplier, or use noise: gaussian."
        )
    return standard_deviation * (1 + SUM_MARGIN) / room * _UPWARDS


class DiscreteNoise:
    """Rounds sums to a public grid and adds discrete Gaussian noise, on any device.

    Guarantees: what is released is a whole multiple of `grid_step`, rounded to float32;
        its law is that of the plan's Gaussian event, as the module shows.
    """

    def __init__(
        self,
        keystream: Keystream,
        device: torch.device | str = "cpu",
        *,
        noise_multiplier: float,
    ) -> None:
        self._integers = DiscreteGaussian(bits_on(torch.device(device), keystream))
        self._noise_multiplier = noise_multiplier

    def add(self, sums: Sequence[Tensor], *, standard_deviation: float) -> list[Tensor]:
        """New tensors: each entry of `sums`, rounded to the grid, plus a whole number of steps.

        Guarantee: no two entries share a variate, and none is used twice.

        Raises:
            NotFinite: a sum is NaN or infinite.
            TrainingRefused: see `grid_step`.
        """
        sizes = [t.numel() for t in sums]
        step = grid_step(self._noise_multiplier, standard_deviation, sum(sizes))
        if not (math.isfinite(step) and step > 0):
            raise TrainingRefused(
                f"Noise of standard deviation {standard_deviation!r} protects nobody."
            )
        flat = torch.cat([t.detach().flatten() for t in sums])
        if not torch.isfinite(flat).all():
            raise NotFinite("A sum of gradients is NaN or infinite. The run counts as spent.")
        released = to_grid(flat, step).add_(self._integers.draw(len(flat)))
        noisy = released.double().mul_(step).to(flat.dtype)
        return [part.view_as(t) for t, part in zip(sums, noisy.split(sizes), strict=True)]


def to_grid(flat: Tensor, step: float) -> Tensor:
    """Each entry as the nearest whole number of steps, int64.

    Guarantee: two sums are apart by at most their distance over `step` plus 2 sqrt(d) steps,
        in L2: an entry is off by less than one step, and one that has more than 2^52 of
        them stays there, which brings no two sums further apart.
    """
    steps = flat.double().div_(step).clamp_(-_MOST_STEPS, _MOST_STEPS)
    return steps.round_().to(torch.int64)
