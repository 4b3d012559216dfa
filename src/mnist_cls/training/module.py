"""The LightningModule: a network's forward pass, its loss, its metrics and its optimizer."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NoReturn

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..checkpoints.build import build_on_meta, check_fit
from ..checkpoints.find import DEFAULT_WEIGHTS
from ..checkpoints.weights import KEY, NETWORK_PREFIX, Weights, read_checkpoint, weights_of
from ..data.loader import BatchLoader
from ..data.normalization import normalize
from ..errors import InputError, shortened
from ..images import SIZE
from .batches import BatchReader, as_pixels
from .checkpoint_io import check_entries, check_optimizers
from .compile import ForwardPass, compile_network, full_batch
from .hyperparameters import (
    argument_names,
    check_options,
    described,
    network_of,
    plain,
    refuse_on_instances,
    saved_arguments,
)
from .metrics import StageMeans
from .objective import compute_loss, is_classifier, logits_of
from .random_state import random_state, restore_random_state

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on

_EXPORT = (
    "not exported by Lightning: python -m mnist_cls.export checkpoint=FILE output=FILE.onnx writes a file that"
    " normalizes its inputs; the network itself is module.model"
)

OptimizerFactory = Callable[..., Optimizer]
SchedulerFactory = Callable[..., LRScheduler]


class MNISTModule(pl.LightningModule):
    """Trains and evaluates a network by cross-entropy, or by a loss of its own.

    Works with `MNISTDataModule` and with any loader of pairs of images and labels. Images are (B, 28, 28) or
    (B, 1, 28, 28), with values 0 to 255 or, as of torchvision's `ToTensor`, floats 0 to 1. The first batch of each
    loader decides which; normalized images are refused.

    A network with a method `loss(outputs, x, labels)` is trained by it; `outputs` is what its `forward` returned for
    the normalized images `x`. A network that returns ten logits in evaluation mode is also measured by its accuracy;
    in training mode it may return a tuple that begins with the logits. A network with a method `calibrate(batches)`
    gets the validation images when the training is over.

    Args:
        model: name of a network, one of `list_models()`; its name and options, as `create_model(**model)` takes them;
            or a network, which checkpoints then do not name.
        optimizer: creates the optimizer from the parameters, such as `functools.partial(torch.optim.SGD, lr=0.1)`;
            None: AdamW with its defaults.
        scheduler: creates the learning rate schedule, stepped after each optimizer step, from the optimizer and
            `total_steps=`; None: a constant learning rate.
        label_smoothing: fraction of the target spread over all classes in training, 0 to below 1
            (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567).
        compile: mode of `torch.compile` for the training; None: not compiled.
        lr: learning rate, given to `optimizer`; None: the one that `optimizer` has.

    Raises:
        InputError: If there is no such network, it does not take images (B, 1, 28, 28), it returns anything but
            logits (B, 10) and has no loss of its own, or an argument is invalid.

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
        model: str | Mapping[str, Any] | nn.Module = DEFAULT_WEIGHTS,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        label_smoothing: float = 0.0,
        compile: str | None = None,
        lr: float | None = None,
    ) -> None:
        super().__init__()
        refuse_on_instances(self)
        self.model_config, network = network_of(model)
        self.classifies = is_classifier(network, self.model_config or type(network).__name__)
        check_options(optimizer, scheduler, label_smoothing, compile, lr)
        if label_smoothing and hasattr(network, "loss"):
            raise InputError(f"label_smoothing={label_smoothing}: {type(network).__name__} has a loss of its own")
        # Convolutions are about 1.5 times as fast with the channels of a pixel side by side in memory.
        self.model = network.to(memory_format=torch.channels_last)
        self.optimizer_factory = optimizer or AdamW
        self.scheduler_factory = scheduler
        self.label_smoothing = label_smoothing
        self.compile_mode = compile
        self.lr = lr
        self.compiled: tuple[torch.Size, ForwardPass] | None = None
        self.forward_options: dict[str, bool] = {}
        self.images_seen = 0
        self.train_metrics: dict[str, float] = {}
        self.accept_complete = True
        self.resumed_random_state: dict[str, Any] | None = None
        self.means: dict[str, StageMeans] = {}
        self.batches = BatchReader()
        # The images of the present step, which need no check. A list, because setting an attribute takes microseconds.
        self.known_pixels: list[Tensor] = []
        self.example_input_array = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)  # Lightning's name; for its summary
        self._reset()
        self.save_hyperparameters(self._hyperparameters(optimizer, scheduler))

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> "Self":
        """Create a module with the hyperparameters and the weights of a checkpoint.

        Args:
            checkpoint_path: a checkpoint of `mnist_cls.train` or of any Trainer; or what `find_checkpoint` finds.
            map_location: device of the module; None: the CPU.
            hparams_file: not supported; give hyperparameters as `kwargs`.
            strict: whether the names of all weights must be those of the module; None: `strict_loading` decides.
            weights_only: as if it were True, whatever it is: nothing in the file is executed or imported.
            kwargs: arguments of the module instead of those in the checkpoint. `optimizer` and `scheduler` are not in
                it, and neither is a `model` that was given as a network.

        Returns:
            The module, in training mode as always in Lightning; `eval()` or `freeze()` prepares it for predictions.

        Raises:
            InputError: If the file cannot be read, is damaged, could run code, or its weights do not fit.
        """
        if hparams_file is not None or not isinstance(checkpoint_path, (str, Path)):
            raise InputError("load_from_checkpoint: expected a checkpoint's path, and hyperparameters as arguments")
        weights, content = read_checkpoint(checkpoint_path)
        arguments = saved_arguments(cls, content, cls.CHECKPOINT_HYPER_PARAMS_KEY, weights.path)
        if "model" in argument_names(cls) and "model" not in kwargs:
            if cls.__init__ is not MNISTModule.__init__:  # a subclass may give its argument another meaning
                arguments |= {"model": weights.model} if weights.model and "model" not in arguments else {}
            elif not weights.model:
                raise InputError(
                    f"{weights.path}: its network was given as an object, which is not in the checkpoint; give it"
                    f" again: load_from_checkpoint(..., model=NETWORK)"
                )
            else:
                check_fit(weights, build_on_meta(weights).state_dict())
                arguments["model"] = weights.model
        module = cls(**(arguments | kwargs))
        if content:
            module.on_load_checkpoint(content)
        state = content.get("state_dict") or {NETWORK_PREFIX + name: value for name, value in weights.state.items()}
        module._load_state(state, weights, module.strict_loading if strict is None else strict)
        return module.to(map_location) if isinstance(map_location, (str, torch.device)) else module

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        """The metric that chooses the best epoch, and whether it should be small or large."""
        return ("val/accuracy", "max") if self.classifies else ("val/loss", "min")

    def load_weights(self, weights: Weights) -> None:
        """Load the weights of a checkpoint into the network; an `InputError` says where they do not fit."""
        check_fit(weights, self.model.state_dict())
        self.model.load_state_dict(weights.state)

    def forward(self, images: Tensor) -> Any:
        """Run the network on images, which it normalizes.

        Args:
            images: (B, 28, 28) or (B, 1, 28, 28), with values 0 to 255, or 0 to 1. Outside of a Trainer the brightest
                pixel decides which, so that a GPU is waited for.

        Returns:
            What the network returns; of most, logits (B, 10).

        Raises:
            InputError: If the images have another shape or other values.
        """
        if not (self.known_pixels and self.known_pixels[0] is images):
            images = as_pixels(images)
        x = normalize(images)
        if x.dtype != self.dtype:  # as with Trainer(precision="bf16-true")
            x = x.to(self.dtype)
        # The last batch of an epoch may be smaller than the batches the network was compiled for.
        if self.compiled is not None and self.training and self.compiled[0] == x.shape:
            return self.compiled[1](x)
        return self.model(x, **self.forward_options)

    def setup(self, stage: str) -> None:
        """Drop what was found out about the batches of an earlier run, which may have ended within an epoch."""
        self._reset()

    def on_train_start(self) -> None:
        """Compile the network if `compile` is set; restore the random state of the checkpoint, if there is one."""
        if self.compile_mode is not None:
            sample_size = full_batch(self.trainer.train_dataloader)
            pixels = torch.zeros(sample_size, SIZE, SIZE, dtype=torch.uint8, device=self.device)
            sample = normalize(pixels).to(self.dtype)
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

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the loss of a batch, a scalar."""
        images, labels = self.batches.read(batch, "train", self.classifies)
        count = len(labels)
        self.images_seen += count
        loss, correct, _ = self._step(images, labels, "train")
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps
        # Lightning's log() takes longer than a small network's forward pass, so only call it where it writes.
        if every and (self.global_step + 1) % every == 0:
            self.log("train/loss_step", loss.detach())
            self.log("train/learning_rate", trainer.optimizers[0].param_groups[0]["lr"])
            if correct is not None:
                self.log("train/accuracy_step", correct.float().mean())
        return loss * self._batch_weight(batch_idx, count)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the network's outputs, for callbacks, and update the metrics."""
        return self._evaluation_step(batch, "val", dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the network's outputs, for callbacks, and update the metrics."""
        return self._evaluation_step(batch, "test", dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the probabilities of a batch, float32 (B, 10); of a network that does not classify, its outputs.

        The batch is images, or a pair or more that begins with images.
        """
        images, _ = self.batches.read(batch, "predict", False, dataloader_idx)
        with self._float32():
            outputs = self._outputs(images)
        return logits_of(outputs).float().softmax(1) if self.classifies else outputs

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss and accuracy."""
        means = self._log_means("train", suffix="_epoch")
        self.train_metrics = {name.removesuffix("_epoch"): value.item() for name, value in means.items()}

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the accuracy on the validation images."""
        self._log_means("val", len(self.trainer.num_val_batches), prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Log the loss and the accuracy on the test images."""
        self._log_means("test", len(self.trainer.num_test_batches))

    def test_dataloader(self) -> Any:
        """Return the test images of the DataModule in `fit`: `trainer.test()` needs no arguments after it."""
        return self._last_data("test").test_dataloader()

    def predict_dataloader(self) -> Any:
        """Return the images to predict of the DataModule in `fit`."""
        return self._last_data("predict").predict_dataloader()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Create the optimizer and its learning rate schedule."""
        try:
            optimizer = self._optimizer()
            if self.scheduler_factory is None:
                return optimizer
            total = self._total_steps()
            if total < 0:
                raise ValueError("a schedule needs the number of steps; set max_epochs or max_steps of the Trainer")
            scheduler = self.scheduler_factory(optimizer, total_steps=total)
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
            "train_totals": self.means["train"].loader(0).totals(self.trainer.strategy.reduce, self.device).cpu(),
            "train_metrics": self.train_metrics,
            "random_state": random_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check a checkpoint before it is loaded; restore what `on_save_checkpoint` added if a training resumes.

        Raises:
            InputError: If the weights or the optimizer's state do not fit; if its training is complete and that is not
                accepted; or if its learning rate schedule has another length.
        """
        trainer = self._attached_trainer()
        if trainer is None:
            return
        path = Path(str(trainer.ckpt_path or "the checkpoint"))
        weights = weights_of(checkpoint, path)
        if self.strict_loading:
            check_fit(weights, self.model.state_dict())
        if trainer.state.fn != "fit":
            return
        check_entries(checkpoint, path)
        if type(self).configure_optimizers is MNISTModule.configure_optimizers:
            parameters = [one for group in self._optimizer().param_groups for one in group["params"]]
            check_optimizers(checkpoint, parameters, path)
        saved = checkpoint[KEY]
        planned, done, total = saved["steps"], checkpoint["global_step"], self._total_steps()
        instead = (
            "to start another training from its weights, use checkpoint=RUN/model.safetensors, or in Python"
            " MNISTModule.load_from_checkpoint"
        )
        if 0 <= total <= done and not (self.accept_complete and planned == total):
            raise InputError(f"the checkpoint's training is complete, {done} of {total} steps; {instead}")
        if planned != total and self.scheduler_factory is not None:
            raise InputError(f"the checkpoint's learning rate was planned for {planned} steps, not {total}; {instead}")
        self.train_metrics = saved["train_metrics"]
        self.resumed_random_state = saved["random_state"]
        if trainer.is_global_zero:  # the counts of all processes continue in the first one
            self.images_seen = saved["images_seen"]
            if "train_totals" in saved:  # not in checkpoints of earlier versions
                self.means["train"].loader(0).load_totals(saved["train_totals"], self.device)

    def to_onnx(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: `mnist_cls.export` writes files that check and normalize their inputs."""
        raise InputError(_EXPORT)

    def to_torchscript(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, as `to_onnx` does."""
        raise InputError(_EXPORT)

    def total_images_seen(self) -> int:
        """Return the number of images all processes have trained on; a collective call."""
        return int(self.trainer.strategy.reduce(torch.tensor(self.images_seen, device=self.device), reduce_op="sum"))

    def _total_steps(self) -> int:
        """Return the number of optimizer steps of the whole training; -1 if there is no limit, or it is not known."""
        try:
            return int(self.trainer.estimated_stepping_batches)
        except (OverflowError, MisconfigurationException):  # infinite; the batches per step change in the training
            return -1

    def _reset(self) -> None:
        self.means = {name: StageMeans() for name in ("train", "val", "test")}
        self.batches = BatchReader()

    def _hyperparameters(self, optimizer: object, scheduler: object) -> dict[str, Any]:
        """Return plain values for checkpoints and loggers."""
        options = {"label_smoothing": plain("label_smoothing", self.label_smoothing), "compile": self.compile_mode}
        if self.model_config:
            options["model"] = self.model_config
        if self.lr is not None:
            options["lr"] = plain("lr", self.lr)
        # For loggers only: to read a function back from a checkpoint is to import what the file names.
        factories = {"optimizer_factory": optimizer, "scheduler_factory": scheduler}
        return options | {name: described(factory) for name, factory in factories.items() if factory is not None}

    def _attached_trainer(self) -> pl.Trainer | None:
        try:
            return self.trainer
        except RuntimeError:  # not attached to one
            return None

    def _last_data(self, stage: str) -> pl.LightningDataModule:
        # Lightning keeps it, but only asks the module when `test` or `predict` get no images.
        data: pl.LightningDataModule | None = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise InputError(f"no images to {stage}: expected a loader or a DataModule, trainer.{stage}(module, DATA)")
        return data

    def _optimizer(self) -> Optimizer:
        options: dict[str, Any] = {} if self.lr is None else {"lr": self.lr}
        return self.optimizer_factory(self.model.parameters(), **options)

    def _load_state(self, state: Mapping[str, Any], weights: Weights, strict: bool) -> None:
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if strict:
            check_fit(dataclasses.replace(weights, state=tensors), self.state_dict())
        try:
            self.load_state_dict(tensors, strict=strict)
        except RuntimeError as error:
            raise InputError(f"{weights.path}: does not fit: {shortened(' '.join(str(error).split()), 300)}") from error

    def _outputs(self, images: Tensor) -> Any:
        """Run the network on images (B, 28, 28) with values 0 to 255."""
        self.known_pixels.append(images)
        try:
            return self(images)
        finally:
            self.known_pixels.clear()

    def _step(self, images: Tensor, labels: Tensor, stage: str, index: int = 0) -> tuple[Tensor, Tensor | None, Any]:
        """Return loss, correctness (B,) and outputs of a batch, without waiting for a GPU."""
        outputs = self._outputs(images)
        loss = compute_loss(self.model, outputs, images, labels, self.label_smoothing)
        correct = logits_of(outputs).argmax(1) == labels if self.classifies else None
        self.means[stage].loader(index).update(loss, correct, len(labels))
        return loss, correct, outputs

    def _float32(self) -> torch.autocast:
        # As in prediction, whatever the precision of the training.
        return torch.autocast(self.device.type, enabled=False)

    def _evaluation_step(self, batch: Any, stage: str, index: int) -> Any:
        images, labels = self.batches.read(batch, stage, self.classifies, index)
        with self._float32():
            return self._step(images, labels, stage, index)[2]

    def _log_means(self, stage: str, loaders: int = 1, suffix: str = "", prog_bar: bool = False) -> dict[str, Tensor]:
        means = self.means[stage].compute(stage, loaders, suffix, self.trainer.strategy.reduce, self.device)
        if not self.classifies:
            means = {name: value for name, value in means.items() if "/loss" in name}
        self.log_dict(means, prog_bar=prog_bar, add_dataloader_idx=False)
        return means

    def _batch_weight(self, batch_idx: int, count: int) -> float:
        """Return the factor that turns Lightning's mean over the batches of a step into the mean over its images.

        The last step of an epoch may have fewer batches and the last batch fewer images than the others, and the
        processes may have batches of different sizes. Of a user's own loader it is not known which images come.
        """
        batches = self.trainer.accumulate_grad_batches
        if batches == 1 and self.trainer.world_size == 1:
            return 1.0
        loader = self.trainer.train_dataloader
        if not isinstance(loader, BatchLoader):
            return 1.0
        size = loader.batch_size
        total: int = min(loader.sampler.count, int(self.trainer.num_training_batches) * size)
        start = batch_idx // batches * batches * size
        return batches * count * self.trainer.world_size / (min(total, start + batches * size) - start)
