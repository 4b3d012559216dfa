"""A network that classifies arrays of digits in batches, whatever memory the device has left."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..checkpoints.find import Checkpoint
from ..errors import InputError
from ..images import CLASSES, images_from_array
from ..memory import keep_freed_memory
from .engines.choose import faster_engine, load_engine
from .options import PredictOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

# Images in the network at once. On the CPU more are no faster; for a GPU the number was not measured.
CPU_BATCH, GPU_BATCH = 256, 1024

# From this many images on, engine=auto exports the network to ONNX Runtime: well above the number that repays the
# export (docs/benchmarks.md).
MANY_IMAGES = 150_000


class Predictions(NamedTuple):
    """What a network predicts for N images. An image with an error has label -1, and NaN everywhere else.

    Attributes:
        labels: int64 (N,), 0 to 9.
        confidences: float32 (N,), the probability of the label, 0 to 1.
        probabilities: float32 (N, 10), each row summing to 1.
        errors: for each image None, or why it could not be used.
        is_digit: bool (N,), whether the image looks like a digit at all; None unless the predictor was asked to tell.
    """

    labels: np.ndarray
    confidences: np.ndarray
    probabilities: np.ndarray
    errors: list[str | None]
    is_digit: np.ndarray | None = None


class Predictor:
    """Classifies digits.

    Example::

        predictions = Predictor()(images)  # images: uint8 (N, 28, 28)
        predictions.labels

    Args:
        model: a network, or a checkpoint as `load_model` takes it; by default the packaged weights. The probabilities
            of several checkpoints are averaged.
        device: "auto" is CUDA if it is available, else the CPU; or a name that PyTorch knows, such as "cpu" or
            "cuda:1".
        batch_size: number of images in the network at once; None: 256 on the CPU, 1024 on a GPU. It is halved when the
            device runs out of memory.
        early_exit: let images leave at the first confident head of a network that has several.
        is_digit: tell whether each image is a digit at all, by the packaged autoencoder (True) or by that of a
            checkpoint.
        engine: "eager" is PyTorch. "onnx" is ONNX Runtime, on the CPU only: faster, after some seconds of preparation.
            "int8" is PyTorch with 8-bit weights and activations, on the CPU only: the fastest, with probabilities that
            differ by some hundredths. "auto" is PyTorch, and ONNX Runtime for 150,000 images and more if it is
            installed and `model` is a checkpoint. "onnx" and "int8" copy the weights when they are prepared.
        shifts: classify each image at several positions, moved by up to this many pixels in each direction, and
            average the probabilities: 1 takes nine times as long.
        model_file: Python file that registers the checkpoint's network, see `load_user_models`.

    On Linux a predictor makes this process keep freed memory, see `keep_freed_memory`.

    Raises:
        InputError: If a checkpoint cannot be loaded, an option is out of range, or the network or the engine does not
            support one.
    """

    def __init__(
        self,
        model: "nn.Module | Checkpoint" = None,
        device: str = PredictOptions.device,
        batch_size: int | None = PredictOptions.batch_size,
        early_exit: bool = PredictOptions.early_exit,
        is_digit: bool | str | Path = PredictOptions.is_digit,
        engine: str = PredictOptions.engine,
        shifts: int = PredictOptions.shifts,
        model_file: str | Path | None = PredictOptions.model_file,
    ) -> None:
        if model is None or isinstance(model, (str, Path, Sequence)):
            checkpoint, network = model, None
        else:
            checkpoint, network = None, model
        options = PredictOptions(
            checkpoint, device, batch_size, early_exit, is_digit, engine, shifts, model_file=model_file
        )
        self.engine = load_engine(options, network)
        self.detector: Callable[[np.ndarray], np.ndarray] | None = None
        if is_digit is not False:
            from .engines.eager import EagerDetector

            self.detector = EagerDetector(is_digit, device)
        self.batch_size = batch_size or (CPU_BATCH if self.engine.device == "cpu" else GPU_BATCH)
        # A network of the user's own may be trained on, which an export would not follow.
        self._may_export = engine == "auto" and network is None
        keep_freed_memory()

    def prepare(self, count: int) -> None:
        """Announce that `count` images will follow in several arrays, so that engine "auto" can choose the fastest."""
        if self._may_export and count >= MANY_IMAGES:
            self._may_export = False
            self.engine = faster_engine(self.engine)

    def __call__(self, images: "np.ndarray | Tensor", errors: Sequence[str | None] | None = None) -> Predictions:
        """Classify images in MNIST's form.

        Args:
            images: N of them, see `images_from_array` for shapes and dtypes.
            errors: for each image None, or why it cannot be used; such an image is not classified.

        Raises:
            InputError: If the shape or the dtype is none of those, or not even one image fits into memory.
        """
        images, found = images_from_array(images)
        all_errors = [before or after for before, after in zip(errors or found, found, strict=True)]
        self.prepare(len(images))
        probabilities = np.full((len(images), CLASSES), np.nan, np.float32)
        labels = np.full(len(images), -1, np.int64)
        is_digit = None if self.detector is None else np.zeros(len(images), bool)
        usable = np.array([error is None for error in all_errors], bool)
        if usable.any():
            computed, digits = self._run(images if usable.all() else images[usable])
            probabilities[usable] = computed
            labels[usable] = computed.argmax(1)
            if is_digit is not None:
                is_digit[usable] = digits
        return Predictions(labels, probabilities.max(1, initial=-np.inf), probabilities, all_errors, is_digit)

    def _run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Uint8 (N, 28, 28) -> probabilities (N, 10), and is_digit, bool (N,): all False without a detector."""
        probabilities, is_digit = np.empty((len(images), CLASSES), np.float32), np.zeros(len(images), bool)
        start = 0
        while start < len(images):
            left = len(images) - start
            # The rest is cut into powers of two. For each batch size it has met, a process keeps memory for good (small
            # blocks of oneDNN's between large ones of glibc's, which then cannot be joined): gigabytes for hundreds.
            size = self.batch_size if left >= self.batch_size else 1 << (left.bit_length() - 1)
            batch = slice(start, start + size)
            try:
                probabilities[batch] = self.engine(images[batch])
                if self.detector is not None:
                    is_digit[batch] = self.detector(images[batch])
                start += size
            except MemoryError as error:
                if size == 1:
                    raise InputError(
                        "out of memory with a single image on the CPU; close other programs, or use a smaller network"
                    ) from error
                self.batch_size = size // 2
                trying = f"trying {self.batch_size}"
                print(f"out of memory with {size} images on {self.engine.device}: {trying}", file=sys.stderr)
        return probabilities, is_digit


def load_predictor(options: PredictOptions) -> Predictor:
    """Load the network, or the networks, that `options` name."""
    names = ("device", "batch_size", "early_exit", "is_digit", "engine", "shifts", "model_file")
    return Predictor(options.checkpoint, **{name: getattr(options, name) for name in names})
