"""The most accurate network: six convolutions with batch norm, 1,182,698 parameters."""

from collections.abc import Sequence

from torch import Tensor, nn


class Accurate(nn.Module):
    """Three pairs of convolutions, with more channels as the image gets smaller.

    Shapes with the default widths, for a batch of B images::

        input                  (B,   1, 28, 28)
        conv 5x5, norm, ReLU   (B,  32, 24, 24)
        conv 5x5, norm, ReLU   (B,  64, 20, 20)
        pool                   (B,  64, 10, 10)
        conv 3x3, norm, ReLU   (B, 128, 10, 10)
        conv 3x3, norm, ReLU   (B, 128, 10, 10)
        pool                   (B, 128,  5,  5)
        conv 3x3, norm, ReLU   (B, 256,  5,  5)
        conv 3x3, norm, ReLU   (B, 256,  3,  3)
        flatten, dropout       (B, 2304)
        head                   (B, 10)

    Args:
        widths: Output channels of the six convolutions.
        dropout: Fraction of the head's inputs that are zeroed in training, 0 to 1.

    Raises:
        ValueError: If there are not six widths, or if one is not positive.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 128, 256, 256), dropout: float = 0.3) -> None:
        super().__init__()
        if len(widths) != 6 or min(widths) < 1:
            raise ValueError(f"widths must be six positive numbers, found {list(widths)}")
        first, second, third, fourth, fifth, sixth = widths
        self.features = nn.Sequential(
            *_convolution(1, first, 5),
            *_convolution(first, second, 5),
            nn.MaxPool2d(2),
            *_convolution(second, third, 3, padding=1),
            *_convolution(third, fourth, 3, padding=1),
            nn.MaxPool2d(2),
            *_convolution(fourth, fifth, 3, padding=1),
            *_convolution(fifth, sixth, 3),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(9 * sixth, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized float32 images (B, 1, 28, 28) -> logits (B, 10)."""
        features = self.features(x).flatten(1)
        logits: Tensor = self.head(self.dropout(features))
        return logits


def _convolution(inputs: int, outputs: int, size: int, padding: int = 0) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, padding=padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
