"""The internals and the mistakes of a network during training, in TensorBoard."""

from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from ...data.normalization import normalize
from ...evaluation.pictures import draw_errors, draw_pairs
from ...images import CLASSES
from ...tracing.recorder import trace_forward
from ..batches import as_pixels
from .pictures import tensorboard_writer

# Images to trace: few, since a trace copies the outputs of all operations, but enough for the fractions of zeros.
_TRACED = 16


class TensorBoardInspection(Callback):
    """Writes a network's internals and mistakes to TensorBoard, if the Trainer has a TensorBoard logger.

    Every `log_every_n_steps`: the norm of the gradient before clipping. Every epoch: histograms of weights and
    gradients, the fraction of zeros in the output of each operation, and for the validation images the accuracy and
    the precision-recall curve of each class and the most confident mistakes. At the end of training: an embedding
    projector with the outputs of the layer fc1, or without fc1 with the inputs of the last linear layer. If the network
    does not classify but returns images, validation images above its outputs instead of the classes and mistakes.

    Args:
        mistakes: number of images in the picture of mistakes.
        embedded: number of validation images in the projector.
    """

    def __init__(self, mistakes: int = 32, embedded: int = 1000) -> None:
        self.mistakes, self.embedded = mistakes, embedded
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self.last: tuple[Tensor, Tensor] | None = None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Write the gradient's norm, and in the epoch's last step the histograms of the gradients."""
        step = trainer.global_step
        due = (step + 1) % cast(Any, trainer).log_every_n_steps == 0
        writer = tensorboard_writer(trainer) if due or trainer.is_last_batch else None
        if writer is None:
            return
        gradients = {name: p.grad for name, p in _network(pl_module).named_parameters() if p.grad is not None}
        if due:
            writer.add_scalar("train/gradient_norm", torch.nn.utils.get_total_norm(gradients.values()), step)
        if trainer.is_last_batch:
            for name, gradient in gradients.items():
                writer.add_histogram(f"gradients/{name}", gradient, step)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Keep the batch and the network's outputs until the end of the epoch."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and isinstance(outputs, Tensor):
            images, labels = batch
            self.batches.append((images, labels, outputs.float()))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's histograms, curves and pictures."""
        batches, self.batches = self.batches, []
        writer, step = tensorboard_writer(trainer), trainer.global_step
        if writer is None or not batches:
            return
        network = _network(pl_module)
        images, labels, outputs = (torch.cat(column) for column in zip(*batches, strict=True))
        images = as_pixels(images).to(torch.uint8)
        for name, parameter in network.named_parameters():
            writer.add_histogram(f"weights/{name}", parameter, step)
        for record in trace_forward(network, normalize(images[:_TRACED])):
            if record.value.is_floating_point() and record.value.ndim > 1:
                writer.add_scalar(f"zeros/{record.name}", record.zeros, step)
        if pl_module.classifies:
            self._write_classes(writer, labels, outputs, step)
            drawn = draw_errors(images, labels, outputs.softmax(1), self.mistakes)
            writer.add_image("val/mistakes", np.array(drawn), step, dataformats="HW")
        elif outputs.ndim == 4:
            pairs = draw_pairs(normalize(images[:32]), outputs[:32])
            writer.add_image("val/outputs", np.array(pairs), step, dataformats="HWC")
        self.last = images[: self.embedded], labels[: self.embedded]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the embedding projector here, since training can end before its last epoch."""
        writer = tensorboard_writer(trainer)
        if writer is None or self.last is None:
            return
        images, labels = self.last
        tag, features = _features(_network(pl_module).eval(), images)
        _network(pl_module).train()
        if features is not None and len(features) == len(images):
            sprites = 1 - images.unsqueeze(1).cpu() / 255
            writer.add_embedding(features, labels.tolist(), sprites, trainer.global_step, tag=tag)

    def _write_classes(self, writer: Any, labels: Tensor, logits: Tensor, step: int) -> None:
        probabilities = logits.softmax(1)
        correct = logits.argmax(1) == labels
        for digit in range(CLASSES):
            of_digit = labels == digit
            if of_digit.any():
                writer.add_scalar(f"val/accuracy_of/{digit}", correct[of_digit].float().mean(), step)
            writer.add_pr_curve(f"val/precision_recall/{digit}", of_digit, probabilities[:, digit], step)


def _network(pl_module: pl.LightningModule) -> nn.Module:
    return cast(nn.Module, pl_module.model)


@torch.no_grad()
def _features(network: nn.Module, images: Tensor) -> tuple[str, Tensor | None]:
    """Return fc1's output, or the input of the last linear layer, (N, features), and its name.

    There is None without a linear layer.
    """
    layers = dict(network.named_modules())
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if not linear:
        return "", None
    found: list[Tensor] = []
    has_fc1 = "fc1" in layers

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((output if has_fc1 else inputs[0]).flatten(1))

    handle = layers["fc1" if has_fc1 else linear[-1]].register_forward_hook(keep)
    try:
        for batch in torch.split(images, 100):
            network(normalize(batch))
    finally:
        handle.remove()
    return "fc1" if has_fc1 else f"input of {linear[-1]}", torch.cat(found) if found else None
