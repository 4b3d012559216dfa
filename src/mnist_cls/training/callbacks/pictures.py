"""Pictures for TensorBoard: the input images, the network's graph, the confusion matrix."""

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

from ...errors import first_line
from ...evaluation.plots import plot_confusion_matrix
from ...images import CLASSES, SIZE
from ..batches import as_pixels

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardPictures(Callback):
    """Writes input images, the network's graph and confusion matrices to TensorBoard, if the Trainer logs there.

    Args:
        images: number of training images in the grid of inputs, which shows them after augmentation.
    """

    def __init__(self, images: int = 64) -> None:
        self.images = images
        self.confusion = MulticlassConfusionMatrix(CLASSES, validate_args=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the network's graph."""
        writer = tensorboard_writer(trainer)
        if writer is None:
            return
        network = cast(torch.nn.Module, pl_module.model)
        network.eval()  # the graph as in prediction, without dropout
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TensorBoard uses torch.jit, which is deprecated
                writer.add_graph(network, torch.zeros(1, 1, SIZE, SIZE, device=pl_module.device))
        except OSError:
            raise
        except Exception as error:  # torch.jit cannot trace every network
            print(f"TensorBoard shows no graph of this network: {first_line(error)}", file=sys.stderr)
        network.train()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        """Write a grid of the first training images."""
        if trainer.global_step == 0 and (writer := tensorboard_writer(trainer)):
            images = as_pixels(batch[0][: self.images]).to("cpu", torch.uint8)
            writer.add_image("train/images", image_grid(images), 0, dataformats="HW")

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the confusion matrix."""
        self.confusion = self.confusion.to(pl_module.device)
        self.confusion.reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch to the confusion matrix."""
        if pl_module.classifies:
            self.confusion.update(outputs, batch[1])

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the confusion matrix of the validation images; in training only in the last epoch: drawing is slow."""
        if trainer.state.fn != "fit" or trainer.current_epoch + 1 == trainer.max_epochs:
            self._draw(trainer, pl_module, "val/confusion_matrix")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the confusion matrix of the test images."""
        self._draw(trainer, pl_module, "test/confusion_matrix")

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, tag: str) -> None:
        if not pl_module.classifies:
            return
        counts = self.confusion.compute()  # in every process, since it gathers their counts
        if writer := tensorboard_writer(trainer):
            writer.add_figure(tag, plot_confusion_matrix(counts), trainer.global_step)


def tensorboard_writer(trainer: pl.Trainer) -> "SummaryWriter | None":
    """Return the writer of the event file; None without a TensorBoard logger, and in all but the first process."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


def image_grid(images: Tensor, columns: int = 8) -> Tensor:
    """Arrange images uint8 (N, 28, 28) in a grid, uint8 (28 * rows, 28 * columns); empty cells are black."""
    rows = math.ceil(len(images) / columns)
    cells = torch.zeros(rows * columns, SIZE, SIZE, dtype=torch.uint8)
    cells[: len(images)] = images
    return cells.view(rows, columns, SIZE, SIZE).transpose(1, 2).reshape(rows * SIZE, columns * SIZE)
