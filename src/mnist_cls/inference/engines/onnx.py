"""ONNX Runtime as an engine, on the CPU: it starts in a tenth of PyTorch's time and memory, and is faster."""

from collections.abc import Sequence

import numpy as np

from ...images import CLASSES
from ..onnx_file import Network


class OnnxEngine:
    """Networks in ONNX Runtime. Averages their probabilities, also over shifted images, as `models.Average` does.

    Args:
        networks: from `images`, uint8 (B, 28, 28), to `probabilities`, float32 (B, 10).
        shifts: see `Predictor`.
    """

    name = "onnx"
    device = "cpu"

    def __init__(self, networks: Sequence[Network], shifts: int = 0) -> None:
        self.networks, self.shifts = networks, shifts

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Uint8 (B, 28, 28) -> probabilities, float32 (B, 10)."""
        if len(self.networks) == 1 and not self.shifts:
            return self.networks[0].run(["probabilities"], images)[0]
        total = np.zeros((len(images), CLASSES))
        views = _shifted(images, self.shifts)
        for view in views:
            for network in self.networks:
                total += network.run(["probabilities"], view)[0]
        mean: np.ndarray = total / (len(views) * len(self.networks))
        return mean.astype(np.float32)


class OnnxDetector:
    """An autoencoder in ONNX Runtime that tells digits from other images.

    Args:
        network: from `images`, uint8 (B, 28, 28), to `is_digit`, bool (B,).
    """

    def __init__(self, network: Network) -> None:
        self.network = network

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Uint8 (B, 28, 28) -> whether each is a digit, bool (B,)."""
        return self.network.run(["is_digit"], images)[0]


def _shifted(images: np.ndarray, shifts: int) -> list[np.ndarray]:
    """Return images (B, 28, 28) moved by up to `shifts` pixels in each direction; the pixels at an edge repeat."""
    height, width = images.shape[1:]
    padded = np.pad(images, [(0, 0), (shifts, shifts), (shifts, shifts)], "edge")
    offsets = range(2 * shifts + 1)
    return [padded[:, top : top + height, left : left + width] for top in offsets for left in offsets]
