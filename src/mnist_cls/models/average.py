"""The average of the predictions of several networks, and for shifted copies of each image."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Average(nn.Module):
    """Averages the probabilities of several networks for several shifts of each image.

    Args:
        members: Networks that return logits (B, 10) for images (B, 1, 28, 28).
        shifts: Largest shift in pixels, horizontally and vertically: 1 makes 9 shifted copies, 2 makes 25. The edge's
            pixels are repeated.

    Raises:
        ValueError: If there are no members, or if `shifts` is negative.
    """

    def __init__(self, members: Sequence[nn.Module], shifts: int = 0) -> None:
        super().__init__()
        if not members or shifts < 0:
            raise ValueError(f"expected members and shifts of 0 or more, found {len(members)} and {shifts}")
        self.members = nn.ModuleList(members)
        self.shifts = shifts

    def forward(self, x: Tensor) -> Tensor:
        """Normalized float32 images (B, 1, 28, 28) -> logits (B, 10), the logarithms of the mean probabilities."""
        height, width = x.shape[2:]
        padded = F.pad(x, [self.shifts] * 4, mode="replicate")
        offsets = itertools.product(range(2 * self.shifts + 1), repeat=2)
        views = [padded[:, :, top : top + height, left : left + width] for top, left in offsets]
        log_probabilities = [member(view).log_softmax(1) for member in self.members for view in views]
        return torch.stack(log_probabilities).logsumexp(0) - math.log(len(log_probabilities))
