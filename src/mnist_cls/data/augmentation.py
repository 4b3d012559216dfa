"""Random distortions of a whole batch at once, on the batch's device, and different for each image."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..images import SIZE
from .spoiling import spoil

# The elastic field is a sum of Gaussian bumps, 4 pixels wide and 4 pixels apart: as smooth as a hand's tremor.
_WIDTH = 4.0
_KNOTS = torch.arange(-_WIDTH / 2, SIZE + _WIDTH, _WIDTH)

# What is added to the limits of strongly distorted images, as a multiple of these limits.
_STRONGER = 1.0


def _bumps() -> Tensor:
    bumps = torch.exp(-0.5 * ((torch.arange(SIZE)[:, None] - _KNOTS) / _WIDTH) ** 2)
    # With this scale, the sum of the bumps times standard normal numbers has a variance of 1 at every pixel.
    return F.normalize(bumps, dim=1)


@dataclass(eq=False)
class RandomDistortion:
    """Rotate, scale, shear, shift and bend each image in one resampling, then change its brightness and add noise.

    Rotation, scale, shear and shift are drawn uniformly from -limit to +limit. The strengths of brightness and noise
    are the limit times the square of a uniform number from 0 to 1, so that most are small. Bending moves each pixel by
    a smooth random field, after Simard et al. 2003 (https://doi.org/10.1109/ICDAR.2003.1227801). Random numbers come
    from PyTorch's global generator of the batch's device, and for `spoilt` also from that of the CPU.

    Args:
        rotation: limit in degrees.
        scale: limit of the change in size; with 0.1, digits have 0.9 to 1.1 times their size.
        shear: limit of the horizontal shift per row, in pixels; 0.1 moves the top and the bottom row by 1.4 pixels.
        shift: limit in pixels, horizontally and vertically.
        elastic: standard deviation of the random field in pixels, horizontally and vertically.
        brightness: limit of the grey level that black becomes, 0 to 255; white stays as it is.
        noise: limit of the standard deviation of Gaussian noise, 0 to 255.
        strong: fraction of the images, 0 to 1, for which the limits of rotation, scale, shear and shift are twice as
            high.
        spoilt: fraction of the images, 0 to 1, that are also spoilt, see `spoil`.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    brightness: float = 0.0
    noise: float = 0.0
    strong: float = 0.0
    spoilt: float = 0.0
    bumps: Tensor = field(default_factory=_bumps, init=False, repr=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Distort a batch.

        Args:
            images: (B, 28, 28), values 0 to 255.

        Returns:
            float32 (B, 28, 28), values 0 to 255. Pixels that come from outside the image are black.
        """
        count, device = len(images), images.device
        factor = 1 + _STRONGER * (torch.rand(count, device=device) < self.strong) if self.strong else 1

        def draw(limit: float) -> Tensor:
            return (torch.rand(count, device=device) * 2 - 1) * limit * factor

        grid = affine_grid(
            angle=draw(math.radians(self.rotation)),
            size=1 + draw(self.scale),
            shear=draw(self.shear),
            shift_x=draw(2 * self.shift / SIZE),
            shift_y=draw(2 * self.shift / SIZE),
        )
        if self.elastic:
            grid += self._field(count, device) * (2 * self.elastic / SIZE)
        x = resample(images, grid)
        if self.spoilt:
            x = spoil(x, self.spoilt)
        if self.brightness:
            x = x.lerp(
                torch.full((), 255.0, device=device),
                torch.rand(count, 1, 1, device=device).square() * (self.brightness / 255),
            )
        if self.noise:
            x += torch.rand(count, 1, 1, device=device).square() * self.noise * torch.randn_like(x)
        return x.clamp_(0, 255) if self.noise else x

    def _field(self, count: int, device: torch.device) -> Tensor:
        """Draw smooth random fields of variance 1, (B, 28, 28, 2)."""
        self.bumps = self.bumps.to(device)
        heights = torch.randn(count, 2, len(_KNOTS), len(_KNOTS), device=device)
        field: Tensor = self.bumps @ heights @ self.bumps.T
        return field.permute(0, 2, 3, 1)


def affine_grid(angle: Tensor, size: Tensor, shear: Tensor, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    """Compute where in the original image each pixel of a transformed image comes from.

    Args:
        angle: rotation in radians, (B,).
        size: scale factor, (B,).
        shear: horizontal shift per row, in pixels, (B,).
        shift_x: horizontal shift in halves of the image's side, (B,).
        shift_y: vertical shift in halves of the image's side, (B,).

    Returns:
        (B, 28, 28, 2), x and y from -1 to 1 inside the image, for `resample`.
    """
    cos, sin = angle.cos() / size, angle.sin() / size
    rows = [torch.stack([cos, shear * cos - sin, shift_x], 1), torch.stack([sin, shear * sin + cos, shift_y], 1)]
    return F.affine_grid(torch.stack(rows, 1), [len(angle), 1, SIZE, SIZE], align_corners=False)


def resample(images: Tensor, grid: Tensor) -> Tensor:
    """Sample images (B, 28, 28) bilinearly at the positions of `affine_grid`; return float32 (B, 28, 28)."""
    return F.grid_sample(images.unsqueeze(1).float(), grid, align_corners=False).squeeze(1)
