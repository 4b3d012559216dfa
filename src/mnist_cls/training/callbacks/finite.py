"""What happens when a training goes astray: the first NaN or Inf stops it, and is kept for a look at it."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from ...checkpoints.weights import save_weights
from ...data.normalization import normalize
from ...errors import InputError
from ...files import whole_file
from ...tracing.recorder import Trace, trace_forward

Batch = tuple[Tensor, Tensor]


class _Module(Protocol):
    """What is needed of the LightningModule here."""

    model: nn.Module
    model_config: dict[str, Any]


class StopOnNonFinite(Callback):
    """Stops a training at the first loss or gradient that is NaN or infinite, before it reaches the weights.

    The batch and the weights of that moment are saved, so that `python -m mnist_cls.forward` can repeat the pass, and
    the message names the first operation whose output was not finite.

    Args:
        folder: where they are saved, as `batch.safetensors` and `model.safetensors`.
        replay: makes of that folder the command that repeats the pass.
    """

    def __init__(self, folder: Path, replay: str = "") -> None:
        self.folder, self.replay = folder, replay
        self.batch: Batch | None = None
        self.random_state: Tensor | None = None
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.loss: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make room for what each step remembers of the network."""
        self.buffers = [(buffer, buffer.clone()) for buffer in cast(_Module, pl_module).model.buffers()]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember the batch, and what its forward pass is going to change: the random state, batch norm's averages."""
        self.batch, self.random_state = batch, torch.get_rng_state()
        for buffer, kept in self.buffers:
            kept.copy_(buffer)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss for the look that comes with the gradients; a GPU is waited for only once a step."""
        self.loss = loss.detach()
        if torch.is_anomaly_enabled():  # PyTorch would stop in the backward pass, with less to say
            self._check(trainer, pl_module, [])

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where several batches make a step, look after each, so that the right one is kept."""
        if trainer.accumulate_grad_batches > 1 and trainer.world_size == 1:
            self._check(trainer, pl_module, trainer.optimizers[0].param_groups)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at the loss and at the gradients, before they are clipped."""
        self._check(trainer, pl_module, trainer.optimizers[0].param_groups)

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule, groups: list[dict[str, Any]]) -> None:
        # In half precision infinite gradients are how PyTorch's scaler finds its scale; it leaves such steps out.
        if str(trainer.precision).startswith("16"):
            groups = []
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        found = torch.zeros(1, device=pl_module.device)
        if gradients:
            # That scaler's own look, one pass over all of them, at a third of what their norm takes.
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, torch.ones_like(found))
        # Processes that wait for each other's gradients must stop together: at those, which are the same for all.
        loss = cast(Tensor, self.loss).item() if trainer.world_size == 1 else 0.0
        if not math.isfinite(loss):
            self._stop(trainer, pl_module, f"the loss is {loss}")
        if found.item():
            # Gradients arise from the last layer to the first: the last that is not finite was the first to be so.
            of = {name: p.grad for name, p in cast(_Module, pl_module).model.named_parameters() if p.grad is not None}
            last = [name for name, gradient in of.items() if not gradient.isfinite().all()][-1]
            self._stop(trainer, pl_module, f"the gradient of {last} is not finite")

    def _stop(self, trainer: pl.Trainer, pl_module: pl.LightningModule, what: str) -> NoReturn:
        module = cast(_Module, pl_module)
        images, labels = cast(Batch, self.batch)
        step = trainer.global_step + 1
        with torch.no_grad():
            for buffer, kept in self.buffers:
                buffer.copy_(kept)
        if trainer.is_global_zero:
            from safetensors.torch import save_file

            with whole_file(self.folder / "batch.safetensors") as temporary:
                random_state = cast(Tensor, self.random_state)
                batch = {"images": images.cpu().contiguous(), "labels": labels.cpu(), "random_state": random_state}
                save_file(batch, temporary)
            save_weights(self.folder / "model.safetensors", module.model, module.model_config, {"step": step})
        with torch.no_grad(), torch.random.fork_rng():
            torch.set_rng_state(cast(Tensor, self.random_state))
            trace = trace_forward(module.model, normalize(images))
        raise InputError(
            f"step {step}: {what}{_first(images, trace)}; {_advice(trainer)};"
            f" batch and weights are in {self.folder}{f', look at them with: {self.replay}' if self.replay else ''}"
        )


def _first(images: Tensor, trace: Trace) -> str:
    values = images.reshape(len(images), -1)
    if images.is_floating_point() and not values.isfinite().all():
        bad = int((~values.isfinite().all(1)).nonzero()[0])
        return f", and so is image {bad} of the batch itself"
    first = trace.first_not_finite()
    if first is None:
        return ", while every operation of the forward pass was finite"
    where = f" of {first.layer}" if first.layer else ""
    return f"; the first operation whose output was not finite is {first.operation}{where} ({first.place})"


def _advice(trainer: pl.Trainer) -> str:
    def options() -> Iterator[str]:
        optimizer = trainer.optimizers[0]
        yield f"try a smaller optimizer.lr (it is at {optimizer.param_groups[0]['lr']:.3g})"
        # Adam's steps do not depend on the scale of the gradient.
        if not trainer.gradient_clip_val and "Adam" not in type(optimizer).__name__:
            yield "trainer.gradient_clip_val=1"

    kept = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    good = f"; the last good checkpoint is {kept}" if kept.is_file() else ""
    return " or ".join(options()) + good
