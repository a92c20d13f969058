"""A fixed wavelet scattering of 28×28 images: features that have seen no data.

An image passes through the moduli of wavelets of two scales and eight directions, and of
wavelets of these moduli; each result is smoothed and read at a coarse grid. Nothing is
learnt, and an image's features depend on that image alone: no privacy is spent on them.

The filters and their constants are those of the customary bank (Morlet wavelets, sigma
0.8 * 2^j, slant 4/8, frequency 3/4 pi / 2^j; Gaussian of sigma 0.8 * 2). With two scales
and eight directions there are 1 + 16 + 64 = 81 channels.

Source: Bruna and Mallat (2013), arXiv:1203.1513; for private training, with the
    normalization of groups of channels within an image, Tramer and Boneh (2021),
    arXiv:2011.11660.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS = 8
CHANNELS = 1 + 2 * DIRECTIONS + DIRECTIONS**2
IMAGE = 28
_FIELD = 32  # the image with a border of two pixels of nothing, as the transform wants
_SPACING = 4  # pixels between points of the coarse grid: two scales
_BLUR = 1.6
_GROUPS = 27  # of three channels each
_CHUNK = 100


def scattered(
    images: Tensor, *, shifts: Sequence[tuple[float, float]] = ((0, 0),), grid: int = 7
) -> Tensor:
    """Features of each image, of copies of it moved by each of `shifts`.

    Guarantee: a row depends on its own image and on constants.
    Args:
        images: uint8 [n, 28, 28].
        shifts: (down, right) in pixels. A move costs little: the grid is read elsewhere.
        grid: points of the grid along each side, about the image's middle.

    Shapes: float32 [n, len(shifts), 81 * grid * grid]; every group of three channels of a
        copy has mean 0 and variance 1.
    """
    out = torch.empty(len(images), len(shifts), CHANNELS * grid * grid)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK].float() / 255
        raw = coefficients(part, shifts=shifts, grid=grid)
        normal = F.group_norm(raw.flatten(0, 1), _GROUPS)
        out[start : start + len(part)] = normal.view(len(part), len(shifts), -1)
    return out


def coefficients(
    images: Tensor, *, shifts: Sequence[tuple[float, float]] = ((0, 0),), grid: int = 7
) -> Tensor:
    """The scattering itself, before normalization: [n, shifts, 81, grid, grid].

    `images` is float32 [n, 28, 28]. Channels: the image; then by scale and direction of
    the first wavelet; then by directions of the first and the second.
    """
    first, second = _moduli(images)
    read = [_readers(shift, grid) for shift in shifts]
    parts = []
    for field, matrix in (
        (first, torch.cat([fine for fine, _ in read], 1)),
        (second, torch.cat([coarse for _, coarse in read], 1)),
    ):
        values = field.flatten(2) @ matrix
        parts.append(values.view(*field.shape[:2], len(shifts), grid, grid))
    return torch.cat(parts, 1).transpose(1, 2)


def _moduli(images: Tensor) -> tuple[Tensor, Tensor]:
    """[n, 17, 32, 32] image and first moduli; [n, 64, 16, 16] second ones, every other pixel."""
    n, edge = len(images), (_FIELD - IMAGE) // 2
    field = F.pad(images, (edge, edge, edge, edge))
    spectrum = torch.fft.fft2(field).unsqueeze(1)
    fine, coarse = wavelets(0), wavelets(1)
    first = _modulus(torch.fft.ifft2(spectrum * fine))
    second = _modulus(torch.fft.ifft2(spectrum * coarse))
    again = torch.fft.fft2(first).unsqueeze(2)
    # To keep every other pixel is to fold the spectrum: a quarter of the inverse transform.
    half = _FIELD // 2
    corners = [(a, b) for a in (0, half) for b in (0, half)]
    folded = torch.zeros(n, DIRECTIONS, DIRECTIONS, half, half, dtype=torch.complex64)
    for a, b in corners:
        here = (..., slice(a, a + half), slice(b, b + half))
        folded.addcmul_(again[here], coarse[here] / len(corners))
    twice = _modulus(torch.fft.ifft2(folded)).flatten(1, 2)
    return torch.cat([field.unsqueeze(1), first, second], 1), twice


def _modulus(numbers: Tensor) -> Tensor:
    return torch.view_as_real(numbers).square().sum(-1).sqrt()  # faster than abs()


@lru_cache
def wavelets(scale: int) -> Tensor:
    """Spectra of the Morlet wavelets of a scale: complex64 [8, 32, 32], each 0 at 0."""
    found = []
    for direction in range(DIRECTIONS):
        angle = math.pi * direction / DIRECTIONS
        wave = _gabor(0.8 * 2**scale, angle, 0.75 * math.pi / 2**scale)
        envelope = _gabor(0.8 * 2**scale, angle, 0.0)
        found.append(torch.fft.fft2(wave - envelope * (wave.sum() / envelope.sum())))
    return torch.stack(found).to(torch.complex64)


def _gabor(sigma: float, angle: float, frequency: float) -> Tensor:
    """A wave under an oblong Gaussian, wrapped round the field: complex128 [32, 32]."""
    slant = 4 / DIRECTIONS
    reach = torch.arange(-2 * _FIELD, 3 * _FIELD, dtype=torch.float64)
    down, right = torch.meshgrid(reach, reach, indexing="ij")
    along = down * math.cos(angle) + right * math.sin(angle)
    across = right * math.cos(angle) - down * math.sin(angle)
    decay = -(along.square() + (slant * across).square()) / (2 * sigma**2)
    wave = torch.exp(torch.complex(decay, frequency * along))
    wrapped = wave.view(5, _FIELD, 5, _FIELD).sum((0, 2))
    return wrapped / (2 * math.pi * sigma**2 / slant)


@lru_cache
def _readers(shift: tuple[float, float], grid: int) -> tuple[Tensor, Tensor]:
    """What smooths a field and reads it at the grid: float32 [32 * 32, grid^2], [16 * 16, ...]."""
    middle = (_FIELD - 1) / 2
    offsets = _SPACING * (torch.arange(grid, dtype=torch.float64) - (grid - 1) / 2)
    sides = []
    for stride in (1, 2):
        pixels = torch.arange(0, _FIELD, stride, dtype=torch.float64)
        down, right = (
            torch.exp(-(pixels - (middle + offsets - moved).unsqueeze(1)).square() / (2 * _BLUR**2))
            * (stride / (_BLUR * math.sqrt(2 * math.pi)))
            for moved in shift
        )
        weights = torch.kron(down.contiguous(), right.contiguous()).t()
        # Weights too small to matter would make denormal products, a hundred times slower.
        sides.append(weights.masked_fill(weights < 1e-9, 0.0).float().contiguous())
    return sides[0], sides[1]
