"""A network that reads arrays of digits, without gradients, whatever memory the device has left."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoints.build import forward_options, load_model
from ..checkpoints.find import DETECTOR, Checkpoint, each
from ..checkpoints.weights import read_weights
from ..data.datasets import load_dataset
from ..data.normalization import normalize
from ..errors import InputError
from ..images import CLASSES, SIZE, images_from_array
from ..memory import keep_freed_memory, out_of_memory
from ..models.average import Average
from .engines.int8 import int8_network
from .engines.onnx import ENGINES, LONG, onnx_engine, onnx_is_there

# Images in the network at once: on the CPU more are no faster; on a GPU (not measured) they should be.
CPU_BATCH, GPU_BATCH = 256, 1024


class Predictions(NamedTuple):
    """What a network says of N images. Of an image that has an error it says nothing: label -1, the rest NaN.

    Attributes:
        labels: int64 (N,), 0 to 9.
        confidences: float32 (N,), the probability of the label, 0 to 1.
        probabilities: float32 (N, 10), each row adding up to 1.
        errors: N times None, or why the image could not be used.
        is_digit: bool (N,), whether the image looks like a digit at all; None unless the predictor was asked to tell.
    """

    labels: np.ndarray
    confidences: np.ndarray
    probabilities: np.ndarray
    errors: list[str | None]
    is_digit: np.ndarray | None = None


class Predictor:
    """Reads digits.

    Example::

        predictions = Predictor()(images)  # images: uint8 (N, 28, 28)
        predictions.labels

    Args:
        model: a network, or a checkpoint as `load_model` takes it; left out, the weights that the package carries; of
            several checkpoints the probabilities are averaged.
        device: "auto" takes CUDA where there is one; else a name as PyTorch has it, such as "cpu" or "cuda:1".
        batch_size: how many images are in the network at once; None: 256 on the CPU, 1024 on a GPU. It is halved when
            the device's memory runs out.
        early_exit: let images leave at the first head that is sure of them, in a network that has one.
        is_digit: tell whether each image is a digit at all: True by the autoencoder that the package carries, or by
            the one of a checkpoint.
        engine: what computes: "eager" is PyTorch; "onnx" ONNX Runtime, on the CPU only, the faster one once it is
            prepared; "int8" PyTorch in 8 bits, the fastest, with probabilities that differ by some hundredths; "auto"
            takes ONNX Runtime where it is installed, `model` is a checkpoint, and a call has so many images that its
            preparation pays, else PyTorch. The two others keep the weights that they were prepared with.
        shifts: look at each image in several places, moved by up to so many pixels in each direction, and average the
            probabilities: with 1 it takes nine times as long.

    On Linux a predictor lets this process keep freed memory, see `keep_freed_memory`.

    Raises:
        InputError: there is no such checkpoint, device or engine, the network gives no logits, has no early exit,
            the one for `is_digit` is no calibrated autoencoder, or the engine cannot do what is asked for.
    """

    def __init__(
        self,
        model: nn.Module | Checkpoint = None,
        device: str = "auto",
        batch_size: int | None = None,
        early_exit: bool = False,
        is_digit: bool | str | Path = False,
        engine: str = "auto",
        shifts: int = 0,
    ) -> None:
        if shifts < 0:
            raise InputError(f"shifts={shifts}: expected 0 or more")
        network = model if isinstance(model, nn.Module) else load_model(model, shifts)
        if isinstance(model, nn.Module) and shifts:
            network = Average([network], shifts)
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size={batch_size}: expected at least 1")
        if hasattr(network, "reconstruction_error"):
            raise InputError("an autoencoder tells digits from other images, not which they are; use it as is_digit=")
        self.options = forward_options(network, early_exit)
        self.device = find_device(device)
        self.batch_size = batch_size or (CPU_BATCH if self.device.type == "cpu" else GPU_BATCH)
        # Convolutions are about 1.5 times as fast when the channels of a pixel lie side by side.
        self.model = network.eval().to(memory_format=torch.channels_last).to(self.device)
        self.detector = None if is_digit is False else _load_detector(is_digit).to(self.device)
        self.engine = "eager" if engine == "auto" and isinstance(model, nn.Module) else engine
        self.run_onnx: Callable[[Tensor], Tensor] | None = None
        self._prepare_engine(_images_of(model) if engine == "int8" else None)
        keep_freed_memory()

    @torch.inference_mode()
    def _prepare_engine(self, images: Tensor | None) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"engine={self.engine}: expected one of {', '.join(ENGINES)}")
        if self.engine in ("auto", "eager"):
            return
        if self.device.type != "cpu" or self.options:
            what = f"device={self.device}" if self.device.type != "cpu" else "early_exit=true"
            raise InputError(f"engine={self.engine} does not go with {what}; use engine=eager")
        _logits(self.model(torch.zeros(1, 1, SIZE, SIZE)))
        if self.engine == "int8":
            several = self.model if isinstance(self.model, Average) else None
            parts = [int8_network(part, images) for part in (several.members if several else [self.model])]
            self.model = Average(parts, several.shifts) if several else parts[0]
        else:
            self.run_onnx = onnx_engine(self.model)

    def prepare(self, count: int) -> None:
        """Get ready for `count` images to come: with engine "auto" choose the one that takes the least time for all.

        A call does so by itself; whoever passes many small arrays may say here how many images they are.
        """
        if self.engine != "auto" or count < LONG or self.device.type != "cpu" or self.options or not onnx_is_there():
            return
        try:
            self.run_onnx, self.engine = onnx_engine(self.model), "onnx"
        except InputError:  # the network cannot be exported, or not be loaded
            self.engine = "eager"

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
        self.prepare(len(images))
        errors = errors or [None] * len(images)
        probabilities = np.full((len(images), 10), np.nan, np.float32)
        labels = np.full(len(images), -1, np.int64)
        good = np.array([error is None for error in errors], bool)
        is_digit = None if self.detector is None else np.zeros(len(images), bool)
        if good.any():
            found, novel = self._run(torch.from_numpy(images if good.all() else images[good]))
            probabilities[good] = found.numpy()
            labels[good] = probabilities[good].argmax(1)
            if is_digit is not None:
                is_digit[good] = ~novel.numpy()
        return Predictions(labels, probabilities.max(1, initial=-np.inf), probabilities, errors, is_digit)

    def probabilities(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 28, 28) on any device -> probabilities float32 (N, 10) on the CPU."""
        return self._run(images)[0]

    @torch.inference_mode()
    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities (N, 10), and which images are no digits, bool (N,): none without a detector.

        When the device's memory runs out, the batch is halved and tried again; when not even one image fits, the
        network moves to the CPU. Both are said on standard error, and hold for what comes after.

        Raises:
            InputError: not even one image fits into the CPU's memory.
        """
        results, novel = torch.empty(len(images), CLASSES), torch.zeros(len(images), dtype=torch.bool)
        start = 0
        while start < len(images):
            left = len(images) - start
            # The rest is cut into powers of two. Of each size that it has met a process keeps memory for good (small
            # blocks of oneDNN's between large ones of glibc's, which then cannot be joined): of hundreds, gigabytes.
            size = self.batch_size if left >= self.batch_size else 1 << (left.bit_length() - 1)
            batch = images[start : start + size]
            try:
                if self.run_onnx is not None:
                    results[start : start + len(batch)] = self.run_onnx(batch.to(self.device))
                if self.run_onnx is None or self.detector is not None:
                    x = normalize(batch.to(self.device))
                if self.run_onnx is None:
                    results[start : start + len(batch)] = _logits(self.model(x, **self.options)).softmax(1)
                if self.detector is not None:
                    error = self.detector.reconstruction_error(x)  # type: ignore[operator]
                    novel[start : start + len(batch)] = ~(error <= self.detector.threshold)  # NaN is no digit
            except (RuntimeError, MemoryError) as error:
                if out_of_memory(error) is None:
                    raise
                self._shrink(len(batch))
            else:
                start += len(batch)
        return results, novel

    def _shrink(self, failed: int) -> None:
        if failed > 1:
            self.batch_size = failed // 2
            print(f"out of memory with {failed} images on {self.device}: trying {self.batch_size}", file=sys.stderr)
        elif self.device.type != "cpu":
            print(f"out of memory with a single image on {self.device}: moving to the CPU", file=sys.stderr)
            self.device = torch.device("cpu")
            self.model = self.model.to(self.device)
            self.detector = self.detector and self.detector.to(self.device)
        else:
            raise InputError(
                "out of memory with a single image on the CPU; close other programs, or use a smaller network"
            )


def _logits(output: object) -> Tensor:
    if isinstance(output, Tensor) and output.shape[1:] == (CLASSES,):
        return output
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise InputError(f"the network gives {found} in evaluation; prediction needs ten logits for each image, (B, 10)")


def _images_of(model: nn.Module | Checkpoint) -> Tensor | None:
    """The training images of the dataset that a checkpoint was trained on; None: MNIST's."""
    if isinstance(model, nn.Module):
        return None
    weights = read_weights(each(model)[0])
    config = weights.provenance.get("config", {})
    data = config.get("data", {}) if isinstance(config, dict) else None
    name, folder = (data.get("name", "mnist"), data.get("dir")) if isinstance(data, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(folder, str | None):
        raise InputError(f"{weights.path}: its provenance names no dataset to set engine=int8 by; use engine=eager")
    return load_dataset(name, "train", folder).images


def _load_detector(checkpoint: bool | str | Path) -> nn.Module:
    detector = load_model(DETECTOR if checkpoint is True else str(checkpoint))
    if not hasattr(detector, "reconstruction_error") or not hasattr(detector, "threshold"):
        raise InputError(f"is_digit={checkpoint}: not an autoencoder; train one with model=autoencoder")
    if detector.threshold.isnan():  # type: ignore[operator]
        raise InputError(f"is_digit={checkpoint}: its threshold was never set; use the run's model.safetensors")
    return detector


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
