"""Images in arrays: `.npy`, `.npz` and IDX files, read slice by slice."""

import gzip
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ...data.idx import read_header
from ...errors import InputError
from ...images import SIZE, as_stack
from .blocks import (
    ARRAY_CHUNK,
    IMAGE_CHUNK,
    LARGEST_FILE,
    InputBlock,
    Source,
    file_identity,
    open_regular,
    reader_errors,
    target_of,
)

# What is read of arrays of large images at once.
_SLICE_BYTES = 8_000_000


@dataclass(frozen=True)
class _Stored:
    """An array in a file: its dtype and shape, whether its first axis runs fastest, and where its values begin.

    `open` adds what is to be closed to the stack. A stream that can only be read forwards seeks by reading.
    """

    open: Callable[[ExitStack], BinaryIO]
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    fortran: bool = False

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def slices(self, start: int, size: int) -> Iterator[np.ndarray]:
        """Arrays of `size` rows, the last one of fewer, beginning with the row `start`.

        They are read, not mapped into memory: if another process cuts a mapped file off, the kernel kills whoever
        looks at what is gone (SIGBUS), whereas a read comes back short and can be told.
        """
        with ExitStack() as stack:
            stream = self.open(stack)
            if not self.fortran:
                stream.seek(self.begin + start * self.row_bytes)
            for first in range(start, self.shape[0], size):
                rows = min(size, self.shape[0] - first)
                yield self._columns(stream, first, rows) if self.fortran else self._rows(stream, rows)
            if not self.fortran and stream.read(1):
                raise InputError(f"holds more bytes than its header {self.shape} declares")

    def _rows(self, stream: BinaryIO, rows: int) -> np.ndarray:
        array = np.empty((rows, *self.shape[1:]), self.dtype)
        _read_into(stream, array)
        return array

    def _columns(self, stream: BinaryIO, first: int, rows: int) -> np.ndarray:
        # Value k of all rows lies side by side, then value k + 1 of all rows.
        array = np.empty((*self.shape[:0:-1], rows), self.dtype)
        for place, values in enumerate(array.reshape(-1, rows)):
            stream.seek(self.begin + (place * self.shape[0] + first) * self.dtype.itemsize)
            _read_into(stream, values)
        return np.ascontiguousarray(array.T)


def _read_into(stream: BinaryIO, array: np.ndarray) -> None:
    view = memoryview(cast(Any, array.reshape(-1).view(np.uint8))) if array.size else memoryview(b"")
    while len(view):
        found = cast(Any, stream).readinto(view)
        if not found:
            raise InputError("is cut off: it holds fewer values than its header declares; copy it again")
        view = view[found:]


def npy_source(path: Path, preprocess: str) -> Source:
    """The images in a `.npy`.

    Raises:
        InputError: it is broken, or holds no images.
    """

    def open_it(stack: ExitStack) -> BinaryIO:
        return stack.enter_context(open_regular(path))

    with reader_errors(path, "NumPy"):
        return _source(_stored_npy(open_it, path.stat().st_size), path, preprocess)


def npz_source(path: Path, preprocess: str) -> Source:
    """The images in a `.npz`, with the labels in its array "labels" if it has one.

    Raises:
        InputError: it is broken, has several arrays and none called "images", or holds no images.
    """
    with reader_errors(path, "NumPy"), zipfile.ZipFile(path) as archive:
        sizes = {member.filename.removesuffix(".npy"): member.file_size for member in archive.infolist()}
        names = [name for name in sizes if name != "labels"]
        if len(names) != 1 and "images" not in names:
            found = ", ".join(sizes)[:200] or "nothing"
            raise InputError(f"input={path}: holds {found}; expected one array, or 'images'")

        def stored(name: str) -> _Stored:
            def open_it(stack: ExitStack) -> BinaryIO:
                again = stack.enter_context(zipfile.ZipFile(path))
                member = next(one for one in again.namelist() if one.removesuffix(".npy") == name)
                return cast(BinaryIO, stack.enter_context(again.open(member)))

            found = _stored_npy(open_it, sizes[name])
            if found.fortran:
                raise InputError(f"the array {name} is in Fortran's order; save it with np.ascontiguousarray")
            return found

        images = stored("images" if "images" in names else names[0])
        return _source(images, path, preprocess, stored("labels") if "labels" in sizes else None)


