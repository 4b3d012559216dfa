"""The default network: two convolutions and two linear layers, 421,642 parameters."""

import torch
from torch import Tensor, nn


class ImageClassifier(nn.Module):
    """A small convolutional classifier for 28x28 grey images.

    Shapes for a batch of B images::

        input        (B,  1, 28, 28)
        conv1, ReLU  (B, 32, 28, 28)
        pool         (B, 32, 14, 14)
        conv2, ReLU  (B, 64, 14, 14)
        pool         (B, 64,  7,  7)
        flatten      (B, 3136)
        fc1, ReLU    (B, 128)
        dropout      (B, 128)
        fc2          (B, 10)

    Args:
        dropout: Fraction of fc1's outputs that are zeroed in training, 0 to 1.
    """

    def __init__(self, dropout: float = 0.25) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized float32 images (B, 1, 28, 28) -> logits (B, 10)."""
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(self.dropout(x))
        return logits
