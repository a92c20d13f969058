"""The fixed features of the image benchmark: what is known of them without any data."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.scattering import CHANNELS, DIRECTIONS, coefficients, scattered, wavelets


def strokes(count: int = 3) -> Tensor:
    """Blurred dots and bars amid an empty border, float32 [count, 28, 28]."""
    numbers = torch.Generator().manual_seed(5)
    images = torch.zeros(count, 28, 28)
    images[:, 9:19, 9:19] = torch.rand(count, 10, 10, generator=numbers)
    images[:, 12, 9:19] = 1.0
    return images


def spectrum_of_a_morlet_wavelet(scale: int, direction: int) -> np.ndarray:
    """By formula: a Gaussian about the wave's frequency, less its part at 0, aliased.

    Source: Mallat, A Wavelet Tour of Signal Processing (3rd ed.), section 4.3; the transform of
    a Gaussian is a Gaussian.
    """
    sigma, frequency, slant = 0.8 * 2**scale, 0.75 * math.pi / 2**scale, 0.5
    angle = math.pi * direction / 8
    turns = 2 * math.pi * (np.arange(32)[:, None] / 32 + np.arange(-3, 4)[None, :])
    down, right = turns[:, :, None, None], turns[None, None, :, :]
    along = down * math.cos(angle) + right * math.sin(angle)
    across = right * math.cos(angle) - down * math.sin(angle)

    def gaussian(centre: float) -> np.ndarray:
        decay = (sigma * (along - centre)) ** 2 + (sigma / slant * across) ** 2
        return np.exp(-decay / 2).sum((1, 3))

    wave, envelope = gaussian(frequency), gaussian(0.0)
    return wave - envelope * wave[0, 0] / envelope[0, 0]


@pytest.mark.parametrize("scale", [0, 1])
def test_wavelets_are_morlets(scale: int) -> None:
    for direction in range(DIRECTIONS):
        expected = spectrum_of_a_morlet_wavelet(scale, direction)
        found = wavelets(scale)[direction].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_bank_sees_no_even_brightness_and_expands_no_image() -> None:
    whole = torch.zeros(32, 32)
    for bank in (wavelets(0), wavelets(1)):
        assert bank[:, 0, 0].abs().max() < 1e-7
        mirrored = bank.flip(1, 2).roll((1, 1), (1, 2))
        whole += (bank.abs().square() + mirrored.abs().square()).sum(0) / 2
    assert 0.5 < float(whole.max()) <= 1.0  # the Littlewood-Paley sum


def test_quarter_turn_of_an_image_turns_the_directions() -> None:
    images = strokes()
    turned = coefficients(images.rot90(1, (1, 2)))[:, 0]
    expected = coefficients(images)[:, 0].rot90(1, (2, 3))
    torch.testing.assert_close(turned[:, 0], expected[:, 0])
    for scale in (slice(1, 9), slice(9, 17)):
        torch.testing.assert_close(turned[:, scale], expected[:, scale].roll(4, 1))
    twice, awaited = (x[:, 17:].unflatten(1, (8, 8)) for x in (turned, expected))
    # Every other pixel is another one after the turn: equal but for what folds over.
    torch.testing.assert_close(twice, awaited.roll((4, 4), (1, 2)), atol=0.01, rtol=0.05)


def test_image_moved_by_the_spacing_moves_the_grid() -> None:
    images = strokes()
    moved = coefficients(images.roll(4, 1))[:, 0]
    torch.testing.assert_close(
        moved[:, :, 1:], coefficients(images)[:, 0, :, :-1], atol=1e-5, rtol=1e-4
    )


def test_shift_reads_what_a_moved_image_gives() -> None:
    images = strokes()
    both = coefficients(images, shifts=((0, 0), (2, -2)))
    moved = coefficients(images.roll((2, -2), (1, 2)))
    torch.testing.assert_close(both[:, 1], moved[:, 0], atol=5e-5, rtol=1e-4)
    assert (both[:, 0] - both[:, 1]).abs().max() > 0.05


def test_features_depend_on_their_own_image_alone() -> None:
    images = (strokes(250) * 255).to(torch.uint8)
    before = scattered(images, grid=3)
    images[1:] = 255 - images[1:]
    after = scattered(images, grid=3)
    assert torch.equal(before[0], after[0])
    assert (before[1:] != after[1:]).any(2).all()


def test_features_are_normalized_within_one_image() -> None:
    images = (strokes() * 255).to(torch.uint8)
    groups = scattered(images, shifts=((0, 0), (1, 1)), grid=5).view(3, 2, 27, -1)
    assert groups.shape[-1] * 27 == CHANNELS * 25
    torch.testing.assert_close(groups.mean(-1), torch.zeros(3, 2, 27), atol=1e-5, rtol=0)
    assert float(groups.var(-1, correction=0).max()) <= 1.0 + 1e-4
