"""The predictions of an evaluation for each image."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor


class KeepOutputs(Callback):
    """Keeps the images, labels and logits of all batches of a validation or a test, in order, on the CPU."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch."""
        self.batches.append((batch[0].cpu(), batch[1].cpu(), outputs.float().cpu()))

    on_test_batch_end = on_validation_batch_end

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images uint8 (N, 28, 28), their labels int64 (N,) and probabilities float32 (N, 10)."""
        images, labels, logits = (torch.cat(column) for column in zip(*self.batches, strict=True))
        return images, labels, logits.softmax(1)
