"""The LightningModule: a network's forward pass, its loss, its metrics and its optimizer."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..checkpoints.build import check_fit
from ..checkpoints.weights import KEY, Weights
from ..data.normalization import normalize
from ..errors import InputError
from ..images import CLASSES, SIZE
from ..models.registry import create_model
from .batch_size import largest_batch
from .compile import Pass, compiled
from .metrics import EpochMeans
from .random_state import random_state, restore_random_state
from .temperature import fit_temperature

Batch = tuple[Tensor, Tensor]


OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


SchedulerFactory = Callable[..., LRScheduler]


class MNISTModule(pl.LightningModule):
    """Trains and tests a network by cross-entropy, or by an objective of its own.

    A network that has a method `loss(outputs, x, labels)` is trained by that; `outputs` is what its `forward` gave for
    the normalized images `x`. One that gives ten logits in evaluation is measured by its accuracy, too. In training its
    outputs may be a tuple that begins with the logits. One that has a method `calibrate(batches)` gets the validation
    images when its training is over.

    Args:
        model: the network's name and options, as `create_model(**model)` takes them; or, to evaluate it, a network.
        optimizer: makes the optimizer from the parameters; None: AdamW with its defaults.
        scheduler: makes the learning rate's schedule, stepped after each step, from the optimizer and
            `total_steps=`, the number of steps of the whole training; None: the rate stays as it is.
        label_smoothing: in training, the share of the target that goes to all ten classes alike, 0 to below 1
            (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567).
        compile: how the training's passes are compiled, see `compiled`; None: they are not.

    Raises:
        InputError: there is no such network, it does not take images (B, 1, 28, 28), or it gives something else than
            logits (B, 10) for them and has no objective of its own.

    Attributes:
        classifies: whether the network gives logits (B, 10) in evaluation.
        forward_options: further arguments of the network's `forward`, such as `early_exit`.
        images_seen: how many images this process has trained on; the first also counts those before a restart.
        train_metrics: the last epoch's loss and accuracy in training.
        may_be_complete: whether a checkpoint may be gone on with whose training is at its end.
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
        # Convolutions are about 1.5 times as fast when the channels of a pixel lie side by side.
        self.model = network.to(memory_format=torch.channels_last)
        self.classifies = self._check_network() == (2, CLASSES)
        if label_smoothing and hasattr(network, "loss"):
            raise InputError(f"label_smoothing={label_smoothing}: {type(network).__name__} has an objective of its own")
        self.optimizer_factory = optimizer or AdamW
        self.scheduler_factory = scheduler
        self.label_smoothing, self.compile_mode = label_smoothing, compile
        self.compiled: tuple[torch.Size, Pass] | None = None
        self.forward_options: dict[str, bool] = {}
        self.images_seen = 0
        self.train_metrics: dict[str, float] = {}
        self.may_be_complete = False
        self._random_state: dict[str, Any] | None = None
        self.means = {stage: EpochMeans() for stage in ("train", "val", "test")}

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, as modules do. Lightning notes here which hook it is in, some fifty times a step."""
        if name == "_current_fx_name":  # a string; PyTorch would first look whether it is a parameter, or a layer
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def load_weights(self, weights: Weights) -> None:
        """Put the weights of a checkpoint into the network.

        Raises:
            InputError: they do not fit.
        """
        check_fit(weights, self.model.state_dict())
        self.model.load_state_dict(weights.state)

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        """The metric that tells the best epoch, and whether it should be small or large."""
        return ("val/accuracy", "max") if self.classifies else ("val/loss", "min")

    def forward(self, images: Tensor) -> Any:
        """Images uint8 or float 0 to 255, (B, 28, 28) -> what the network gives: logits (B, 10), as a rule."""
        x = normalize(images)
        # The last batch of an epoch may be smaller than what was compiled for.
        if self.compiled is not None and self.training and self.compiled[0] == x.shape:
            return self.compiled[1](x)
        return self.model(x, **self.forward_options)

    def on_train_start(self) -> None:
        """Compile the network, if that is wanted; then go on with a checkpoint's random numbers, if there is one."""
        if self.compile_mode is not None:
            self._compile(self.compile_mode)
        if self._random_state is None:
            return
        if self.trainer.world_size == 1:
            restore_random_state(self._random_state)
        else:  # it is that of rank 0, and there may be more processes now: numbers of their own for all of them
            mixed = torch.initial_seed() + 104_729 * self.trainer.global_step
            pl.seed_everything(mixed % 2**32, workers=True, verbose=False)

    def _compile(self, mode: str) -> None:
        """Compile the network for batches of the loader's size."""
        if mode == "cuda_graph" and self.trainer.accumulate_grad_batches > 1:
            # A replay writes its gradients where the last one's are: https://github.com/pytorch/pytorch/issues/181723
            raise InputError("compile=cuda_graph does not go with several batches a step; use compile=null")
        loader: Any = self.trainer.train_dataloader
        # This process's share of a whole batch.
        size = len(range(loader.rank, min(loader.batch_size, loader.sampler.count), loader.world_size))
        sample = normalize(torch.zeros(size, SIZE, SIZE, dtype=torch.uint8, device=self.device))
        autocast = self.trainer.precision_plugin.forward_context
        self.compiled = sample.shape, compiled(self.model, mode, sample, autocast)

    def on_train_end(self) -> None:
        """Validation and test, and whoever uses the network later, take it as it is."""
        self.compiled = None

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Let the network set what it sets by held-out images and labels, if it has something to set."""
        set_by: Callable[..., None] | None = getattr(self.model, "calibrate", None)
        if set_by is not None:
            self.model.eval()
            place = next(self.model.parameters()).device
            set_by((normalize(images.to(place)), labels.to(place)) for images, labels in batches)

    @torch.no_grad()
    def fit_temperature(self, batches: Iterable[Batch]) -> float:
        """The temperature that suits the network's logits, by held-out images and labels."""
        self.model.eval()
        place = next(self.model.parameters()).device
        pairs = [(self.model(normalize(images.to(place))), labels.to(place)) for images, labels in batches]
        logits, labels = (torch.cat(column) for column in zip(*pairs, strict=True))
        return fit_temperature(logits, labels)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch, a scalar to take the gradient of."""
        labels = batch[1]
        self.images_seen += len(labels)
        loss, correct = self._step(batch, "train")[:2]
        # Lightning's log() takes longer than a small network's forward pass: only where something is written.
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log_step(loss.detach(), correct)
        return loss * self._share(batch_idx, len(labels))

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        """What the network gives, for callbacks; the metrics are kept here."""
        return self._judge(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Any:
        """What the network gives, for callbacks; the metrics are kept here."""
        return self._judge(batch, "test")

    def on_train_epoch_start(self) -> None:
        """Forget what an epoch that was broken off has added up."""
        self.means["train"].forget()

    def on_validation_epoch_start(self) -> None:
        """Forget what an epoch that was broken off has added up."""
        self.means["val"].forget()

    def on_test_epoch_start(self) -> None:
        """Forget what an epoch that was broken off has added up."""
        self.means["test"].forget()

    def on_train_epoch_end(self) -> None:
        """Log what the epoch's steps added up."""
        self._log_means("train", "train/accuracy_epoch")

    def on_validation_epoch_end(self) -> None:
        """Log what the batches added up."""
        self._log_means("val", "val/accuracy", prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Log what the batches added up."""
        self._log_means("test", "test/accuracy")

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
        """Write into the checkpoint which network it is of, how long its training is, and what else it goes on from."""
        gather: Callable[..., Any] = self.all_gather
        checkpoint[KEY] = {
            "model": self.model_config,
            "steps": self._total_steps(),
            "images_seen": self.images_seen_by_all(),
            "train_means": self.means["train"].state(gather),
            "train_metrics": self.train_metrics,
            "random_state": random_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See whether a training can go on from the checkpoint, and do so.

        Raises:
            InputError: it is at its end, or was planned for another number of steps than the schedule has now.
        """
        ours = checkpoint[KEY]
        planned, done, now = ours["steps"], checkpoint["global_step"], self._total_steps()
        instead = "to train on from its weights alone, use checkpoint=RUN/model.safetensors"
        if done >= now and not (self.may_be_complete and planned == now):
            raise InputError(f"the checkpoint's training is complete, {done} of {now} steps; {instead}")
        if planned != now and self.scheduler_factory is not None:
            raise InputError(f"the checkpoint's learning rate was planned for {planned} steps, not {now}; {instead}")
        first = self.trainer.is_global_zero
        self.images_seen = ours["images_seen"] if first else 0
        self.train_metrics = ours["train_metrics"]
        self._random_state = ours["random_state"]
        self.means["train"].load(ours["train_means"], self.device, counts=first)

    def images_seen_by_all(self) -> int:
        """How many images all processes together have trained on; all of them must ask."""
        return int(self.trainer.strategy.reduce(torch.tensor(self.images_seen, device=self.device), reduce_op="sum"))

    def largest_batch(self, device: torch.device, most: int) -> int:
        """Find the largest batch with which a step of training fits into the memory of a device.

        Args:
            device: it gets a copy of the network for the trial.
            most: the largest batch that is wanted; the answer divides it.

        Raises:
            InputError: not even one image fits.
        """
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            found = largest_batch(lambda size: self._try_batch(device, size), most)
        if found is None:
            raise InputError(f"out of memory: not even one image fits into a step of training on {device}")
        return found

    def _try_batch(self, device: torch.device, size: int) -> None:
        trial = copy.deepcopy(self.model).to(device).train()
        optimizer = self.optimizer_factory(trial.parameters())
        images = torch.zeros(size, SIZE, SIZE, dtype=torch.uint8, device=device)
        labels = torch.zeros(size, dtype=torch.int64, device=device)
        for _ in range(2):  # from the second step on there are last gradients and the optimizer's averages, too
            loss = self._loss(trial(normalize(images)), images, labels, trial)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _total_steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor | None, Any]:
        """The loss, whether each image was told right, and what the network gives. Nothing here waits for a GPU."""
        images, labels = batch
        outputs = self(images)
        loss = self._loss(outputs, images, labels)
        correct = None
        if self.classifies:
            logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
            correct = logits.argmax(1) == labels
        self.means[stage].add(loss.detach(), correct, len(labels))
        return loss, correct, outputs

    def _judge(self, batch: Batch, stage: str) -> Any:
        """What the network gives for held-out images: in float32, as prediction has it, whatever it is trained in."""
        with torch.autocast(self.device.type, enabled=False):
            return self._step(batch, stage)[2]

    def _log_step(self, loss: Tensor, correct: Tensor | None) -> None:
        self.log("train/loss_step", loss)
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        if correct is not None:
            self.log("train/accuracy_step", correct.float().mean())

    def _log_means(self, stage: str, accuracy_name: str, prog_bar: bool = False) -> None:
        loss, accuracy = self.means[stage].compute(self.trainer.strategy.reduce)
        self.log(f"{stage}/loss", loss, prog_bar=prog_bar)
        if accuracy is not None:
            self.log(accuracy_name, accuracy, prog_bar=prog_bar)
        if stage == "train":
            self.train_metrics = {"train/loss": loss.item()}
            if accuracy is not None:
                self.train_metrics["train/accuracy"] = accuracy.item()

    def _share(self, batch_idx: int, count: int) -> float:
        """What makes the mean over the batches of a step, which Lightning takes, the mean over its images.

        The last step of an epoch may have fewer batches than the others, its last batch fewer images, and one process
        of several an image more of a batch than the next.
        """
        parts = self.trainer.accumulate_grad_batches
        if parts == 1 and self.trainer.world_size == 1:
            return 1.0
        loader: Any = self.trainer.train_dataloader
        size: int = loader.batch_size
        total: int = min(loader.sampler.count, int(self.trainer.num_training_batches) * size)
        start = batch_idx // parts * parts * size
        return parts * count * self.trainer.world_size / (min(total, start + parts * size) - start)

    def _loss(self, outputs: Any, images: Tensor, labels: Tensor, network: nn.Module | None = None) -> Tensor:
        network = network or self.model
        own: Callable[..., Tensor] | None = getattr(network, "loss", None)
        if own:
            return own(outputs, normalize(images), labels)
        return F.cross_entropy(outputs, labels, label_smoothing=self.label_smoothing if network.training else 0.0)

    def _check_network(self) -> tuple[int, ...]:
        config = self.model_config or type(self.model).__name__
        self.model.eval()
        try:
            with torch.no_grad():
                outputs = self.model(torch.zeros(2, 1, SIZE, SIZE))
        except Exception as error:  # a network of the user's own may fail in any way
            reason = (str(error).splitlines() or [""])[0]
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise InputError(f"model={config}: does not take images (B, 1, 28, 28): {kind}{reason}") from error
        finally:
            self.model.train()
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
        if shape != (2, CLASSES) and not hasattr(self.model, "loss"):
            found = shape or type(outputs).__name__
            raise InputError(
                f"model={config}: gives {found} for 2 images; expected 10 logits each, (2, 10),"
                " or a network with an objective of its own, loss(outputs, x, labels)"
            )
        return shape
