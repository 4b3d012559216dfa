"""Mean loss and accuracy over the images of an epoch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class EpochMeans:
    """Mean loss and accuracy over an epoch, computed at its end from the values of each batch.

    Not a torchmetrics metric, whose update for each batch costs 2 % of the training of a small network.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Drop all batches."""
        self.losses: list[Tensor] = []
        self.correct: list[Tensor] = []
        self.counts: list[int] = []

    def update(self, loss: Tensor, correct: Tensor | None, count: int) -> None:
        """Add a batch.

        Args:
            loss: mean over the batch, a scalar without gradient.
            correct: bool (count,), which images were predicted correctly; None for a network that does not classify.
            count: number of images in the batch.
        """
        self.losses.append(loss.reshape(1))
        self.counts.append(count)
        if correct is not None:
            self.correct.append(correct)

    def compute(self, reduce: Callable[..., Any]) -> tuple[Tensor, Tensor | None]:
        """Compute the means, and start the next epoch.

        Args:
            reduce: sums a tensor over all processes: `Strategy.reduce`.

        Returns:
            The mean loss, and the accuracy or None, as scalars.
        """
        losses = torch.cat(self.losses).float()
        counts = losses.new_tensor(self.counts)
        correct = [torch.cat(self.correct).sum()] if self.correct else []
        loss, count, *hits = reduce(torch.stack([losses @ counts, counts.sum(), *correct]), reduce_op="sum")
        self.reset()
        return loss / count, hits[0] / count if hits else None

    def state_dict(self, gather: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the batches of all processes so far, for a checkpoint.

        Args:
            gather: stacks the tensors (n,) of all processes to (processes, n): `LightningModule.all_gather`.
        """
        if not self.losses:
            return {}
        losses = torch.cat(self.losses)
        columns = {"losses": losses, "counts": torch.tensor(self.counts, device=losses.device)}
        if self.correct:
            columns["correct"] = torch.stack([correct.sum() for correct in self.correct])
        gathered = {name: gather(column).flatten().cpu() for name, column in columns.items()}
        nonempty = gathered["counts"] > 0
        return {name: column[nonempty] for name, column in gathered.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device, is_first: bool) -> None:
        """Restore a `state_dict`, whose batches count in the first process only.

        Args:
            state: batches of all processes.
            device: device of the training.
            is_first: whether this is the first process. The others get as many batches, since gathering needs equal
                lengths, but of no images.
        """
        self.reset()
        if state:
            self.losses = list(torch.split(state["losses"].to(device), 1))
            self.counts = (state["counts"] * is_first).tolist()
        if "correct" in state:
            self.correct = list(torch.split(state["correct"].to(device) * is_first, 1))
