"""The LightningModule: a network's forward pass, its loss, its metrics and its optimizer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..checkpoints.build import check_fit
from ..checkpoints.find import DEFAULT_WEIGHTS
from ..checkpoints.weights import KEY, weights_of
from ..data.normalization import normalize
from ..errors import InputError
from .batches import BatchReader, as_pixels, step_weight
from .checkpoint_io import check_entries, check_optimizers, check_steps
from .compile import ForwardPass, compile_for
from .datamodule import MNISTDataModule
from .hyperparameters import check_options, network_of, plain
from .loading import load_module, refuse_on_instances
from .metrics import StageMeans
from .objective import compute_loss, is_classifier, logits_of
from .random_state import random_state, resume_random_state

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on


class MNISTModule(pl.LightningModule):
    """Trains and evaluates a network with the cross-entropy, or with a loss of its own.

    Batches are pairs of images and labels, from `MNISTDataModule` or any other loader. Images are (B, 28, 28) or
    (B, 1, 28, 28), with values 0 to 255, or floats from 0 to 1 as torchvision's `ToTensor` returns them; the module
    normalizes them. Labels are integers (B,), 0 to 9 for a classifier.

    If the network has a method `loss(outputs, x, labels)`, that is its loss; `outputs` is what `forward` returned for
    the normalized images `x`. If it returns logits (B, 10) in evaluation mode, its accuracy is computed, too; in
    training mode it may return a tuple that starts with the logits. If it has a method `calibrate(batches)`,
    `python -m mnist_cls.train` calls that with the validation images after training.

    Args:
        model: name of a network, one of `list_models()`; a dict of its name and options, as `create_model(**model)`
            takes them; or a network object, which checkpoints do not name.
        optimizer: function that creates the optimizer from the parameters, such as
            `functools.partial(torch.optim.SGD, lr=0.1)`; None: AdamW with its defaults.
        scheduler: function that creates the learning rate schedule from the optimizer and `total_steps=`; the schedule
            advances with each optimizer step. None: a constant learning rate.
        label_smoothing: fraction of the target spread over all classes in training, 0 to below 1
            (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567).
        compile: mode of `torch.compile` for training; None: not compiled.
        lr: learning rate, passed to `optimizer`; None: the one that `optimizer` already has.

    Raises:
        InputError: If an argument is invalid, the network does not take images (B, 1, 28, 28), or it neither returns
            logits (B, 10) nor has a loss of its own.

    Attributes:
        classifies: whether the network returns logits (B, 10) in evaluation mode.
        forward_options: keyword arguments of the network's `forward`, such as `early_exit`.
        images_seen: number of images this process has trained on; the first process also counts the images that all
            processes had trained on before the run was resumed.
        train_metrics: training loss and accuracy of the last epoch.
        accept_complete: whether `fit` may resume from the checkpoint of a complete training.
    """

    def __init__(
        self,
        model: str | Mapping[str, Any] | nn.Module = DEFAULT_WEIGHTS,
        optimizer: Callable[..., Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
        label_smoothing: float = 0.0,
        compile: str | None = None,
        lr: float | None = None,
    ) -> None:
        super().__init__()
        refuse_on_instances(self)
        self.model_config, network = network_of(model)
        self.classifies = is_classifier(network, self.model_config or type(network).__name__)
        check_options(network, optimizer, scheduler, label_smoothing, compile, lr)
        # Convolutions are about 1.5 times as fast if the channels of a pixel are adjacent in memory.
        self.model = network.to(memory_format=torch.channels_last)
        self.optimizer_factory = optimizer or AdamW
        self.scheduler_factory = scheduler
        self.label_smoothing = label_smoothing
        self.compile_mode = compile
        self.lr = None if lr is None else float(lr)
        self.compiled: tuple[torch.Size, ForwardPass] | None = None
        self.forward_options: dict[str, bool] = {}
        self.images_seen = 0
        self.train_metrics: dict[str, float] = {}
        self.accept_complete = True
        self.resumed_random_state: dict[str, Any] | None = None
        self.means = {stage: StageMeans(stage, self.classifies) for stage in ("train", "val", "test")}
        self.batches = BatchReader(self.classifies)
        options = {"model": self.model_config, "label_smoothing": label_smoothing, "compile": compile, "lr": lr}
        self.save_hyperparameters({name: plain(name, value) for name, value in options.items() if value != {}})

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> "Self":
        """Create a module from a checkpoint, see `load_module`; nothing in the file is executed."""
        return load_module(cls, checkpoint_path, kwargs, map_location, hparams_file, strict)

    def forward(self, images: Tensor) -> Any:
        """Run the network on images, see `as_pixels`; a classifier returns logits (B, 10)."""
        return self.run_network(as_pixels(images))

    def run_network(self, pixels: Tensor) -> Any:
        """Run the network on images (B, 28, 28) with values 0 to 255."""
        x = normalize(pixels).to(self.dtype)  # not float32 with Trainer(precision="bf16-true")
        # The last batch of an epoch can be smaller than the batches the network was compiled for.
        if self.compiled is not None and self.training and self.compiled[0] == x.shape:
            return self.compiled[1](x)
        return self.model(x, **self.forward_options)

    def setup(self, stage: str) -> None:
        """Reset the metrics and the checks of batches: an earlier run can have ended within an epoch."""
        for means in self.means.values():
            means.loaders.clear()
        self.batches.start(from_datamodule=isinstance(getattr(self.trainer, "datamodule", None), MNISTDataModule))

    def on_train_start(self) -> None:
        """Compile the network if `compile` is set; restore the random state of the checkpoint, if there is one."""
        if self.compile_mode is not None:
            self.compiled = compile_for(self.trainer, self.model, self.compile_mode, self.dtype)
        if self.resumed_random_state is not None:
            resume_random_state(self.resumed_random_state, self.trainer)

    def on_train_end(self) -> None:
        """Drop the compiled forward pass, which is for training only."""
        self.compiled = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the loss of a batch, a scalar."""
        images, labels = self.batches.pair(batch, "train")
        self.images_seen += len(labels)
        loss, correct, _ = self._step(images, labels, "train")
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps
        # Lightning's log() takes longer than a small network's forward pass, so call it only in steps that are logged.
        if every and (self.global_step + 1) % every == 0:
            self.log("train/loss_step", loss.detach())
            self.log("train/learning_rate", trainer.optimizers[0].param_groups[0]["lr"])
            if correct is not None:
                self.log("train/accuracy_step", correct.float().mean())
        return loss * step_weight(trainer, batch_idx, len(labels))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Update the metrics, and return the network's outputs for callbacks."""
        return self._evaluation_step(batch, "val", dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Update the metrics, and return the network's outputs for callbacks."""
        return self._evaluation_step(batch, "test", dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the probabilities of a batch, float32 (B, 10); the outputs if the network does not classify."""
        with torch.autocast(self.device.type, enabled=False):
            outputs = self.run_network(self.batches.images(batch, "predict", dataloader_idx))
        return logits_of(outputs).float().softmax(1) if self.classifies else outputs

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss and accuracy."""
        means = self._log_means("train")
        self.train_metrics = {name.removesuffix("_epoch"): value.item() for name, value in means.items()}

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the accuracy on the validation images."""
        self._log_means("val", len(self.trainer.num_val_batches))

    def on_test_epoch_end(self) -> None:
        """Log the loss and the accuracy on the test images."""
        self._log_means("test", len(self.trainer.num_test_batches))

    def test_dataloader(self) -> Any:
        """Return the test images of the DataModule passed to `fit`, so that `trainer.test()` needs no arguments."""
        data: Any = getattr(self.trainer, "datamodule", None)  # Lightning keeps it, but asks the module for the images
        if data is None:
            raise InputError("no images to test: pass a loader or a DataModule, trainer.test(module, DATA)")
        return data.test_dataloader()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Create the optimizer and its learning rate schedule."""
        total = self._total_steps()
        try:
            optimizer = self._optimizer()
            if self.scheduler_factory is None:
                return optimizer
            if total < 0:
                raise ValueError("a schedule needs the number of steps; set max_epochs or max_steps of the Trainer")
            scheduler = self.scheduler_factory(optimizer, total_steps=total)
        except ZeroDivisionError as error:  # PyTorch's OneCycleLR over too few steps
            reason = f"the learning rate schedule does not fit {total} steps"
            raise InputError(f"{reason}; train longer, or without one (scheduler=constant)") from error
        except (TypeError, ValueError) as error:
            options = [getattr(one, "keywords", {}) for one in (self.optimizer_factory, self.scheduler_factory)]
            raise InputError(f"optimizer or scheduler with {options}: {' '.join(str(error).split())}") from error
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to load the weights and to resume the run."""
        checkpoint[KEY] = {
            "model": self.model_config,
            "steps": self._total_steps(),
            "images_seen": self.total_images_seen(),
            "train_totals": self.means["train"].loaders[0].totals(self.trainer.strategy.reduce, self.device).cpu(),
            "train_metrics": self.train_metrics,
            "random_state": random_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check a checkpoint before a Trainer loads it; in `fit`, restore what `on_save_checkpoint` added."""
        path = Path(str(self.trainer.ckpt_path))
        weights = weights_of(checkpoint, path)
        if self.strict_loading:
            check_fit(weights, self.model.state_dict())
        if self.trainer.state.fn != "fit":
            return
        check_entries(checkpoint, path)
        if type(self).configure_optimizers is MNISTModule.configure_optimizers:
            parameters = [one for group in self._optimizer().param_groups for one in group["params"]]
            check_optimizers(checkpoint, parameters, path)
        check_steps(checkpoint, self._total_steps(), self.accept_complete, self.scheduler_factory is not None)
        saved = checkpoint[KEY]
        self.train_metrics = saved["train_metrics"]
        self.resumed_random_state = saved["random_state"]
        if self.trainer.is_global_zero:  # the sums over all processes continue in the first one
            self.images_seen = saved["images_seen"]
            if "train_totals" in saved:  # not in checkpoints of earlier versions
                self.means["train"].loaders[0].load_totals(saved["train_totals"], self.device)

    def to_onnx(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: exported files must check and normalize their inputs, as those of `mnist_cls.export` do."""
        raise InputError("not supported; use python -m mnist_cls.export checkpoint=FILE output=FILE.onnx")

    to_torchscript = to_onnx

    def total_images_seen(self) -> int:
        """Return the number of images all processes have trained on. Every process must call this."""
        return int(self.trainer.strategy.reduce(torch.tensor(self.images_seen, device=self.device), reduce_op="sum"))

    def _total_steps(self) -> int:
        # -1 if there is no limit, or a callback changes the number of batches per step.
        try:
            return int(self.trainer.estimated_stepping_batches)
        except (OverflowError, MisconfigurationException):
            return -1
        except ValueError as error:  # Lightning prepares its loops here, and checks val_check_interval
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error

    def _optimizer(self) -> Optimizer:
        options: dict[str, Any] = {} if self.lr is None else {"lr": self.lr}
        return self.optimizer_factory(self.model.parameters(), **options)

    def _step(self, images: Tensor, labels: Tensor, stage: str, loader: int = 0) -> tuple[Tensor, Tensor | None, Any]:
        """Return loss, correctness (B,) and outputs of a batch, without waiting for a GPU."""
        outputs = self.run_network(images)
        loss = compute_loss(self.model, outputs, images, labels, self.label_smoothing)
        correct = logits_of(outputs).argmax(1) == labels if self.classifies else None
        self.means[stage].loaders[loader].update(loss, correct, len(labels))
        return loss, correct, outputs

    def _evaluation_step(self, batch: Any, stage: str, loader: int) -> Any:
        images, labels = self.batches.pair(batch, stage, loader)
        # In float32, as in prediction, whatever the precision of training.
        with torch.autocast(self.device.type, enabled=False):
            return self._step(images, labels, stage, loader)[2]

    def _log_means(self, stage: str, loaders: int = 1) -> dict[str, Tensor]:
        means = self.means[stage].compute(loaders, self.trainer.strategy.reduce, self.device)
        self.log_dict(means, prog_bar=stage == "val", add_dataloader_idx=False)
        return means
