"""What the predictor needs of whatever computes the forward pass."""

from typing import Protocol

import numpy as np


class Engine(Protocol):
    """A network that runs somewhere.

    Attributes:
        name: "eager", "onnx" or "int8".
        device: where it runs, such as "cpu" or "cuda:0".
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def device(self) -> str: ...  # noqa: D102

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute the probabilities of one batch.

        Args:
            images: uint8 (B, 28, 28) in MNIST's form.

        Returns:
            Float32 (B, 10), each row summing to 1.

        Raises:
            MemoryError: If the batch does not fit into memory; a smaller one may.
        """


class Detector(Protocol):
    """Tells digits from other images."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return for each image, uint8 (B, 28, 28), whether it looks like a digit, bool (B,).

        Raises:
            MemoryError: If the batch does not fit into memory; a smaller one may.
        """
