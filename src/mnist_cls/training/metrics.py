"""Mean loss and accuracy over the images of an epoch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class EpochMeans:
    """Sums of loss and correct predictions over an epoch, from which it computes their means over the images.

    Not a torchmetrics metric, whose update for each batch costs 2 % of the training of a small network.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start an epoch."""
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
    """The means of all loaders of a stage; all but validation and test have one."""

    def __init__(self) -> None:
        self.loaders = [EpochMeans()]

    def loader(self, index: int) -> EpochMeans:
        """Return the means over the images of one loader."""
        while len(self.loaders) <= index:
            self.loaders.append(EpochMeans())
        return self.loaders[index]

    def compute(
        self, stage: str, count: int, suffix: str, reduce: Callable[..., Any], device: torch.device
    ) -> dict[str, Tensor]:
        """Compute loss and accuracy, float32 scalars, over the images of `count` loaders, and start the next epoch.

        Those of each loader are added if there are several, named as Lightning names them. `suffix` ends the name of
        the accuracy. All processes call this together.
        """
        totals = [self.loader(index).totals(reduce, device) for index in range(count)]
        for loader in self.loaders:
            loader.reset()
        ends = [f"/dataloader_idx_{index}" for index in range(count)] if count > 1 else []
        means = {}
        for end, (loss, correct, images) in zip(["", *ends], [torch.stack(totals).sum(0), *totals], strict=False):
            means[f"{stage}/loss{end}"] = (loss / images).float()
            means[f"{stage}/accuracy{suffix}{end}"] = (correct / images).float()
        return means


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
