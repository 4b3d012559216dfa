"""Corruptions of images, to measure how robust a network is: noise, blur, fog, rotation, lines, and others.

They follow MNIST-C (Mu and Gilmer 2019, https://arxiv.org/abs/1906.02337), each at a single strength. Gaussian noise,
Gaussian blur and straight lines replace several related kinds of it.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..images import SIZE
from .augmentation import affine_grid, resample


def list_corruptions() -> list[str]:
    """Return the kinds of corruption."""
    return list(_KINDS)


def corrupt(images: Tensor, kind: str, seed: int = 0) -> Tensor:
    """Corrupt images, each with random numbers of its own.

    Args:
        images: uint8 (N, 28, 28).
        kind: one of `list_corruptions()`.
        seed: seed of all random numbers.

    Returns:
        uint8 (N, 28, 28).

    Raises:
        InputError: If the kind is unknown.
    """
    if kind not in _KINDS:
        raise InputError(f"corruption={kind}: expected one of {', '.join(_KINDS)}")
    corrupted = _KINDS[kind](images.cpu().float(), torch.Generator().manual_seed(seed))
    return corrupted.round().clamp(0, 255).byte().to(images.device)


def _blur(x: Tensor) -> Tensor:
    """Convolve with a Gaussian of a standard deviation of 1.5 pixels."""
    weights = torch.exp(-0.5 * (torch.arange(-4, 5) / 1.5) ** 2)
    weights = torch.outer(weights, weights) / weights.sum() ** 2
    return F.conv2d(x.unsqueeze(1), weights[None, None], padding=4).squeeze(1)


def _transformed(x: Tensor, **changes: Tensor) -> Tensor:
    """Apply an affine transformation; for its arguments see `affine_grid`."""
    zeros = torch.zeros(len(x))
    identity = {"angle": zeros, "size": torch.ones(len(x)), "shear": zeros, "shift_x": zeros, "shift_y": zeros}
    return resample(x, affine_grid(**identity | changes))


def _stripes(x: Tensor) -> Tensor:
    """Invert stripes two pixels wide."""
    columns = torch.arange(SIZE)
    return torch.where((columns % 8 >= 3) & (columns % 8 < 5), 255 - x, x)


def _lines(x: Tensor, generator: Generator) -> Tensor:
    """Draw a straight line 1.5 pixels wide through a point near the middle."""
    angle = math.pi * torch.rand(len(x), 1, 1, generator=generator)
    middle = (SIZE - 1) / 2 + 6 * (2 * torch.rand(2, len(x), 1, 1, generator=generator) - 1)
    positions = torch.arange(SIZE)
    distance = (positions[:, None] - middle[0]) * angle.cos() - (positions - middle[1]) * angle.sin()
    return torch.maximum(x, 255 * (1.25 - distance.abs()).clamp(0, 1))


def _signs(x: Tensor, generator: Generator) -> Tensor:
    """Draw -1 or 1 for each image, float32 (N,)."""
    return 2.0 * torch.randint(0, 2, (len(x),), generator=generator) - 1


def _clouds(x: Tensor, knots: int, generator: Generator) -> Tensor:
    """Draw smooth random fields (N, 28, 28), mostly from 0 to 1; more knots make them finer."""
    heights = torch.rand(len(x), 1, knots, knots, generator=generator)
    return F.interpolate(heights, (SIZE, SIZE), mode="bicubic", align_corners=True).squeeze(1)


_SHIFT = 4 * 2 / SIZE  # four pixels, in halves of an image

# Functions of images float32 (N, 28, 28), 0 to 255, and a generator. The corrupted images can exceed this range.
_KINDS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "noise": lambda x, random: x + 64 * torch.randn(x.shape, generator=random),
    "blur": lambda x, random: _blur(x),
    "shear": lambda x, random: _transformed(x, shear=0.4 * _signs(x, random)),
    "scale": lambda x, random: _transformed(x, size=torch.where(_signs(x, random) > 0, 1.3, 0.65)),
    "rotation": lambda x, random: _transformed(x, angle=math.radians(30) * _signs(x, random)),
    "brightness": lambda x, random: x + 96,
    "stripes": lambda x, random: _stripes(x),
    "fog": lambda x, random: 0.6 * x + 128 * _clouds(x, 4, random),
    "spatter": lambda x, random: torch.where(_clouds(x, 12, random) > 0.85, 255.0, x),
    "lines": _lines,
    "translation": lambda x, random: _transformed(
        x, shift_x=_SHIFT * _signs(x, random), shift_y=_SHIFT * _signs(x, random)
    ),
}