def holds_arrays(path: Path) -> bool:
    """Whether a zip archive is a `.npz` with another name."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, OverflowError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def idx_source(path: Path, preprocess: str, labels: Path | None = None) -> Source:
    """The images in an IDX file, plain or compressed by gzip; and their labels in another one.

    Raises:
        InputError: it is broken, or holds no images.
    """
    with reader_errors(path, "IDX"):
        stored = _stored_idx(path)
        return _source(stored, path, preprocess, None if labels is None else _stored_idx(labels))


def _stored_idx(path: Path) -> _Stored:
    def open_it(stack: ExitStack) -> BinaryIO:
        raw = stack.enter_context(open_regular(path))
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if compressed else raw

    with ExitStack() as stack:
        stream = open_it(stack)
        dtype, shape = read_header(stream, path)
        begin = stream.tell()
        size = None if isinstance(stream, gzip.GzipFile) else path.stat().st_size
    if size is not None and size - begin != math.prod(shape) * dtype.itemsize:
        declared = math.prod(shape) * dtype.itemsize
        raise InputError(f"holds {size - begin:,} bytes of values, its header {shape} declares {declared:,}")
    return _Stored(open_it, dtype, shape, begin)


def _stored_npy(open_it: Callable[[ExitStack], BinaryIO], size: int) -> _Stored:
    with ExitStack() as stack:
        stream = open_it(stack)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(stream)
        if version not in readers:
            raise InputError(f"version {version} of the format; expected 1.0 or 2.0")
        shape, fortran, dtype = readers[version](stream)
        begin = stream.tell()
    if dtype.hasobject:
        raise InputError("an array of Python objects, which would have to be run; expected numbers")
    declared = math.prod(shape) * dtype.itemsize
    if any(length < 0 for length in shape) or size - begin != declared:
        raise InputError(f"holds {size - begin:,} bytes of values, its header {shape} declares {declared:,}")
    return _Stored(open_it, dtype, shape, begin, fortran and len(shape) > 1)


def _source(stored: _Stored, path: Path, preprocess: str, labels: _Stored | None = None) -> Source:
    shape, dtype = stored.shape, stored.dtype
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        raise InputError(
            f"input={path}: an array of shape {shape}, which looks like one coloured image; expected a stack of images,"
            " (N, H, W) or (N, H, W, 3): save it as image[None]"
        )
    other_size = preprocess == "auto" and dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3))
    chunk = ARRAY_CHUNK
    try:
        # An array that takes no memory, whatever the header declares.
        as_stack(np.broadcast_to(np.zeros((), dtype), shape))
    except InputError as error:
        if not other_size:
            also = "; or uint8 (N, H, W) or (N, H, W, 3)" if preprocess == "auto" else ""
            raise InputError(f"input={path}: {error}{also}") from error
        chunk = IMAGE_CHUNK
    if shape == (SIZE, SIZE):
        shape = (1, *shape)
        stored = replace(stored, shape=shape)  # in Fortran's order, too, the values lie where they lay
    if 0 in shape:
        raise InputError(f"input={path}: an array of no images")
    if stored.row_bytes > LARGEST_FILE:
        raise InputError(f"input={path}: images of {stored.row_bytes:,} bytes; expected {LARGEST_FILE:,} at most")
    if labels is not None and labels.shape != shape[:1]:
        raise InputError(f"input={path}: labels of shape {labels.shape}; expected one for each image, {shape[:1]}")
    size = chunk
    while size > 1 and size * stored.row_bytes > 2 * _SLICE_BYTES:
        size //= 2  # so that no slice crosses the end of a chunk

    def pieces(start: int) -> Iterator[InputBlock]:
        for first in range(0, start, chunk):
            yield InputBlock([str(index) for index in range(first, min(first + chunk, start, shape[0]))], None)
        with reader_errors(path, "array's"):
            known = labels.slices(start, size) if labels is not None else None
            for number, images in enumerate(stored.slices(start, size)):
                first = start + number * size
                names = [str(index) for index in range(first, first + len(images))]
                targets = None if known is None else [target_of(value) for value in next(known).tolist()]
                yield InputBlock(names, images, targets)

    identity = f"{file_identity(path)}, {shape} {dtype}"
    return Source(shape[0], pieces, chunk, labels is not None, chunk == ARRAY_CHUNK, identity)
