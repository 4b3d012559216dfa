"""Images as Python objects: arrays, tensors, Pillow images, the bytes of files, paths, and lists of these."""

import io
import os
import sys
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
from .reading import LARGEST_FILE, printable, too_large
from .tables import find_columns

_EXPECTED = "expected a path, bytes, a Pillow image, an array, a tensor, or a list of these without labels"

# Shapes of one image of 28x28.
_DIGIT_SHAPES = {(SIZE, SIZE), (1, SIZE, SIZE), (SIZE, SIZE, 1), (SIZE * SIZE,)}

# Bytes of an array that are converted at once.
_SLICE_BYTES = 16_000_000


def object_source(inputs: Any, preprocess: str) -> Source:
    """Return the images in a Python object, see `Predictor.__call__`.

    Raises:
        InputError: If it is no image and holds none, or none of an array's first images has values that can be read.
    """
    if isinstance(inputs, (str, os.PathLike)):
        return _path_source(os.fsdecode(inputs), preprocess)
    if isinstance(inputs, (bytes, bytearray, memoryview, Image.Image)) or hasattr(inputs, "read"):
        return _listed([inputs])
    if isinstance(inputs, Mapping):
        raise InputError(f"{type(inputs).__name__} with {shortened(list(inputs))}; name one of them: inputs[...]")
    if hasattr(inputs, "columns"):  # a DataFrame
        return _array_source(_array(_pixel_columns(inputs)), preprocess, many=True)
    if hasattr(inputs, "__array__"):
        array = _array(inputs)
        if array.dtype.kind not in "OUS":
            return _array_source(array, preprocess, _is_many(inputs, array.shape))
        inputs = list(np.atleast_1d(array))
    _refuse_batches(inputs)
    if not isinstance(inputs, Iterable):
        raise InputError(f"{type(inputs).__name__}; {_EXPECTED}")
    if isinstance(inputs, Sequence):
        stack = _array(inputs) if _holds_numbers(inputs) else _stacked(inputs)
        if stack is not None:
            return _array_source(stack, preprocess)
    return _listed(inputs)


def _refuse_batches(inputs: object) -> None:
    """Raise an `InputError` for what PyTorch trains on: batches, or images with labels."""
    torch_data: Any = sys.modules.get("torch.utils.data")  # imported, if there is such an object
    if torch_data is None:
        return
    kind = type(inputs).__name__
    if isinstance(inputs, torch_data.DataLoader):
        raise InputError(
            f"{kind}; expected images: pass those of each batch, or use Lightning:"
            " Trainer().predict(MNISTModule.load_from_checkpoint(CHECKPOINT), loader)"
        )
    if isinstance(inputs, torch_data.Dataset) and not isinstance(inputs, Iterable):
        raise InputError(f"{kind}; expected images: pass [dataset[i][0] for i in range(len(dataset))]")


def _path_source(path: str, preprocess: str) -> Source:
    if not path:
        raise InputError(f"an empty path; {_EXPECTED}")
    if "://" in path:
        raise InputError(f"{shortened(path)}: no file; download it first")
    try:
        return open_source(path, preprocess)
    except InputError as error:
        raise InputError(shortened(error, 1000)) from error  # a path may contain line ends
    except OSError as error:
        raise InputError(f"{shortened(path)}: {error.strerror}") from error


def _holds_numbers(inputs: object) -> bool:
    """Return whether this is a number, or a list of numbers, nested or not, by its first element."""
    while isinstance(inputs, (list, tuple)) and inputs:
        inputs = inputs[0]
    return isinstance(inputs, (int, float, np.number, np.bool_))


def _is_many(inputs: Any, shape: tuple[int, ...]) -> bool | None:
    """Return whether the first axis counts images, or None if the type does not say; see `as_stack`."""
    if hasattr(inputs, "detach") and len(shape) == 3 and shape[0] == 3 and shape[1:] != (SIZE, SIZE):
        return False  # in PyTorch, the first axis of an image is its channels
    return None


def _pixel_columns(table: Any) -> Any:
    """Return the columns of pixels of a DataFrame, found by their names as those of a file, see `find_columns`."""
    names = list(table.columns)
    try:
        found = find_columns([str(name) for name in names])
    except InputError as error:
        raise InputError(f"a table that {error}") from error
    if found.kind:
        name = names[found.images[0]]
        raise InputError(f"a table with a column {name!r}; pass the column: table[{name!r}]")
    return table[[names[position] for position in found.images]]


def _array(inputs: object) -> np.ndarray:
    if isinstance(inputs, np.ma.MaskedArray) and np.ma.is_masked(inputs):
        raise InputError("a masked array; fill it first: array.filled(0)")
    try:
        array = as_array(inputs)
        # DataFrames with pandas' own types, and images of one shape, become arrays of objects.
        return array.astype(float) if array.dtype.kind == "O" and array.ndim > 1 else array
    except Exception as error:  # other libraries raise anything, such as for an array on their own device
        reason = shortened(first_line(error))
        raise InputError(f"{type(inputs).__name__} is no array of numbers ({reason}); {_EXPECTED}") from error


def _stacked(items: Sequence[Any]) -> np.ndarray | None:
    """Return a list of 28x28 images of one shape and dtype as one array (N, 28, 28); None for others."""
    if not items or not all(hasattr(item, "__array__") and not isinstance(item, Image.Image) for item in items):
        return None
    arrays = [_array(item) for item in items]
    if len({(array.shape, array.dtype) for array in arrays}) > 1 or arrays[0].shape not in _DIGIT_SHAPES:
        return None
    return np.stack(arrays).reshape(-1, SIZE, SIZE)


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
            name = printable(os.fsdecode(item)) if isinstance(item, (str, os.PathLike)) else str(index)
            yield Sample(name, partial(_content, item, index))

    return Source(len(items) if isinstance(items, Sequence) else None, blocks_of(samples), "")


def _content(item: Any, index: int) -> Content:
    """Return the content of an item that is one image; raise an InputError if it is not."""
    if isinstance(item, (str, os.PathLike)):
        return str(expand(os.fsdecode(item)))
    if hasattr(item, "read"):
        return _file_content(item, index)
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


def _file_content(file: Any, index: int) -> Content:
    """Read an open file from its beginning, as Pillow does; raise an InputError if that is not possible."""
    if isinstance(file, io.TextIOBase):
        raise InputError(f"item {index} is a file opened as text; open image files with mode 'rb'")
    try:
        if file.seekable():
            file.seek(0)
        content = file.read(LARGEST_FILE + 1)
    except Exception as error:  # a closed file, one open for writing, a broken connection, ...
        raise InputError(f"item {index} cannot be read: {first_line(error)}") from error
    if not isinstance(content, bytes):
        raise InputError(f"item {index}: reading it gives {type(content).__name__}, expected bytes")
    return content if len(content) <= LARGEST_FILE else too_large(len(content))
