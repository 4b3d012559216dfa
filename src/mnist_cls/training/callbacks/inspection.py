"""What TensorBoard shows of a network's inside and of its mistakes while it learns."""

import sys
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ...data.normalization import normalize
from ...images import CLASSES
from ...tracing.pictures import draw_captioned, draw_pairs
from ...tracing.recorder import trace_forward
from .pictures import tensorboard_writer

# Enough images for the shares of zeros; more cost memory, since a trace copies all that it sees.
_TRACED = 16


class TensorBoardInspection(Callback):
    """Writes what goes on inside the network to the run's TensorBoard logger; without one it does nothing.

    Where the loss is logged: the gradient's norm, before clipping. Once an epoch: histograms of weights and gradients,
    the share of zeros in what each operation gives, and of the validation images the accuracy and the
    precision-recall curve of each class and those that it gets most wrong. At the end: an embedding projector of fc1's
    output (of a network without such a layer: of what goes into its last linear layer). A network that does not
    classify gets its validation images beside what it makes of them.

    Args:
        mistakes: how many images the picture of the worst mistakes has.
        embedded: how many validation images the projector shows.
    """

    def __init__(self, mistakes: int = 32, embedded: int = 1000) -> None:
        self.mistakes, self.embedded = mistakes, embedded
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self.last: tuple[Tensor, Tensor] | None = None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Write the gradient's norm; in the epoch's last step its histograms."""
        writer, step = tensorboard_writer(trainer), trainer.global_step
        due = (step + 1) % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if writer is None or not (due or trainer.is_last_batch):
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
        """Keep the batch and what the network made of it until the epoch's end."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and isinstance(outputs, Tensor):
            self.batches.append((*batch, outputs.float()))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write all that is written once an epoch."""
        kept, self.batches = self.batches, []
        writer, step = tensorboard_writer(trainer), trainer.global_step
        if writer is None or not kept:
            return
        network = _network(pl_module)
        images, labels, outputs = (torch.cat(column) for column in zip(*kept, strict=True))
        for name, parameter in network.named_parameters():
            writer.add_histogram(f"weights/{name}", parameter, step)
        for record in trace_forward(network, normalize(images[:_TRACED])):
            if record.value.is_floating_point() and record.value.ndim > 1:
                tag = "_".join(filter(None, [f"{record.step:02}", record.layer, record.operation]))
                writer.add_scalar(f"zeros/{tag}", record.zeros, step)
        if pl_module.classifies:
            self._write_classes(writer, labels, outputs, step)
            writer.add_image("val/mistakes", self._draw_mistakes(images, labels, outputs), step, dataformats="HW")
        elif outputs.ndim == 4:
            drawn = draw_pairs(normalize(images[:32]), outputs[:32])
            writer.add_image("val/outputs", np.array(drawn), step, dataformats="HWC")
        self.last = images[: self.embedded], labels[: self.embedded]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the embedding projector, also where a training ends before its last epoch."""
        writer = tensorboard_writer(trainer)
        if writer is None or self.last is None:
            return
        images, labels = self.last
        features = _features(_network(pl_module).eval(), images)
        _network(pl_module).train()
        if features is not None and len(features) == len(images):
            sprites = 1 - images.unsqueeze(1).cpu() / 255
            try:
                writer.add_embedding(features, labels.tolist(), sprites, trainer.global_step, tag="fc1")
            except OSError as error:  # the training has done its work; its files are yet to be written
                print(f"the embedding projector's files cannot be written ({error.strerror})", file=sys.stderr)

    def _write_classes(self, writer: Any, labels: Tensor, logits: Tensor, step: int) -> None:
        probabilities = logits.softmax(1)
        right = logits.argmax(1) == labels
        for digit in range(CLASSES):
            of_digit = labels == digit
            if of_digit.any():
                writer.add_scalar(f"val/accuracy_of/{digit}", right[of_digit].float().mean(), step)
            writer.add_pr_curve(f"val/precision_recall/{digit}", of_digit, probabilities[:, digit], step)

    def _draw_mistakes(self, images: Tensor, labels: Tensor, logits: Tensor) -> np.ndarray:
        wrong = (logits.argmax(1) != labels).nonzero().flatten()
        loss = F.cross_entropy(logits[wrong], labels[wrong], reduction="none")
        worst = wrong[loss.argsort(descending=True)][: self.mistakes]
        confidences, answers = logits[worst].softmax(1).max(1)
        texts = zip(labels[worst].tolist(), answers.tolist(), confidences.tolist(), strict=True)
        return np.array(draw_captioned(images[worst], [f"{label}: {said} {sure:.0%}" for label, said, sure in texts]))


def _network(pl_module: pl.LightningModule) -> nn.Module:
    return cast(nn.Module, pl_module.model)


@torch.no_grad()
def _features(network: nn.Module, images: Tensor) -> Tensor | None:
    """What fc1 gives, or what goes into the last linear layer, (N, features); None if the network has neither."""
    layers = dict(network.named_modules())
    linear = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
    if not linear:
        return None
    found: list[Tensor] = []
    fc1 = layers.get("fc1")

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((inputs[0] if fc1 is None else output).flatten(1))

    handle = (fc1 or linear[-1]).register_forward_hook(keep)
    try:
        for batch in torch.split(images, 100):
            network(normalize(batch))
    finally:
        handle.remove()
    return torch.cat(found) if found else None
