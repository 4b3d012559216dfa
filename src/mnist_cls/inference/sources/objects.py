"""What Python holds of images: arrays, tensors, Pillow images, the bytes of files, paths, and lists of these."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from ...errors import InputError, first_line, shortened
from ...files import expand
from ...images import SIZE, as_array, as_stack, images_from_array
from ...preprocessing.decode import read_image
from .blocks import ARRAY_BATCH, IMAGE_BATCH, Content, InputBlock, Sample, Source, blocks_of, index_names
from .detect import open_source
from .reading import printable

_EXPECTED = "expected a path, the bytes of an image file, a Pillow image, an array or a tensor, or a list of these"

# Bytes of an array that are converted at once.
_SLICE_BYTES = 16_000_000


def object_source(inputs: Any, preprocess: str) -> Source:
    """Return the images in a Python object, see `Predictor.__call__`.

    Raises:
        InputError: If it is no image and holds none, or not one image of an array has values that can be read.
    """
    if isinstance(inputs, (str, os.PathLike)):
        if not os.fspath(inputs):
            raise InputError(f"an empty path; {_EXPECTED}")
        return open_source(os.fspath(inputs), preprocess)
    if _is_file(inputs):
        return _listed([inputs])
    if isinstance(inputs, Mapping):
        raise InputError(f"{type(inputs).__name__} with {shortened(list(inputs))}; name one of them: inputs[...]")
    if hasattr(inputs, "__array__"):
        array = _array(inputs)
        if array.dtype.kind not in "OUS":
            return _array_source(array, preprocess, _is_many(inputs, array.shape))
        inputs = list(array)
    if isinstance(inputs, Sequence):
        joined = _joined(inputs)
        return _listed(inputs) if joined is None else _array_source(joined, preprocess)
    if isinstance(inputs, Iterable):
        return _listed(inputs)
    raise InputError(f"{type(inputs).__name__}; {_EXPECTED}")


def _is_file(one: object) -> bool:
    """Return whether an object is an image file, or a Pillow image."""
    return isinstance(one, (bytes, bytearray, memoryview, Image.Image)) or hasattr(one, "read")


def _is_many(inputs: Any, shape: tuple[int, ...]) -> bool | None:
    """Return whether the first axis counts images, as far as it can be known from the type; see `as_stack`."""
    if hasattr(inputs, "columns"):  # a DataFrame
        if len(shape) != 2 or shape[1] != SIZE * SIZE:
            raise InputError(
                f"a table of {shape[1]} columns; expected the {SIZE * SIZE} pixels of an image: drop the others"
            )
        return True
    if hasattr(inputs, "detach") and len(shape) == 3 and shape[0] == 3 and shape[1:] != (SIZE, SIZE):
        return False  # colours come first in PyTorch
    return None


def _array(inputs: object) -> np.ndarray:
    try:
        return as_array(inputs)
    except Exception as error:  # other libraries raise anything, as for an array on their own device
        raise InputError(
            f"{type(inputs).__name__} is no array of numbers ({first_line(error)}); {_EXPECTED}"
        ) from error


def _joined(items: Sequence[Any]) -> np.ndarray | None:
    """Return lists of numbers, and a list of 28x28 images of one shape and dtype, as one array; None for others."""
    if items and all(isinstance(item, (int, float, np.number, np.bool_, list, tuple)) for item in items):
        return _array(items)
    if not items or not all(hasattr(item, "__array__") and not isinstance(item, Image.Image) for item in items):
        return None
    arrays = [_array(item) for item in items]
    if len({(array.shape, array.dtype) for array in arrays}) > 1:
        return None
    try:
        images = [as_stack(array, many=False)[0] for array in arrays]
    except InputError:  # reported with the number of the item
        return None
    return np.stack(images) if images[0].shape == (SIZE, SIZE) else None


def _array_source(array: np.ndarray, preprocess: str, many: bool | None = None) -> Source:
    stack = as_stack(array, many)
    digits = stack.shape[1:] == (SIZE, SIZE)
    if preprocess == "none" and not digits:
        raise InputError(f"an array of shape {array.shape}; preprocess=none expects images of 28 x 28 pixels")
    size = max(1, min(ARRAY_BATCH if digits else IMAGE_BATCH, _SLICE_BYTES // max(1, stack[:1].nbytes)))
    if stack.dtype != np.uint8:
        _, errors = images_from_array(stack[:size], many=True)
        if errors and all(errors):  # a mistake in the caller's code rather than in an image
            raise InputError(f"an array of {array.dtype}: {errors[0]}")

    def blocks(start: int) -> Iterator[InputBlock]:
        for first in range(start, len(stack), size):
            images = stack[first : first + size]
            yield InputBlock(index_names(first, len(images)), images)

    return Source(len(stack), blocks, "", arrays=digits)


def _listed(items: Iterable[Any]) -> Source:
    """Return one image for each item."""

    def samples() -> Iterator[Sample]:
        for index, item in enumerate(items):
            name = printable(os.fspath(item)) if isinstance(item, (str, os.PathLike)) else str(index)
            yield Sample(name, partial(_content, item, index))

    return Source(len(items) if isinstance(items, Sequence) else None, blocks_of(samples), "")


def _content(item: Any, index: int) -> Content:
    """Return what is decoded of one image; raise an InputError if it is none."""
    if isinstance(item, (str, os.PathLike)):
        return str(expand(os.fspath(item)))
    if hasattr(item, "read"):
        item = item.read()
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    if isinstance(item, Image.Image):
        try:
            return read_image(item)
        except InputError as error:
            return error
    if not hasattr(item, "__array__"):
        raise InputError(f"item {index} is of type {type(item).__name__}; {_EXPECTED}")
    array = _array(item)
    try:
        return np.ascontiguousarray(as_stack(array, many=False)[0])
    except InputError as error:
        raise InputError(f"item {index}: {error}; in a list each item is one image") from error
