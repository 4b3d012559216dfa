"""Stop training at the first NaN or Inf, and save what is needed to find its cause."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from ...checkpoints.weights import save_weights
from ...data.normalization import normalize
from ...errors import InputError
from ...files import whole_file
from ...tracing.recorder import trace_forward
from ...tracing.records import Trace

if TYPE_CHECKING:
    from ..module import MNISTModule

Batch = tuple[Tensor, Tensor]


class StopOnNonFinite(Callback):
    """Stops training at the first loss or gradient that is NaN or infinite, before it reaches the weights.

    Saves the batch, the weights and the random state of that step, so that `python -m mnist_cls.forward` can repeat its
    forward pass.

    Args:
        folder: folder for `batch.safetensors` and `model.safetensors`.
        replay: command that repeats the forward pass, for the message.

    Raises:
        InputError: At such a step. The message names the first operation whose output was not finite.
    """

    def __init__(self, folder: Path, replay: str = "") -> None:
        self.folder, self.replay = folder, replay
        self.batch: Batch | None = None
        self.random_state: Tensor | None = None
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.loss: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Allocate a copy of the network's buffers."""
        self.buffers = [(buffer, buffer.clone()) for buffer in _network(pl_module).buffers()]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the batch, and what its forward pass changes: the random state, and batch norm's running averages."""
        self.batch, self.random_state = batch, torch.get_rng_state()
        for buffer, copy in self.buffers:
            copy.copy_(buffer)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss. Checking it together with the gradients waits for a GPU only once per step."""
        self.loss = loss.detach()
        if torch.is_anomaly_enabled():  # PyTorch would stop in the backward pass, with a less helpful message
            self._check(trainer, pl_module, check_gradients=False)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check after each batch of a step, to save the one at fault."""
        if trainer.accumulate_grad_batches > 1 and trainer.world_size == 1:
            self._check(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Check the loss and the gradients before they are clipped."""
        self._check(trainer, pl_module)

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule, check_gradients: bool = True) -> None:
        gradients: list[Tensor] = []
        # With float16 infinite gradients are normal: PyTorch's gradient scaler skips such steps and lowers its scale.
        if check_gradients and not str(trainer.precision).startswith("16"):
            parameters = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
            gradients = [p.grad for p in parameters if p.grad is not None]
        # A sum keeps NaN and Inf, and takes half as long as the gradients' norm.
        total = torch.stack([gradient.sum() for gradient in gradients]).sum() if gradients else torch.zeros(())
        # Distributed processes must stop together, so only the gradients decide: they are the same in all processes.
        loss = cast(Tensor, self.loss).item() if trainer.world_size == 1 else 0.0
        if not math.isfinite(loss):
            self._stop(trainer, pl_module, f"the loss is {loss}")
        if not math.isfinite(total.item()):
            named = [(name, p.grad) for name, p in _network(pl_module).named_parameters() if p.grad is not None]
            # Gradients are computed from the last layer to the first, so the last one in order was the first to fail.
            # If none has failed, the sum of finite gradients has overflowed.
            failed = [name for name, gradient in named if not gradient.isfinite().all()]
            if failed:
                self._stop(trainer, pl_module, f"the gradient of {failed[-1]} is not finite")

    def _stop(self, trainer: pl.Trainer, pl_module: pl.LightningModule, reason: str) -> NoReturn:
        module, step = cast("MNISTModule", pl_module), trainer.global_step + 1
        images, labels = cast(Batch, self.batch)
        random_state = cast(Tensor, self.random_state)
        with torch.no_grad():
            for buffer, copy in self.buffers:
                buffer.copy_(copy)
        if trainer.is_global_zero:
            with whole_file(self.folder / "batch.safetensors") as temporary:
                batch = {"images": images.cpu().contiguous(), "labels": labels.cpu(), "random_state": random_state}
                save_file(batch, temporary)
            save_weights(self.folder / "model.safetensors", module.model, module.model_config, {"step": step})
        with torch.no_grad(), torch.random.fork_rng():
            torch.set_rng_state(random_state)
            trace = trace_forward(module.model, normalize(images))
        command = f", inspect them with: {self.replay}" if self.replay else ""
        raise InputError(
            f"step {step}: {reason}{_first_operation(images, trace)}; {_advice(trainer)};"
            f" batch and weights are in {self.folder}{command}"
        )


def _network(pl_module: pl.LightningModule) -> torch.nn.Module:
    return cast(torch.nn.Module, pl_module.model)


def _first_operation(images: Tensor, trace: Trace) -> str:
    values = images.reshape(len(images), -1)
    if images.is_floating_point() and not values.isfinite().all():
        index = int((~values.isfinite().all(1)).nonzero()[0])
        return f", and so is image {index} of the batch itself"
    first = trace.first_not_finite()
    if first is None:
        return ", while every operation of the forward pass was finite"
    layer = f" of {first.layer}" if first.layer else ""
    return f"; the first operation whose output was not finite is {first.operation}{layer} ({first.location})"


def _advice(trainer: pl.Trainer) -> str:
    optimizer = trainer.optimizers[0]
    advice = f"try a smaller optimizer.lr (now {optimizer.param_groups[0]['lr']:.3g})"
    # Adam's steps do not depend on the scale of the gradients.
    if not trainer.gradient_clip_val and "Adam" not in type(optimizer).__name__:
        advice += " or trainer.gradient_clip_val=1"
    last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    return f"{advice}; the last good checkpoint is {last}" if last.is_file() else advice
