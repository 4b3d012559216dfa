"""Spoilt training images. `corruptions` spoils images in other ways, to measure what networks were not trained on."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..images import SIZE


def spoil(images: Tensor, fraction: float) -> Tensor:
    """Spoil a random fraction of the images, each in one way.

    Random numbers come from PyTorch's global generators of the CPU and of the images' device.

    Args:
        images: float32 (B, 28, 28), values 0 to 255.
        fraction: fraction of the images, above 0 to 1.

    Returns:
        float32 (B, 28, 28), values 0 to 255.
    """
    # On the CPU, since counting the images of each kind on a GPU would wait for it once per kind.
    kinds = (torch.rand(len(images)) * len(_KINDS) / fraction).long()
    spoilt = images.clone()
    for number, kind in enumerate(_KINDS):
        chosen = (kinds == number).nonzero().flatten().to(images.device)
        if len(chosen):
            spoilt[chosen] = kind(images[chosen]).clamp(0, 255)
    return spoilt


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    """Draw a number for each image, (B, 1, 1)."""
    return low + (high - low) * torch.rand(len(x), 1, 1, device=x.device)


def _positions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels' rows (28, 1) and columns (28), counted from the middle."""
    positions = torch.arange(SIZE, device=x.device) - (SIZE - 1) / 2
    return positions[:, None], positions


def _rectangle(x: Tensor, largest: float) -> Tensor:
    """Return masks of rectangles up to `largest` pixels wide and high, bool (B, 28, 28)."""
    rows, columns = _positions(x)
    across = (columns - _uniform(x, -12, 12)).abs() < _uniform(x, 1, largest / 2)
    return across & ((rows - _uniform(x, -12, 12)).abs() < _uniform(x, 1, largest / 2))


def _covered(x: Tensor) -> Tensor:
    """Cover a rectangle with a random grey."""
    return torch.where(_rectangle(x, 10), _uniform(x, 0, 255), x)


def _disc(x: Tensor, smallest: float, largest: float) -> Tensor:
    rows, columns = _positions(x)
    distance = torch.hypot(rows - _uniform(x, -12, 12), columns - _uniform(x, -12, 12))
    return distance < _uniform(x, smallest, largest)


def _holes(x: Tensor) -> Tensor:
    """Remove the ink in three discs."""
    holes = _disc(x, 0.5, 2.5) | _disc(x, 0.5, 2.5) | _disc(x, 0.5, 2.5)
    return x.masked_fill(holes, 0)


def _inverted_half(x: Tensor) -> Tensor:
    """Invert the pixels on one side of a line."""
    rows, columns = _positions(x)
    angle = _uniform(x, 0, 2 * math.pi)
    return torch.where(rows * angle.cos() + columns * angle.sin() > _uniform(x, -8, 8), 255 - x, x)


def _inverted_rectangles(x: Tensor) -> Tensor:
    """Invert three rectangles; pixels in two of them are inverted twice."""
    inverted = _rectangle(x, 24) ^ _rectangle(x, 24) ^ _rectangle(x, 24)
    return torch.where(inverted, 255 - x, x)


def _salt_and_pepper(x: Tensor) -> Tensor:
    values = torch.rand_like(x)
    limit = _uniform(x, 0.01, 0.12)
    return torch.where(values < limit, 0.0, torch.where(values > 1 - limit, 255.0, x))


def _arc(x: Tensor) -> Tensor:
    """Draw an arc of a circle."""
    rows, columns = _positions(x)
    angle, radius, beside = _uniform(x, 0, 2 * math.pi), _uniform(x, 4, 30), _uniform(x, -9, 9)
    middle = radius + beside
    distance = torch.hypot(rows - middle * angle.cos(), columns - middle * angle.sin()) - radius
    ink = (_uniform(x, 0.5, 1.2) + 0.5 - distance.abs()).clamp(0, 1)
    return torch.maximum(x, _uniform(x, 128, 255) * ink)


def _coarse(x: Tensor) -> Tensor:
    """Reduce the images to fewer pixels, and enlarge them again."""
    side = int(torch.randint(8, 20, ()))
    small = F.interpolate(x[:, None], (side, side), mode="area")
    return F.interpolate(small, (SIZE, SIZE), mode="bilinear").squeeze(1)


def _moved(x: Tensor) -> Tensor:
    """Blur in one direction, as by a hand that moves the camera."""
    grid = F.affine_grid(torch.eye(2, 3, device=x.device)[None], [1, 1, SIZE, SIZE], align_corners=False)
    angle, length = _uniform(x, 0, math.pi), _uniform(x, 0, 6 * 2 / SIZE)
    step = torch.cat([angle.cos() * length, angle.sin() * length], -1)[:, None]
    positions = torch.linspace(-0.5, 0.5, 7).tolist()
    sampled = [F.grid_sample(x[:, None], grid + position * step, align_corners=False) for position in positions]
    return torch.stack(sampled).mean(0).squeeze(1)


def _thicker(x: Tensor) -> Tensor:
    return x.lerp(F.max_pool2d(x, 3, stride=1, padding=1), _uniform(x, 0, 1))


def _thinner(x: Tensor) -> Tensor:
    return x.lerp(-F.max_pool2d(-x, 3, stride=1, padding=1), _uniform(x, 0, 0.8))


def _slanting_light(x: Tensor) -> Tensor:
    """Brighten one side, and reduce the contrast."""
    rows, columns = _positions(x)
    angle = _uniform(x, 0, 2 * math.pi)
    light = _uniform(x, 0, 160) * (0.5 + (rows * angle.cos() + columns * angle.sin()) / SIZE)
    return light + x * _uniform(x, 0.4, 1)


def _neighbour(x: Tensor) -> Tensor:
    """Let another digit of the batch protrude from the left or the right."""
    other, distance = x.roll(1, 0), int(torch.randint(15, 20, ()))
    moved = (
        F.pad(other, (distance, 0))[..., :SIZE] if torch.rand(()) < 0.5 else F.pad(other, (0, distance))[..., -SIZE:]
    )
    return torch.maximum(x, moved)


_KINDS: list[Callable[[Tensor], Tensor]] = [
    *(_covered, _holes, _inverted_half, _inverted_rectangles, _salt_and_pepper, _arc, _arc, _coarse, _moved),
    *(_thicker, _thinner, _slanting_light, _neighbour),
]
