"""Several opinions instead of one: of several networks, and of an image moved a little."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Average(nn.Module):
    """Averages the probabilities of several networks, each of which sees each image in several places.

    Args:
        members: networks that give logits (B, 10) for images (B, 1, 28, 28).
        shifts: the images are moved by up to so many pixels to each side and up and down: with 1 to 9 places, with 2
            to 25. What comes in at an edge is what the edge was.

    Raises:
        ValueError: there are no members, or `shifts` is negative.
    """

    def __init__(self, members: Sequence[nn.Module], shifts: int = 0) -> None:
        super().__init__()
        if not members or shifts < 0:
            raise ValueError(f"expected members and shifts of 0 or more, found {len(members)} and {shifts}")
        self.members = nn.ModuleList(members)
        self.shifts = shifts

    def forward(self, x: Tensor) -> Tensor:
        """Normalized float32 images (B, 1, 28, 28) -> the logarithm of the mean probabilities, (B, 10).

        That is as good as logits: their softmax is the mean of the probabilities.
        """
        height, width = x.shape[2:]
        padded = F.pad(x, [self.shifts] * 4, mode="replicate")
        places = itertools.product(range(2 * self.shifts + 1), repeat=2)
        views = [padded[:, :, top : top + height, left : left + width] for top, left in places]
        opinions = [member(view).log_softmax(1) for member in self.members for view in views]
        return torch.stack(opinions).logsumexp(0) - math.log(len(opinions))
