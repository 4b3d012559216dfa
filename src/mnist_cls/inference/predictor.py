"""A network that reads arrays of digits, without gradients, whatever memory the device has left."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import load_model
from ..errors import InputError
from ..images import images_from_array, normalize


class Predictions(NamedTuple):
    """What a network says of N images. Of an image that has an error it says nothing: label -1, the rest NaN.

    Attributes:
        labels: int64 (N,), 0 to 9.
        confidences: float32 (N,), the probability of the label, 0 to 1.
        probabilities: float32 (N, 10), each row adding up to 1.
        errors: N times None, or why the image could not be used.
    """

    labels: np.ndarray
    confidences: np.ndarray
    probabilities: np.ndarray
    errors: list[str | None]


class Predictor:
    """Reads digits.

    Example::

        predictions = Predictor()(images)  # images: uint8 (N, 28, 28)
        predictions.labels

    Args:
        model: a network, or a checkpoint as `load_model` takes it; left out, the weights that the package carries.
        device: "auto" takes CUDA where there is one; else a name as PyTorch has it, such as "cpu" or "cuda:1".
        batch_size: how many images are in the network at once. It is halved when the device's memory runs out.

    Raises:
        InputError: there is no such checkpoint or device.
    """

    def __init__(
        self, model: nn.Module | str | Path | None = None, device: str = "auto", batch_size: int = 256
    ) -> None:
        network = model if isinstance(model, nn.Module) else load_model(model)
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: expected at least 1")
        self.batch_size = batch_size
        self.device = find_device(device)
        # Convolutions are about 1.5 times as fast when the channels of a pixel lie side by side.
        self.model = network.eval().to(memory_format=torch.channels_last).to(self.device)

    def __call__(self, images: np.ndarray | Tensor) -> Predictions:
        """Predict an array of images that are in MNIST's form, see `images_from_array` for shapes and dtypes.

        Raises:
            InputError: the shape or the dtype is none of those.
        """
        usable, errors = images_from_array(images)
        # PyTorch takes no array that is read-only, as memory-mapped ones are, or that runs backwards.
        plain = usable.flags.writeable and usable.flags.c_contiguous
        return self.predict(usable if plain else usable.copy(), errors)

    def predict(self, images: np.ndarray, errors: list[str | None] | None = None) -> Predictions:
        """Predict images that have been checked.

        Args:
            images: uint8 (N, 28, 28), contiguous and writable.
            errors: N times None, or why an image cannot be used; such an image is not predicted.
        """
        errors = errors or [None] * len(images)
        probabilities = np.full((len(images), 10), np.nan, np.float32)
        labels = np.full(len(images), -1, np.int64)
        good = np.array([error is None for error in errors], bool)
        if good.any():
            probabilities[good] = self.probabilities(torch.from_numpy(images if good.all() else images[good])).numpy()
            labels[good] = probabilities[good].argmax(1)
        return Predictions(labels, probabilities.max(1, initial=-np.inf), probabilities, errors)

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 28, 28) on any device -> probabilities float32 (N, 10) on the CPU.

        When the device's memory runs out, the batch is halved and tried again; when not even one image fits, the
        network moves to the CPU. Both are said on standard error, and hold for what comes after.

        Raises:
            InputError: not even one image fits into the CPU's memory.
        """
        results = torch.empty(len(images), 10)
        start = 0
        while start < len(images):
            batch = images[start : start + self.batch_size]
            try:
                results[start : start + len(batch)] = self.model(normalize(batch.to(self.device))).softmax(1)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                self._shrink(len(batch))
            else:
                start += len(batch)
        return results

    def _shrink(self, failed: int) -> None:
        if failed > 1:
            self.batch_size = failed // 2
            print(f"out of memory with {failed} images on {self.device}: trying {self.batch_size}", file=sys.stderr)
        elif self.device.type != "cpu":
            print(f"out of memory with a single image on {self.device}: moving to the CPU", file=sys.stderr)
            self.device = torch.device("cpu")
            self.model = self.model.to(self.device)
        else:
            raise InputError(
                "out of memory with a single image on the CPU; close other programs, or use a smaller network"
            )


def find_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: PyTorch knows no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # on "meta" there is nothing to compute with
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or ["not there"])[0]
        raise InputError(f"device={name}: {reason}; use device=cpu, or device=auto to take what there is") from error
    return device


def _out_of_memory(error: BaseException) -> bool:
    # On the CPU PyTorch has no type of its own for it.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
