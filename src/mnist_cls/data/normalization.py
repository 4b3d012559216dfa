"""The canonical image: 28x28, uint8, a bright digit on black; how anything becomes one, and how a network sees it."""

from torch import Tensor

from ..images import MEAN, STD


def normalize(images: Tensor) -> Tensor:
    """Turn images into what every network here takes: `(x / 255 - 0.1307) / 0.3081`.

    Args:
        images: values 0 to 255, uint8 or floating, shape (B, 28, 28), on any device.

    Returns:
        Float32 (B, 1, 28, 28) on the same device; a floating dtype is kept.
    """
    x = images.unsqueeze(1)
    if not x.is_floating_point():
        x = x.float()
    # One multiplication and one addition instead of two divisions and a subtraction.
    return x.mul(1 / (255 * STD)).sub_(MEAN / STD)
