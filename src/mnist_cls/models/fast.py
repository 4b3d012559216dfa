"""A network that trains in seconds: three small convolutions, 26,234 parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Fast(nn.Module):
    """A small convolutional network whose operations were all chosen for their speed.

    Shapes with the default widths, for a batch of B images::

        input                (B,  1, 28, 28)
        crop                 (B,  1, 24, 24)
        conv1, 5x5           (B, 16, 20, 20)
        pool, norm, ReLU     (B, 16, 10, 10)
        conv2, 3x3           (B, 32, 10, 10)
        pool, norm, ReLU     (B, 32,  5,  5)
        conv3, 3x3           (B, 64,  5,  5)
        pool, norm, ReLU     (B, 64,  2,  2)
        flatten              (B, 256)
        head                 (B, 10)

    The cropped border of two pixels is blank in nearly all of MNIST's images. Pooling comes before batch norm and ReLU,
    which leaves these a quarter of the values.

    Args:
        widths: Output channels of the three convolutions.

    Raises:
        ValueError: If there are not three widths, or if one is not positive.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        if len(widths) != 3 or min(widths) < 1:
            raise ValueError(f"widths must be three positive numbers, found {list(widths)}")
        first, second, third = widths
        self.conv1 = nn.Conv2d(1, first, 5, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(third)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4 * third, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized float32 images (B, 1, 28, 28) -> logits (B, 10)."""
        x = x[:, :, 2:-2, 2:-2]
        x = torch.relu(self.norm1(self.pool(self.conv1(x))))
        x = torch.relu(self.norm2(self.pool(self.conv2(x))))
        x = torch.relu(self.norm3(self.pool(self.conv3(x))))
        logits: Tensor = self.head(x.flatten(1))
        return logits
