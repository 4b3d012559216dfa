"""The LightningModule: a network's forward pass, its loss, its metrics and its optimizer."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..checkpoints.build import check_fit
from ..checkpoints.weights import KEY, Weights
from ..data.normalization import normalize
from ..errors import InputError
from ..images import SIZE
from ..models.registry import create_model
from .compile import ForwardPass, compile_network
from .metrics import EpochMeans
from .objective import compute_loss, is_classifier
from .random_state import random_state, restore_random_state

Batch = tuple[Tensor, Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[..., LRScheduler]


class MNISTModule(pl.LightningModule):
    """Trains and evaluates a network by cross-entropy, or by a loss of its own.

    A network with a method `loss(outputs, x, labels)` is trained by it; `outputs` is what its `forward` returned for
    the normalized images `x`. A network that returns ten logits in evaluation mode is also measured by its accuracy;
    in training mode it may return a tuple that begins with the logits. A network with a method `calibrate(batches)`
    gets the validation images when the training is over.

    Args:
        model: name and options of the network, as `create_model(**model)` takes them; or, to evaluate it, a network.
        optimizer: creates the optimizer from the parameters; None: AdamW with its defaults.
        scheduler: creates the learning rate schedule, stepped after each optimizer step, from the optimizer and
            `total_steps=`; None: a constant learning rate.
        label_smoothing: fraction of the target spread over all classes in training, 0 to below 1
            (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567).
        compile: mode of `torch.compile` for the training; None: not compiled.

    Raises:
        InputError: If there is no such network, it does not take images (B, 1, 28, 28), or it returns anything but
            logits (B, 10) and has no loss of its own.

    Attributes:
        classifies: whether the network returns logits (B, 10) in evaluation mode.
        forward_options: keyword arguments of the network's `forward`, such as `early_exit`.
        images_seen: number of images this process has trained on; the first process also counts those of all
            processes before the run was resumed.
        train_metrics: training loss and accuracy of the last epoch.
        accept_complete: whether a checkpoint of a complete training may be loaded.
    """

    def __init__(
        self,
        model: Mapping[str, Any] | nn.Module,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        label_smoothing: float = 0.0,
        compile: str | None = None,
    ) -> None:
        super().__init__()
        self.model_config = {} if isinstance(model, nn.Module) else dict(model)
        try:
            network = model if isinstance(model, nn.Module) else create_model(**model)
        except ValueError as error:
            raise InputError(f"model: {error}") from error
        self.classifies = is_classifier(network, self.model_config or type(network).__name__)
        if label_smoothing and hasattr(network, "loss"):
            raise InputError(f"label_smoothing={label_smoothing}: {type(network).__name__} has a loss of its own")
        # Convolutions are about 1.5 times as fast with the channels of a pixel side by side in memory.
        self.model = network.to(memory_format=torch.channels_last)
        self.optimizer_factory = optimizer or AdamW
        self.scheduler_factory = scheduler
        self.label_smoothing = label_smoothing
        self.compile_mode = compile
        self.compiled: tuple[torch.Size, ForwardPass] | None = None
        self.forward_options: dict[str, bool] = {}
        self.images_seen = 0
        self.train_metrics: dict[str, float] = {}
        self.accept_complete = False
        self.resumed_random_state: dict[str, Any] | None = None
        self.means = {stage: EpochMeans() for stage in ("train", "val", "test")}

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        """The metric that chooses the best epoch, and whether it should be small or large."""
        return ("val/accuracy", "max") if self.classifies else ("val/loss", "min")

    def load_weights(self, weights: Weights) -> None:
        """Load the weights of a checkpoint into the network; an `InputError` says where they do not fit."""
        check_fit(weights, self.model.state_dict())
        self.model.load_state_dict(weights.state)

    def forward(self, images: Tensor) -> Any:
        """Run the network on images with values 0 to 255, uint8 or float (B, 28, 28); most return logits (B, 10)."""
        x = normalize(images)
        # The last batch of an epoch may be smaller than the batches the network was compiled for.
        if self.compiled is not None and self.training and self.compiled[0] == x.shape:
            return self.compiled[1](x)
        return self.model(x, **self.forward_options)

    def setup(self, stage: str) -> None:
        """Drop the batches of an earlier run that ended within an epoch."""
        for means in self.means.values():
            means.reset()

    def on_train_start(self) -> None:
        """Compile the network if `compile` is set; restore the random state of the checkpoint, if there is one."""
        if self.compile_mode is not None:
            loader: Any = self.trainer.train_dataloader
            # This process's part of a full batch.
            size = len(range(loader.rank, min(loader.batch_size, loader.sampler.count), loader.world_size))
            sample = normalize(torch.zeros(size, SIZE, SIZE, dtype=torch.uint8, device=self.device))
            autocast = self.trainer.precision_plugin.forward_context
            self.compiled = sample.shape, compile_network(self.model, self.compile_mode, sample, autocast)
        if self.resumed_random_state is None:
            return
        if self.trainer.world_size == 1:
            restore_random_state(self.resumed_random_state)
        else:  # it is the first process's, and the number of processes may have changed: seed each of them anew
            mixed = torch.initial_seed() + 104_729 * self.trainer.global_step
            pl.seed_everything(mixed % 2**32, workers=True, verbose=False)

    def on_train_end(self) -> None:
        """Drop the compiled pass, which is for training only."""
        self.compiled = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch, a scalar."""
        count = len(batch[1])
        self.images_seen += count
        loss, correct, _ = self._step(batch, "train")
        trainer: Any = self.trainer
        # Lightning's log() takes longer than a small network's forward pass, so only call it where it writes.
        if (self.global_step + 1) % trainer.log_every_n_steps == 0:
            self.log("train/loss_step", loss.detach())
            self.log("train/learning_rate", trainer.optimizers[0].param_groups[0]["lr"])
            if correct is not None:
                self.log("train/accuracy_step", correct.float().mean())
        return loss * self._batch_weight(batch_idx, count)

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        """Return the network's outputs, for callbacks, and update the metrics."""
        return self._evaluation_step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Any:
        """Return the network's outputs, for callbacks, and update the metrics."""
        return self._evaluation_step(batch, "test")

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss and accuracy."""
        means = self._log_means("train", "_epoch")
        self.train_metrics = {name.removesuffix("_epoch"): value.item() for name, value in means.items()}

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the accuracy on the validation images."""
        self._log_means("val", prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Log the loss and the accuracy on the test images."""
        self._log_means("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Create the optimizer and its learning rate schedule."""
        try:
            optimizer = self.optimizer_factory(self.model.parameters())
            if self.scheduler_factory is None:
                return optimizer
            scheduler = self.scheduler_factory(optimizer, total_steps=self._total_steps())
        except (TypeError, ValueError, ZeroDivisionError) as error:  # the last: OneCycleLR over too few steps
            factories = (self.optimizer_factory, self.scheduler_factory)
            options = [getattr(factory, "keywords", {}) for factory in factories]
            raise InputError(f"optimizer or scheduler with {options}: {' '.join(str(error).split())}") from error
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights need to be loaded, and what the run needs to resume."""
        checkpoint[KEY] = {
            "model": self.model_config,
            "steps": self._total_steps(),
            "images_seen": self.total_images_seen(),
            "train_totals": self.means["train"].totals(self.trainer.strategy.reduce, self.device).cpu(),
            "train_metrics": self.train_metrics,
            "random_state": random_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added.

        Raises:
            InputError: If the checkpoint's training is complete, or its learning rate schedule has another length.
        """
        saved = checkpoint[KEY]
        planned, done, total = saved["steps"], checkpoint["global_step"], self._total_steps()
        instead = "to start another training from its weights, use checkpoint=RUN/model.safetensors"
        if done >= total and not (self.accept_complete and planned == total):
            raise InputError(f"the checkpoint's training is complete, {done} of {total} steps; {instead}")
        if planned != total and self.scheduler_factory is not None:
            raise InputError(f"the checkpoint's learning rate was planned for {planned} steps, not {total}; {instead}")
        self.train_metrics = saved["train_metrics"]
        self.resumed_random_state = saved["random_state"]
        if self.trainer.is_global_zero:  # the counts of all processes continue in the first one
            self.images_seen = saved["images_seen"]
            if "train_totals" in saved:  # not in checkpoints of earlier versions
                self.means["train"].load_totals(saved["train_totals"], self.device)

    def total_images_seen(self) -> int:
        """Return the number of images all processes have trained on; a collective call."""
        return int(self.trainer.strategy.reduce(torch.tensor(self.images_seen, device=self.device), reduce_op="sum"))

    def _total_steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor | None, Any]:
        """Return loss, correctness (B,) and outputs of a batch, without waiting for a GPU."""
        images, labels = batch
        outputs = self(images)
        loss = compute_loss(self.model, outputs, images, labels, self.label_smoothing)
        correct = None
        if self.classifies:
            logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
            correct = logits.argmax(1) == labels
        self.means[stage].update(loss, correct, len(labels))
        return loss, correct, outputs

    def _evaluation_step(self, batch: Batch, stage: str) -> Any:
        # In float32 as in prediction, whatever the precision of the training.
        with torch.autocast(self.device.type, enabled=False):
            return self._step(batch, stage)[2]

    def _log_means(self, stage: str, suffix: str = "", prog_bar: bool = False) -> dict[str, Tensor]:
        loss, correct, count = self.means[stage].totals(self.trainer.strategy.reduce, self.device)
        self.means[stage].reset()
        means = {f"{stage}/loss": (loss / count).float()}
        if self.classifies:
            means[f"{stage}/accuracy{suffix}"] = (correct / count).float()
        self.log_dict(means, prog_bar=prog_bar)
        return means

    def _batch_weight(self, batch_idx: int, count: int) -> float:
        """Return the factor that turns Lightning's mean over the batches of a step into the mean over its images.

        The last step of an epoch may have fewer batches and the last batch fewer images than the others, and the
        processes may have batches of different sizes.
        """
        batches = self.trainer.accumulate_grad_batches
        if batches == 1 and self.trainer.world_size == 1:
            return 1.0
        loader: Any = self.trainer.train_dataloader
        size: int = loader.batch_size
        total: int = min(loader.sampler.count, int(self.trainer.num_training_batches) * size)
        start = batch_idx // batches * batches * size
        return batches * count * self.trainer.world_size / (min(total, start + batches * size) - start)
