"""Mean loss and accuracy over the images of an epoch."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class EpochMeans:
    """Sums of loss and correct predictions over an epoch, from which it computes their means over the images.

    Not a torchmetrics metric, whose update for each batch costs 2 % of the training of a small network.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.count = 0

    def update(self, loss: Tensor, correct: Tensor | None, count: int) -> None:
        """Add a batch of `count` images.

        Args:
            loss: mean over the batch, a scalar.
            correct: bool (count,), which images were predicted correctly; None for a network that does not classify.
        """
        hits = loss.new_zeros(()) if correct is None else correct.sum()
        sums = torch.stack([loss.detach().to(_dtype(loss.device)) * count, hits])
        self.sums = sums if self.sums is None else self.sums + sums
        self.count += count

    def totals(self, reduce: Callable[..., Any], device: torch.device) -> Tensor:
        """Return loss, correct predictions and number of images, (3,), summed over all processes by `reduce`."""
        sums = torch.zeros(2, dtype=_dtype(device), device=device) if self.sums is None else self.sums
        totals: Tensor = reduce(torch.cat([sums, sums.new_tensor([self.count])]), reduce_op="sum")
        return totals

    def load_totals(self, totals: Tensor, device: torch.device) -> None:
        """Resume an epoch from its totals so far."""
        self.sums, self.count = totals[:2].to(device, _dtype(device)), int(totals[2])


class StageMeans:
    """The means of a stage, of which validation and test may have several loaders.

    Args:
        stage: "train", "val" or "test".
        classifies: whether there is an accuracy.
    """

    def __init__(self, stage: str, classifies: bool) -> None:
        # "train/accuracy_step" is that of a batch.
        self.names = [f"{stage}/loss", f"{stage}/accuracy" + "_epoch" * (stage == "train")][: 1 + classifies]
        self.loaders: defaultdict[int, EpochMeans] = defaultdict(EpochMeans)

    def compute(self, count: int, reduce: Callable[..., Any], device: torch.device) -> dict[str, Tensor]:
        """Compute the means, float32 scalars, over the images of `count` loaders, and start the next epoch.

        The means of each loader are added if there are several, named as Lightning names them. All processes call this
        together.
        """
        totals = [self.loaders[index].totals(reduce, device) for index in range(count)]
        self.loaders.clear()
        by_end = {"": torch.stack(totals).sum(0)}
        if count > 1:
            by_end |= {f"/dataloader_idx_{index}": total for index, total in enumerate(totals)}
        means = {}
        for end, (loss, correct, images) in by_end.items():
            for name, total in zip(self.names, (loss, correct), strict=False):
                if images:  # none where a subclass has a training step of its own
                    means[name + end] = (total / images).float()
        return means


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
