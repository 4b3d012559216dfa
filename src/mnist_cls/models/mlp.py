"""A multilayer perceptron of any widths; by default 784 -> 128 -> 10, 101,770 parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers `fc1`, `fc2`, ... with ReLUs between them.

    Args:
        widths: Number of inputs, then the number of outputs of each layer: (784, 128, 10) makes the layers
            fc1 (784 -> 128) and fc2 (128 -> 10).
        dropout: Fraction of each hidden layer's outputs that are zeroed in training, 0 to 1.

    Raises:
        ValueError: If there are fewer than two widths, or if one is not a positive whole number.
    """

    def __init__(self, widths: Sequence[int] = (784, 128, 10), dropout: float = 0.0) -> None:
        super().__init__()
        if len(widths) < 2 or not all(isinstance(width, int) and width > 0 for width in widths):
            raise ValueError(f"widths must be two or more positive whole numbers, found {list(widths)}")
        self.layers = [f"fc{number}" for number in range(1, len(widths))]
        for layer, inputs, outputs in zip(self.layers, widths, widths[1:], strict=False):
            self.add_module(layer, nn.Linear(inputs, outputs))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 values (B, ...), widths[0] for each sample -> (B, widths[-1])."""
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = self.dropout(torch.relu(self.get_submodule(layer)(x)))
        logits: Tensor = self.get_submodule(self.layers[-1])(x)
        return logits
