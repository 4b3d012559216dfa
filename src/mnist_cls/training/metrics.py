"""Mean loss and accuracy over the images of an epoch."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class EpochMeans:
    """Sums of the loss and of correct predictions over an epoch.

    Not a torchmetrics metric, since updating one for each batch takes 2 % of the training time of a small network.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.count = 0

    def update(self, loss: Tensor, correct: Tensor | None, count: int) -> None:
        """Add a batch of `count` images.

        Args:
            loss: mean over the batch, a scalar.
            correct: bool (count,), whether each prediction is correct; None for a network that does not classify.
            count: number of images.
        """
        hits = loss.new_zeros(()) if correct is None else correct.sum()
        sums = torch.stack([loss.detach().to(_dtype(loss.device)) * count, hits])
        self.sums = sums if self.sums is None else self.sums + sums
        self.count += count

    def totals(self, reduce: Callable[..., Any], device: torch.device) -> Tensor:
        """Return the sums of loss, correct predictions and images, (3,), added up over all processes by `reduce`."""
        sums = torch.zeros(2, dtype=_dtype(device), device=device) if self.sums is None else self.sums
        totals: Tensor = reduce(torch.cat([sums, sums.new_tensor([self.count])]), reduce_op="sum")
        return totals

    def load_totals(self, totals: Tensor, device: torch.device) -> None:
        """Resume an epoch from what `totals` returned."""
        self.sums, self.count = totals[:2].to(device, _dtype(device)), int(totals[2])


class StageMeans:
    """Mean loss and accuracy of a stage; validation and test can have several loaders.

    Args:
        stage: "train", "val" or "test".
        classifies: whether the network has an accuracy.
    """

    def __init__(self, stage: str, classifies: bool) -> None:
        # The accuracy of a single batch is logged as "train/accuracy_step".
        self.names = [f"{stage}/loss", f"{stage}/accuracy" + "_epoch" * (stage == "train")][: 1 + classifies]
        self.loaders: defaultdict[int, EpochMeans] = defaultdict(EpochMeans)

    def compute(self, count: int, reduce: Callable[..., Any], device: torch.device) -> dict[str, Tensor]:
        """Compute the means over the images of `count` loaders, float32 scalars by name, and start the next epoch.

        With several loaders the result also has the means of each, under Lightning's names for them. Every process must
        call this.
        """
        totals = [self.loaders[index].totals(reduce, device) for index in range(count)]
        self.loaders.clear()
        by_end = {"": torch.stack(totals).sum(0)}
        if count > 1:
            by_end |= {f"/dataloader_idx_{index}": total for index, total in enumerate(totals)}
        means = {}
        for end, (loss, correct, images) in by_end.items():
            for name, total in zip(self.names, (loss, correct), strict=False):
                if images:  # 0 if a subclass overrides the training step
                    means[name + end] = (total / images).float()
        return means


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
