"""What a network said of each image of an evaluation."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor


class KeepOutputs(Callback):
    """Keeps all batches of a validation or a test, and the logits that came of them, in order, on the CPU."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Keep the batch."""
        self.batches.append((batch[0].cpu(), batch[1].cpu(), outputs.float().cpu()))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Keep the batch."""
        self.on_validation_batch_end(trainer, pl_module, outputs, batch)

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """The images uint8 (N, 28, 28), their labels (N,) and probabilities (N, 10)."""
        images, labels, logits = (torch.cat(column) for column in zip(*self.batches, strict=True))
        return images, labels, logits.softmax(1)
