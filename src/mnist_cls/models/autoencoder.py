"""An autoencoder. An image that it reconstructs badly is not a digit."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Autoencoder(nn.Module):
    """An encoder to a small code, and a decoder back to the image.

    Shapes for a batch of B images::

        input               (B,  1, 28, 28)
        conv1, ReLU         (B, 16, 14, 14)
        conv2, ReLU         (B, 32,  7,  7)
        flatten, encode     (B, code)
        decode, ReLU, view  (B, 32,  7,  7)
        deconv2, ReLU       (B, 16, 14, 14)
        deconv1             (B,  1, 28, 28)

    Args:
        code: Length of the code. With a long code, any image is reconstructed well.

    Attributes:
        threshold: Reconstruction error up to which an image counts as a digit. A buffer, so that it is saved with the
            weights; NaN until `calibrate` sets it.

    Raises:
        ValueError: If `code` is not positive.
    """

    threshold: Tensor

    def __init__(self, code: int = 32) -> None:
        super().__init__()
        if code < 1:
            raise ValueError(f"code must be at least 1, found {code}")
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1)
        self.encode = nn.Linear(32 * 7 * 7, code)
        self.decode = nn.Linear(code, 32 * 7 * 7)
        self.deconv2 = nn.ConvTranspose2d(32, 16, kernel_size=4, stride=2, padding=1)
        self.deconv1 = nn.ConvTranspose2d(16, 1, kernel_size=4, stride=2, padding=1)
        self.register_buffer("threshold", torch.tensor(torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        """Normalized float32 images (B, 1, 28, 28) -> reconstructed images (B, 1, 28, 28)."""
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        x = self.encode(x.flatten(1))
        x = torch.relu(self.decode(x)).view(-1, 32, 7, 7)
        reconstruction: Tensor = self.deconv1(torch.relu(self.deconv2(x)))
        return reconstruction

    def loss(self, outputs: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        """Return the mean squared error of the reconstructions of `x`; the labels are not used."""
        return F.mse_loss(outputs, x)

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """Normalized float32 images (B, 1, 28, 28) -> errors of their reconstructions, float32 (B,), 0 or more.

        The error is the mean squared error divided by the image's variance; without the division, images with little
        ink would always have small errors. 1 is the error of a uniform image of the mean grey; empty images have a huge
        error.
        """
        error: Tensor = (self(x) - x).square().mean((1, 2, 3))
        return error / x.var((1, 2, 3), correction=0).clamp(min=1e-6)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor]], rejected: float = 0.01) -> None:
        """Set `threshold` so that a small fraction of real digits is rejected.

        Args:
            batches: Normalized images (B, 1, 28, 28) of digits that were not trained on, and labels (not used).
            rejected: The fraction to reject, 0 to 1.
        """
        errors = torch.cat([self.reconstruction_error(x) for x, _ in batches])
        self.threshold.fill_(errors.quantile(1 - rejected).item())
