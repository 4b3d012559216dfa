"""The LightningModule: a network's forward pass, its loss, its metrics and its optimizer."""

import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from .checkpoint import KEY, Weights, check_fit
from .errors import InputError
from .images import CLASSES, SIZE, normalize
from .models import create_model
from .settings import TrainerSettings

Batch = tuple[Tensor, Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[..., LRScheduler]


class ClassifierModule(pl.LightningModule):
    """Trains and tests a network that gives ten logits.

    Args:
        model: the network's name and options, as `create_model(**model)` takes them.
        optimizer: makes the optimizer from the parameters; None: AdamW with its defaults.
        scheduler: makes the learning rate's schedule, stepped after each step, from the optimizer and
            `total_steps=`, the number of steps of the whole training; None: the rate stays as it is.

    Raises:
        InputError: there is no such network, or it does not give (B, 10) for images (B, 1, 28, 28).
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__()
        self.model_config = dict(model)
        try:
            network = create_model(**model)
        except ValueError as error:
            raise InputError(f"model: {error}") from error
        # Convolutions are about 1.5 times as fast when the channels of a pixel lie side by side.
        self.model = network.to(memory_format=torch.channels_last)
        self._check_network()
        self.optimizer_factory = optimizer or AdamW
        self.scheduler_factory = scheduler
        self.images_seen = 0
        for stage in ("train", "val", "test"):
            setattr(self, f"{stage}_accuracy", MulticlassAccuracy(CLASSES, average="micro", validate_args=False))
            setattr(self, f"{stage}_loss", MeanMetric())

    def load_weights(self, weights: Weights) -> None:
        """Put the weights of a checkpoint into the network.

        Raises:
            InputError: they do not fit.
        """
        check_fit(weights, self.model.state_dict())
        self.model.load_state_dict(weights.state)

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 or float 0 to 255, (B, 28, 28) -> logits (B, 10)."""
        logits: Tensor = self.model(normalize(images))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The cross-entropy of one batch, a scalar to take the gradient of."""
        self.images_seen += len(batch[1])
        return self._step(batch, "train")[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The logits (B, 10), for callbacks; the metrics are kept here."""
        return self._step(batch, "val")[1]

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The logits (B, 10), for callbacks; the metrics are kept here."""
        return self._step(batch, "test")[1]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and its schedule over all the steps that the trainer is going to make."""
        try:
            optimizer = self.optimizer_factory(self.model.parameters())
            if self.scheduler_factory is None:
                return optimizer
            scheduler = self.scheduler_factory(optimizer, total_steps=self._total_steps())
        except (TypeError, ValueError) as error:
            factories = (self.optimizer_factory, self.scheduler_factory)
            options = [getattr(factory, "keywords", {}) for factory in factories]
            raise InputError(f"optimizer or scheduler with {options}: {' '.join(str(error).split())}") from error
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write into the checkpoint which network it is of and how long its training is, as plain values."""
        checkpoint[KEY] = {"model": self.model_config, "steps": self._total_steps()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See whether a training can go on from the checkpoint.

        Raises:
            InputError: it is at its end, or was planned for another number of steps than the schedule has now.
        """
        planned, done, now = checkpoint[KEY]["steps"], checkpoint["global_step"], self._total_steps()
        instead = "to train on from its weights alone, use checkpoint=RUN/model.safetensors"
        if done >= now:
            raise InputError(f"the checkpoint's training is complete, {done} of {now} steps; {instead}")
        if planned != now and self.scheduler_factory is not None:
            raise InputError(f"the checkpoint's learning rate was planned for {planned} steps, not {now}; {instead}")

    def _total_steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        accuracy, mean_loss = getattr(self, f"{stage}_accuracy"), getattr(self, f"{stage}_loss")
        mean_loss.update(loss.detach(), weight=len(labels))
        if stage == "train":
            accuracy(logits.detach(), labels)  # counts, and gives the batch's own accuracy to log
            self.log("train/loss_step", loss.detach())
            self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
            self.log("train/accuracy", accuracy, on_step=True, on_epoch=True)
        else:
            accuracy.update(logits, labels)
            self.log(f"{stage}/accuracy", accuracy, prog_bar=stage == "val")
        self.log(f"{stage}/loss", mean_loss, on_step=False, on_epoch=True, prog_bar=stage == "val")
        return loss, logits

    def _check_network(self) -> None:
        self.model.eval()
        try:
            with torch.no_grad():
                shape = tuple(self.model(torch.zeros(2, 1, SIZE, SIZE)).shape)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"model={self.model_config}: does not take images (B, 1, 28, 28): {reason}") from error
        finally:
            self.model.train()
        if shape != (2, CLASSES):
            raise InputError(f"model={self.model_config}: gives {shape} for 2 images; expected 10 logits each, (2, 10)")


def make_trainer(
    settings: TrainerSettings, folder: Path, callbacks: Sequence[Callback] = (), logger: Logger | None = None
) -> pl.Trainer:
    """Make Lightning's Trainer of the settings.

    Args:
        settings: Lightning's arguments.
        folder: the run's folder, where a profiler writes to.
        callbacks: besides the progress bar.
        logger: None logs nowhere.

    Raises:
        InputError: the machine has no such accelerator, or Lightning refuses a value.
    """
    if settings.accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator={settings.accelerator}: PyTorch {torch.__version__} sees no CUDA device on this"
            " machine; use trainer=cpu, or trainer=auto to take what there is"
        )
    # What Lightning says by itself is advice to its own developers' users; ours get a progress bar and a summary.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    profilers = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    arguments = dataclasses.asdict(settings)
    if settings.profiler is not None:
        arguments["profiler"] = profilers[settings.profiler](dirpath=folder, filename="profile")
    bar = [RichProgressBar(leave=True)] if settings.enable_progress_bar else []
    try:
        return pl.Trainer(
            **arguments,
            default_root_dir=folder,
            callbacks=[*callbacks, *bar],
            logger=logger or False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
