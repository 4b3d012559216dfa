"""What TensorBoard shows besides curves: the input images, the network's graph, the confusion matrix."""

import warnings
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ..images import CLASSES, SIZE, image_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure
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
        if writer := _writer(trainer):
            network = cast(torch.nn.Module, pl_module.model)
            network.eval()  # the graph without dropout's random numbers is the one that predicts
            with warnings.catch_warnings():
                # TensorBoard's graphs come from torch.jit, which newer versions of PyTorch call deprecated.
                warnings.simplefilter("ignore")
                writer.add_graph(network, torch.zeros(1, 1, SIZE, SIZE, device=pl_module.device))
            network.train()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        """Write the first images of the training."""
        if trainer.global_step == 0 and (writer := _writer(trainer)):
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
        self.confusion.update(outputs, batch[1])

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Count the batch."""
        self.confusion.update(outputs, batch[1])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the confusion matrix of the validation images, in the last epoch only: drawing takes its time."""
        last = trainer.state.fn != "fit" or trainer.current_epoch + 1 == trainer.max_epochs
        if last:
            self._draw(trainer, "val/confusion_matrix")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the confusion matrix of the test images."""
        self._draw(trainer, "test/confusion_matrix")

    def _start(self, pl_module: pl.LightningModule) -> None:
        self.confusion = self.confusion.to(pl_module.device)
        self.confusion.reset()

    def _draw(self, trainer: pl.Trainer, tag: str) -> None:
        counts = self.confusion.compute()  # on every process: it gathers
        if writer := _writer(trainer):
            writer.add_figure(tag, draw_confusion_matrix(counts), trainer.global_step)


def draw_confusion_matrix(counts: Tensor) -> "Figure":
    """Draw how often each digit was taken for each.

    Args:
        counts: whole numbers (10, 10); rows are the labels, columns the predictions.
    """
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    table = counts.cpu()
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="label", xticks=range(CLASSES), yticks=range(CLASSES))
    shares = table / table.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)  # the root makes rare confusions visible
    for row in range(CLASSES):
        for column in range(CLASSES):
            color = "white" if shares[row, column] > 0.25 else "black"
            axes.text(column, row, str(int(table[row, column])), ha="center", va="center", color=color, fontsize=8)
    correct, total = int(table.trace()), int(table.sum())
    axes.set_title(f"{correct:,} of {total:,} right")
    return figure


def _writer(trainer: pl.Trainer) -> "SummaryWriter | None":
    # On all processes but the first Lightning gives a dummy that takes any call.
    logger = trainer.logger
    return logger.experiment if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero else None
