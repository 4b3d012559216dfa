"""What TensorBoard shows besides curves: the input images, the network's graph, the confusion matrix."""

import math
import sys
import warnings
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ...evaluation.plots import draw_confusion_matrix
from ...images import CLASSES, SIZE

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardPictures(Callback):
    """Writes pictures to the run's TensorBoard logger; without one it does nothing.

    Args:
        images: how many training images the grid of inputs shows, as the network gets them, augmented.
    """

    def __init__(self, images: int = 64) -> None:
        self.images = images
        self.confusion = MulticlassConfusionMatrix(CLASSES, validate_args=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the network's graph."""
        if writer := tensorboard_writer(trainer):
            network = cast(torch.nn.Module, pl_module.model)
            network.eval()  # the graph without dropout's random numbers is the one that predicts
            with warnings.catch_warnings():
                # TensorBoard's graphs come from torch.jit, which newer versions of PyTorch call deprecated.
                warnings.simplefilter("ignore")
                try:
                    writer.add_graph(network, torch.zeros(1, 1, SIZE, SIZE, device=pl_module.device))
                except Exception as error:  # a good network may well be one that cannot be drawn
                    reason = str(error).strip().splitlines()[0]
                    print(f"TensorBoard gets no graph of this network: {reason}", file=sys.stderr)
            network.train()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        """Write the first images of the training."""
        if trainer.global_step == 0 and (writer := tensorboard_writer(trainer)):
            images = batch[0][: self.images].to("cpu", torch.uint8)
            writer.add_image("train/images", image_grid(images), 0, dataformats="HW")

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting anew."""
        self._start(pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting anew."""
        self._start(pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Count the batch."""
        self._count(pl_module, outputs, batch[1])

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Count the batch."""
        self._count(pl_module, outputs, batch[1])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the confusion matrix of the validation images, in the last epoch only: drawing takes its time."""
        last = trainer.state.fn != "fit" or trainer.current_epoch + 1 == trainer.max_epochs
        if last:
            self._draw(trainer, pl_module, "val/confusion_matrix")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the confusion matrix of the test images."""
        self._draw(trainer, pl_module, "test/confusion_matrix")

    def _count(self, pl_module: pl.LightningModule, outputs: Any, labels: Tensor) -> None:
        if pl_module.classifies:
            self.confusion.update(outputs, labels)

    def _start(self, pl_module: pl.LightningModule) -> None:
        self.confusion = self.confusion.to(pl_module.device)
        self.confusion.reset()

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, tag: str) -> None:
        if not pl_module.classifies:
            return
        counts = self.confusion.compute()  # on every process: it gathers
        if writer := tensorboard_writer(trainer):
            writer.add_figure(tag, draw_confusion_matrix(counts), trainer.global_step)


def tensorboard_writer(trainer: pl.Trainer) -> "SummaryWriter | None":
    """The writer of the run's event file; None without a TensorBoard logger, and on all processes but the first."""
    logger = trainer.logger
    return logger.experiment if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero else None


def image_grid(images: Tensor, columns: int = 8) -> Tensor:
    """Lay images out in rows, for a look at them.

    Args:
        images: uint8 (N, 28, 28).
        columns: how many stand in a row.

    Returns:
        uint8 (28 * rows, 28 * columns); places that are left over are black.
    """
    rows = math.ceil(len(images) / columns)
    cells = torch.zeros(rows * columns, SIZE, SIZE, dtype=torch.uint8)
    cells[: len(images)] = images
    return cells.view(rows, columns, SIZE, SIZE).transpose(1, 2).reshape(rows * SIZE, columns * SIZE)
