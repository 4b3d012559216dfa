"""The LightningModule: a network's forward pass, its loss, its metrics and its optimizer."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class EpochMeans:
    """The mean loss and the accuracy over the images of an epoch.

    A step only puts down what it found; the adding up is left for the end. A metric's update for each batch would take
    a fiftieth of a small network's training.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.losses: list[Tensor] = []
        self.correct: list[Tensor] = []
        self.counts: list[int] = []

    def add(self, loss: Tensor, correct: Tensor | None, count: int) -> None:
        """Put down a batch.

        Args:
            loss: the mean over its images, a scalar without gradient.
            correct: bool (count,), which images were told right; None where nothing is told.
            count: its images.
        """
        self.losses.append(loss.reshape(1))
        self.counts.append(count)
        if correct is not None:
            self.correct.append(correct)

    def compute(self, reduce: Callable[..., Any]) -> tuple[Tensor, Tensor | None]:
        """The mean loss and the accuracy, scalars; the latter None where nothing was told.

        Args:
            reduce: adds a tensor up over all processes, as `Strategy.reduce(tensor, reduce_op="sum")` does.
        """
        losses = torch.cat(self.losses).float()
        counts = losses.new_tensor(self.counts)
        correct = [torch.cat(self.correct).sum()] if self.correct else []
        loss, count, *right = reduce(torch.stack([losses @ counts, counts.sum(), *correct]), reduce_op="sum")
        return loss / count, right[0] / count if right else None

    def state(self, gather: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """What has been put down so far in all processes, for a checkpoint.

        Args:
            gather: puts the tensors of all processes, (n,), side by side: (processes, n).
        """
        if not self.losses:
            return {}
        losses = torch.cat(self.losses)
        columns = {"losses": losses, "counts": torch.tensor(self.counts, device=losses.device)}
        if self.correct:
            columns["correct"] = torch.stack([correct.sum() for correct in self.correct])
        gathered = {name: gather(column).flatten().cpu() for name, column in columns.items()}
        counted = gathered["counts"] > 0
        return {name: column[counted] for name, column in gathered.items()}

    def load(self, state: Mapping[str, Tensor], device: torch.device, counts: bool = True) -> None:
        """Go on from a `state`, which is that of all processes.

        Args:
            state: as `state()` gave it.
            device: of the training.
            counts: False in all processes but one. It is as long there, as gathering wants it, but of no images.
        """
        self.forget()
        if state:
            self.losses = list(torch.split(state["losses"].to(device), 1))
            self.counts = (state["counts"] * counts).tolist()
        if "correct" in state:
            self.correct = list(torch.split(state["correct"].to(device) * counts, 1))
