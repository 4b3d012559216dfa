"""The predictor: classifies digits in batches that fit into the device's memory."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoints.find import Checkpoint
from ..errors import InputError
from ..images import CLASSES, SIZE
from ..memory import keep_freed_memory
from .decoding.batches import batches_of
from .decoding.pool import Decoders
from .engines.choose import load_detector, load_engine
from .options import PredictOptions
from .predictions import MOST_KEPT, Predictions, joined
from .sources.objects import object_source

if TYPE_CHECKING:
    from torch import nn

# Images in the network at once. On the CPU more are no faster; for a GPU the number was not measured.
CPU_BATCH, GPU_BATCH = 128, 1024


class Predictor:
    """Classifies digits.

    Example::

        predictor = Predictor()
        predictor("scan.jpg")                    # or a folder, a pattern, an archive, a table, ...
        predictor(Image.open("scan.jpg"))        # or a list of images and paths
        predictor(x_test / 255).labels           # an array or a tensor

    Args:
        model: a network or an `MNISTModule`, or a checkpoint as `load_model` takes it; by default the packaged weights.
            The probabilities of several checkpoints are averaged.
        device: "auto" is CUDA if it is available, else the CPU; or a name that PyTorch knows, such as "cpu" or
            "cuda:1".
        batch_size: number of images in the network at once; None: 128 on the CPU, 1024 on a GPU. It is halved when the
            device runs out of memory.
        early_exit: stop at the first confident head of a network that has several.
        is_digit: also predict whether each image shows a digit at all, with the packaged autoencoder (True) or the
            autoencoder of a checkpoint.
        engine: "auto" is PyTorch on a GPU. On the CPU it is ONNX Runtime for weights with an ONNX file beside them (the
            packaged weights, and those of a finished run, whose first prediction creates the file), else PyTorch.
            "onnx" is ONNX Runtime for all weights; without an ONNX file, they are exported first, which takes seconds.
            "eager" is PyTorch. "int8" is PyTorch with 8-bit weights and activations, on the CPU only; its probabilities
            differ by some hundredths. "onnx" and "int8" copy a network's weights when the predictor is created.
        preprocess: "auto" converts images that are not in MNIST's form to it, see `to_mnist_form`; "none" takes images
            of 28x28 pixels as they are, and no others.
        shifts: classify each image at several positions, moved by up to this many pixels in each direction, and
            average the probabilities. 1 takes nine times as long as 0.
        model_file: Python file that registers the checkpoint's network, see `load_user_models`.

    On Linux, creating a predictor makes this process keep freed memory, see `keep_freed_memory`.

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
        preprocess: str = PredictOptions.preprocess,
    ) -> None:
        checkpoint: Any = model
        network: Any = None
        if hasattr(model, "state_dict"):  # anything else is a checkpoint, or refused like one
            # An MNISTModule normalizes its input, which the engine does, too; so take its network. It is recognized by
            # a method, because its class would import Lightning.
            checkpoint, network = None, getattr(model, "model", model) if hasattr(model, "run_network") else model
        options = PredictOptions(
            checkpoint,
            device,
            batch_size,
            early_exit,
            is_digit,
            engine,
            shifts,
            model_file=model_file,
            preprocess=preprocess,
        )
        self.preprocess = preprocess
        self.engine = load_engine(options, network)
        self.detector = None if is_digit is False else load_detector(options)
        self.batch_size = batch_size or (CPU_BATCH if self.engine.device == "cpu" else GPU_BATCH)
        keep_freed_memory()

    def __call__(self, inputs: Any) -> Predictions:
        """Classify images.

        An image that cannot be read, or shows no digit, gets an error instead of a label; the others are not affected.
        Files are decoded in other processes. Only what the network sees is kept in memory.

        Args:
            inputs: one of

                - a path: whatever `input=` of `predict` names, see `open_source`;
                - the bytes of an image file, or an open file;
                - a Pillow image;
                - an array or a tensor of one image or many, grey or in colour, of any size and on any device, see
                  `as_stack` for shapes and `images_from_array` for values; a DataFrame with 784 columns;
                - a list, or another iterable, of one image each: paths of image files, and any of the others.

        Raises:
            InputError: If `inputs` is no image and holds none, a path does not exist, none of an array's first images
                has values that can be read, or not even one image fits into memory.
        """
        source = object_source(inputs, self.preprocess)
        parts, count = list[Predictions](), 0
        with Decoders(self.preprocess, split=False, count=source.count) as decoders:
            for batch in batches_of(source, decoders, size=max(source.batch_size, self.batch_size)):
                count += len(batch.names)
                part = self.classify_prepared(batch.decoded.images, batch.decoded.errors, batch.names)
                parts.append(part if count <= MOST_KEPT else replace(part, images=None))
        return joined(parts or [self.classify_prepared(np.zeros((0, SIZE, SIZE), np.uint8))])

    def predict(self, inputs: Any) -> Predictions:
        """Classify images: the same as calling the predictor."""
        return self(inputs)

    def classify_prepared(
        self, images: np.ndarray, errors: Sequence[str | None] | None = None, names: list[str] | None = None
    ) -> Predictions:
        """Classify images that have been prepared.

        Args:
            images: uint8 (N, 28, 28), in MNIST's form.
            errors: for each image None, or why it cannot be used; such an image is not classified.
            names: for each image its path; None for indexes.

        Raises:
            InputError: If the images have another shape or dtype.
        """
        if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE):
            found = f"{images.dtype} {images.shape}"
            raise InputError(f"prepared images are {found}, expected uint8 (N, 28, 28); call the predictor instead")
        all_errors: list[str | None] = [None] * len(images) if errors is None else list(errors)
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
        confidences = probabilities.max(1, initial=-np.inf)
        return Predictions(labels, confidences, probabilities, all_errors, is_digit, names or [], images)

    def _run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Uint8 (N, 28, 28) -> probabilities, float32 (N, 10); is_digit, bool (N,), all False without a detector."""
        probabilities, is_digit = np.empty((len(images), CLASSES), np.float32), np.zeros(len(images), bool)
        start = 0
        while start < len(images):
            left = len(images) - start
            # The rest is cut into powers of two. For each batch size that it has seen, a process keeps memory for good
            # (small blocks of oneDNN between large ones of glibc, which then cannot be joined): hundreds of batch sizes
            # would take gigabytes.
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
    names = ("device", "batch_size", "early_exit", "is_digit", "engine", "shifts", "model_file", "preprocess")
    return Predictor(options.checkpoint, **{name: getattr(options, name) for name in names})
