"""What happens to images on their way to a network: noise, blur, fog, another slant, a line across.

The kinds are like those of MNIST-C (Mu and Gilmer 2019, https://arxiv.org/abs/1906.02337), written anew, each with one
strength; Gaussian noise, Gaussian blur and straight lines stand for its kinds of these. The same seed gives the same
images everywhere.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..images import SIZE


def list_corruptions() -> list[str]:
    """The names that `corrupt` knows."""
    return list(_KINDS)


def corrupt(images: Tensor, kind: str, seed: int = 0) -> Tensor:
    """Spoil images, each in its own way.

    Args:
        images: uint8 (N, 28, 28).
        kind: one of `list_corruptions()`.
        seed: of the random numbers.

    Returns:
        uint8 (N, 28, 28).

    Raises:
        InputError: there is no such kind.
    """
    if kind not in _KINDS:
        raise InputError(f"corruption={kind}: expected one of {', '.join(_KINDS)}")
    spoilt = _KINDS[kind](images.cpu().float(), torch.Generator().manual_seed(seed))
    return spoilt.round().clamp(0, 255).byte().to(images.device)


def _noise(x: Tensor, generator: Generator) -> Tensor:
    return x + 64 * torch.randn(x.shape, generator=generator)


def _blur(x: Tensor, generator: Generator) -> Tensor:
    weights = torch.exp(-0.5 * (torch.arange(-4, 5) / 1.5) ** 2)
    weights = torch.outer(weights, weights) / weights.sum() ** 2
    return F.conv2d(x.unsqueeze(1), weights[None, None], padding=4).squeeze(1)


def _shear(x: Tensor, generator: Generator) -> Tensor:
    return _moved(x, shear=0.4 * _signs(len(x), generator))


def _scale(x: Tensor, generator: Generator) -> Tensor:
    return _moved(x, size=torch.where(_signs(len(x), generator) > 0, 1.3, 0.65))


def _rotation(x: Tensor, generator: Generator) -> Tensor:
    return _moved(x, angle=math.radians(30) * _signs(len(x), generator))


def _translation(x: Tensor, generator: Generator) -> Tensor:
    pixels = 4 * torch.stack([_signs(len(x), generator), _signs(len(x), generator)], 1)
    return _moved(x, pixels=pixels)


def _brightness(x: Tensor, generator: Generator) -> Tensor:
    return x + 96


def _stripes(x: Tensor, generator: Generator) -> Tensor:
    columns = torch.arange(SIZE)
    striped = (columns % 8 >= 3) & (columns % 8 < 5)
    return torch.where(striped, 255 - x, x)


def _fog(x: Tensor, generator: Generator) -> Tensor:
    return 0.6 * x + 128 * _clouds(len(x), 4, generator)


def _spatter(x: Tensor, generator: Generator) -> Tensor:
    return torch.where(_clouds(len(x), 12, generator) > 0.85, 255.0, x)


def _lines(x: Tensor, generator: Generator) -> Tensor:
    """A straight line, a pixel and a half wide, through a point near the middle."""
    angle = math.pi * torch.rand(len(x), 1, 1, generator=generator)
    middle = (SIZE - 1) / 2 + 6 * (2 * torch.rand(2, len(x), 1, 1, generator=generator) - 1)
    places = torch.arange(SIZE)
    distance = (places[:, None] - middle[0]) * angle.cos() - (places - middle[1]) * angle.sin()
    return torch.maximum(x, 255 * (1.25 - distance.abs()).clamp(0, 1))


# Kind by kind, in the order of a table.
_KINDS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "shear": _shear,
    "scale": _scale,
    "rotation": _rotation,
    "brightness": _brightness,
    "stripes": _stripes,
    "fog": _fog,
    "spatter": _spatter,
    "lines": _lines,
    "translation": _translation,
}


def _signs(count: int, generator: Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, (count,), generator=generator) - 1


def _clouds(count: int, knots: int, generator: Generator) -> Tensor:
    """Smooth random fields (N, 28, 28) of values mostly from 0 to 1: the more knots, the finer."""
    heights = torch.rand(count, 1, knots, knots, generator=generator)
    return F.interpolate(heights, (SIZE, SIZE), mode="bicubic", align_corners=True).squeeze(1)


def _moved(
    x: Tensor,
    angle: Tensor | float = 0.0,
    size: Tensor | float = 1.0,
    shear: Tensor | float = 0.0,
    pixels: Tensor | float = 0.0,
) -> Tensor:
    """Images turned, made smaller or larger, slanted and shifted, each argument (N,), the last one (N, 2)."""
    count = len(x)
    angle, size, shear = (torch.as_tensor(value).expand(count) for value in (angle, size, shear))
    shift = torch.as_tensor(pixels).expand(count, 2) * 2 / SIZE  # the grid's unit is half an image
    cos, sin = angle.cos() / size, angle.sin() / size
    rows = [torch.stack([cos, shear - sin], 1), torch.stack([sin, cos], 1)]
    matrix = torch.cat([torch.stack(rows, 1), shift.unsqueeze(2)], 2).float()
    grid = F.affine_grid(matrix, [count, 1, SIZE, SIZE], align_corners=False)
    return F.grid_sample(x.unsqueeze(1), grid, align_corners=False).squeeze(1)
