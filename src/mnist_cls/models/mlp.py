"""A multilayer perceptron of any widths; by default 784 -> 128 -> 10, 101,770 parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers `fc1`, `fc2`, ... with a ReLU between each two.

    Args:
        widths: the number of values going in, then the number coming out of each layer:
            (784, 128, 10) has the layers fc1 (784 -> 128) and fc2 (128 -> 10); (3, 4, 1) is a 3 -> 4 -> 1 perceptron.
        dropout: the share of each hidden layer's outputs that are zeroed in training, 0 to 1.

    Raises:
        ValueError: fewer than two widths, or a width that is no positive whole number.
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
        """Float32 values (B, ...), as many per sample as the first width -> (B, the last width)."""
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = self.dropout(torch.relu(self.get_submodule(layer)(x)))
        logits: Tensor = self.get_submodule(self.layers[-1])(x)
        return logits
