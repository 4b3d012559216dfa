"""Random distortions of a whole batch at once, on the batch's device, each image with numbers of its own."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..images import SIZE

# The elastic field is a sum of Gaussian bumps, 4 pixels wide and 4 pixels apart: as smooth as a hand's tremor.
_WIDTH = 4.0
_KNOTS = torch.arange(-_WIDTH / 2, SIZE + _WIDTH, _WIDTH)


class RandomDistortion:
    """Turn, scale, shear, shift and bend each image of a batch by random amounts, all in one resampling; then spoil it.

    The amounts of the first four are drawn uniformly from -limit to +limit, all from PyTorch's global generator of the
    device; those of the last two are limit times the square of a number from 0 to 1, so that most are small. Bending
    moves each pixel by a smooth random field, after Simard et al. 2003 (https://doi.org/10.1109/ICDAR.2003.1227801).

    Args:
        rotation: the limit in degrees.
        scale: the limit of the change in size; 0.1 is from 0.9 to 1.1 of the size.
        shear: the limit of the sideways shift per row; 0.1 moves the top and the bottom row by 1.4 pixels.
        shift: the limit in pixels, in each direction.
        elastic: the standard deviation of the field, in pixels, in each direction.
        brightness: the limit of how bright black becomes, of 255; white stays as it is.
        noise: the limit of the standard deviation of Gaussian noise, of 255.
    """

    def __init__(
        self,
        rotation: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        shift: float = 0.0,
        elastic: float = 0.0,
        brightness: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        self.brightness, self.noise = brightness, noise
        self.rotation, self.scale, self.shear, self.shift, self.elastic = rotation, scale, shear, shift, elastic
        bumps = torch.exp(-0.5 * ((torch.arange(SIZE)[:, None] - _KNOTS) / _WIDTH) ** 2)
        # So scaled, the sum of normal numbers times bumps has a variance of 1 at every pixel.
        self.bumps = bumps / bumps.norm(dim=1, keepdim=True)

    def __call__(self, images: Tensor) -> Tensor:
        """Distort a batch.

        Args:
            images: values 0 to 255, (B, 28, 28).

        Returns:
            float32 (B, 28, 28), values 0 to 255; what comes in from outside the image is as black as its paper.
        """
        count, device = len(images), images.device

        def draw(limit: float) -> Tensor:
            return (torch.rand(count, device=device) * 2 - 1) * limit

        angle, size, shear = draw(math.radians(self.rotation)), 1 + draw(self.scale), draw(self.shear)
        cos, sin = angle.cos() / size, angle.sin() / size
        right, down = draw(2 * self.shift / SIZE), draw(2 * self.shift / SIZE)  # the grid's unit is half an image
        rows = [torch.stack([cos, shear * cos - sin, right], 1), torch.stack([sin, shear * sin + cos, down], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), [count, 1, SIZE, SIZE], align_corners=False)
        if self.elastic:
            grid += self._field(count, device) * (2 * self.elastic / SIZE)
        x = F.grid_sample(images.unsqueeze(1).float(), grid, align_corners=False).squeeze(1)
        if self.brightness:
            x = x.lerp(x.new_tensor(255.0), torch.rand(count, 1, 1, device=device).square() * (self.brightness / 255))
        if self.noise:
            x += torch.rand(count, 1, 1, device=device).square() * self.noise * torch.randn_like(x)
        return x.clamp_(0, 255) if self.noise else x

    def _field(self, count: int, device: torch.device) -> Tensor:
        """Smooth random numbers of variance 1, (B, 28, 28, 2)."""
        self.bumps = self.bumps.to(device)
        heights = torch.randn(count, 2, len(_KNOTS), len(_KNOTS), device=device)
        field: Tensor = self.bumps @ heights @ self.bumps.T
        return field.permute(0, 2, 3, 1)
