"""Conditional computation: images that are easy to classify leave the network at an early head.

Source: BranchyNet, Teerapittayanon et al. 2016, https://arxiv.org/abs/1709.01686.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConditionalOutputs(NamedTuple):
    """What `Conditional` returns in training: the logits of both heads, (B, 10) each."""

    logits: Tensor
    early_logits: Tensor


class Conditional(nn.Module):
    """A convolutional classifier with an early exit.

    Shapes for a batch of B images, R of which do not leave early::

        input                          (B,  1, 28, 28)
        conv1, ReLU                    (B, 32, 14, 14)
        early_conv, ReLU, early_head   (B, 10)           up to here, a ninth of the FLOPs without early exit
        conv2, ReLU                    (R, 64, 14, 14)   R = B without early exit
        pool                           (R, 64,  7,  7)
        conv3, ReLU                    (R, 64,  7,  7)
        pool                           (R, 64,  3,  3)
        fc1, ReLU, dropout             (R, 128)
        fc2                            (R, 10)

    In training both heads classify all images. In evaluation the last head does; with `early_exit=True`, the early head
    classifies each image for which it is confident enough.

    Args:
        dropout: Fraction of fc1's outputs that are zeroed in training, 0 to 1.
        early_weight: Weight of the early head's loss; the last head's loss has weight 1.

    Attributes:
        threshold: Lowest confidence of the early head at which an image leaves early. A buffer, so that it is saved
            with the weights; infinite until `calibrate` sets it, so that no image leaves early.
    """

    threshold: Tensor

    def __init__(self, dropout: float = 0.25, early_weight: float = 0.3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=5, stride=2, padding=2)
        self.early_conv = nn.Conv2d(32, 32, kernel_size=3, stride=2, padding=1)
        self.early_head = nn.Linear(32 * 7 * 7, 10)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(64 * 3 * 3, 128)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(128, 10)
        self.early_weight = early_weight
        self.register_buffer("threshold", torch.tensor(torch.inf))

    def forward(self, x: Tensor, early_exit: bool = False) -> Tensor | ConditionalOutputs:
        """Normalized float32 images (B, 1, 28, 28) -> logits (B, 10); in training, the logits of both heads.

        In evaluation, images can leave at the early head if `early_exit` is set.
        """
        x = torch.relu(self.conv1(x))
        if not self.training and not early_exit:
            return self._late(x)
        early_logits = self._early(x)
        if self.training:
            return ConditionalOutputs(self._late(x), early_logits)
        unsure = early_logits.softmax(1).amax(1) < self.threshold
        logits = early_logits
        if unsure.any():
            logits[unsure] = self._late(x[unsure])
        return logits

    def loss(self, outputs: Tensor | ConditionalOutputs, x: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy: in training the weighted sum over both heads."""
        if isinstance(outputs, Tensor):
            return F.cross_entropy(outputs, labels)
        early = F.cross_entropy(outputs.early_logits, labels)
        return F.cross_entropy(outputs.logits, labels) + self.early_weight * early

    @torch.no_grad()
    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor]], tolerance: float = 0.0) -> None:
        """Set `threshold` as low as possible without losing more than `tolerance` in accuracy.

        Call it in evaluation mode.

        Args:
            batches: Normalized images (B, 1, 28, 28) that were not trained on, and their labels (B,).
            tolerance: Accuracy that early exit may lose, 0 to 1.
        """
        columns = []
        for x, labels in batches:
            features = torch.relu(self.conv1(x))
            confidence, early = self._early(features).softmax(1).max(1)
            late = self._late(features).argmax(1)
            columns.append(torch.stack([confidence, early == labels, late == labels]))
        confidence, early_correct, late_correct = torch.cat(columns, 1).double()
        order = confidence.argsort(descending=True)
        # Correct predictions lost if the k most confident images leave early, for each k from 1.
        lost = (late_correct - early_correct)[order].cumsum(0)
        # Images of equal confidence leave together or not at all.
        last_of_equals = confidence[order].diff(append=confidence.new_tensor([-1.0])) < 0
        allowed = ((lost <= tolerance * len(order)) & last_of_equals).nonzero()
        self.threshold.fill_(confidence[order[allowed[-1]]].item() if len(allowed) else torch.inf)

    def _early(self, features: Tensor) -> Tensor:
        logits: Tensor = self.early_head(torch.relu(self.early_conv(features)).flatten(1))
        return logits

    def _late(self, features: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv2(features)))
        x = self.pool(torch.relu(self.conv3(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(self.dropout(x))
        return logits
