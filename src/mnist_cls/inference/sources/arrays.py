"""Images in arrays: `.npy`, `.npz` and IDX files, read slice by slice."""

import gzip
import math
import re
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...data.idx import decompressed, read_header
from ...errors import InputError
from ...images import SIZE, as_stack
from .blocks import ARRAY_BATCH, IMAGE_BATCH, InputBlock, Source, file_source, index_names, target_of
from .reading import LARGEST_FILE, file_identity, open_regular, reader_errors

# Bytes that are read at once from an array of large images.
_SLICE_BYTES = 16_000_000


@dataclass(frozen=True)
class _StoredArray:
    """An array in a file, whose first value is at byte `offset`. With `fortran`, the first axis varies fastest."""

    open: Callable[[], AbstractContextManager[Any]]
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    fortran: bool = False

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def check_size(self, file_size: int) -> None:
        """Check that the file has as many bytes as its header declares."""
        found, declared = file_size - self.offset, math.prod(self.shape) * self.dtype.itemsize
        if any(length < 0 for length in self.shape) or found != declared:
            raise InputError(f"holds {found:,} bytes of values, its header {self.shape} declares {declared:,}")

    def slices(self, start: int, size: int) -> Iterator[np.ndarray]:
        """Yield arrays of `size` rows, beginning with the row `start`; the last one can have fewer.

        They are read, not mapped into memory: if another process truncates a mapped file, the kernel kills its readers
        (SIGBUS).
        """
        with self.open() as stream:
            if not self.fortran:
                stream.seek(self.offset + start * self.row_bytes)
            for first in range(start, self.shape[0], size):
                count = min(size, self.shape[0] - first)
                if not self.fortran:
                    yield self._read(stream, (count, *self.shape[1:]))
                    continue
                columns = []  # value k of all rows comes before value k + 1 of any
                for index in range(math.prod(self.shape[1:])):
                    stream.seek(self.offset + (index * self.shape[0] + first) * self.dtype.itemsize)
                    columns.append(self._read(stream, (count,)))
                yield np.ascontiguousarray(np.stack(columns, 1).reshape(count, *self.shape[1:], order="F"))
            if not self.fortran and stream.read(1):
                raise InputError(f"holds more bytes than its header {self.shape} declares")

    def _read(self, stream: Any, shape: tuple[int, ...]) -> np.ndarray:
        array = np.empty(shape, self.dtype)
        if stream.readinto(array.reshape(-1).view(np.uint8)) < array.nbytes:
            raise InputError("is cut off: it holds fewer values than its header declares; copy it again")
        return array


def npy_source(path: Path, preprocess: str, labels: Path | None = None) -> Source:
    """Return the images in a `.npy`, with their labels in another one if given."""
    return _from_files(
        "NumPy",
        lambda path: _stored_npy(partial(open_regular, path), path.stat().st_size),
        path,
        preprocess,
        labels,
    )


def idx_source(path: Path, preprocess: str, labels: Path | None = None) -> Source:
    """Return the images in an IDX file, plain or compressed by gzip, with their labels in another one if given."""
    return _from_files("IDX", _stored_idx, path, preprocess, labels)


def _from_files(
    kind: str, stored: Callable[[Path], _StoredArray], path: Path, preprocess: str, labels: Path | None
) -> Source:
    def checked(path: Path) -> _StoredArray:
        with reader_errors(path, kind):
            return stored(path)

    images, targets = checked(path), None if labels is None else checked(labels)
    with reader_errors(path, kind):
        source = _source(path, preprocess, images, targets)
    return source if labels is None else replace(source, identity=f"{source.identity}, {file_identity(labels)}")


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays in a `.npz`."""
    with reader_errors(path, "NumPy"), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def npz_source(path: Path, preprocess: str, images: str | None = None) -> Source:
    """Return the images in a `.npz`, with the labels whose name matches theirs, see `labels_of`.

    Args:
        path: the file.
        preprocess: see `open_source`.
        images: name of the array of images. None: "images", or the only array that does not hold labels.
    """

    @contextmanager
    def open_member(member: zipfile.ZipInfo) -> Iterator[Any]:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            yield stream

    def stored(name: str) -> _StoredArray:
        if name not in members:
            raise InputError(f"holds {found}, and no {name}")
        array = _stored_npy(partial(open_member, members[name]), members[name].file_size)
        if array.fortran:
            raise InputError(f"the array {name} is in Fortran order; save it with np.ascontiguousarray")
        return array

    with reader_errors(path, "NumPy"):
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        found = ", ".join(members)[:200] or "nothing"
        images = images or _images_name(path, members, found)
        labels = labels_of(images, members)
        return _source(path, preprocess, stored(images), None if labels is None else stored(labels))


def _images_name(path: Path, names: Collection[str], found: str) -> str:
    """Return the name of the array of images: "images", or the only array that does not hold labels."""
    if "images" in names:
        return "images"
    labels = {labels_of(name, names) for name in names}
    several = [name for name in names if name not in labels]
    if len(several) == 1:
        return several[0]
    example = next((name for name in several if "test" in name), next(iter(several), "images"))
    advice = f"name one of them, such as {path}/{example}" if several else "expected one array, or 'images'"
    raise InputError(f"input={path}: holds {found}; {advice}")


def labels_of(images: str, names: Collection[str]) -> str | None:
    """Return the name of the labels that belong to an array of images, such as y_test for x_test; None if not found."""
    if images == "arr_0":  # np.savez(file, images, labels)
        return "arr_1" if "arr_1" in names else None
    same = [re.sub("(?<![a-zA-Z])[xX](?![a-zA-Z])", y, images) for y in "yY"]
    likely = (*same, images.replace("images", "labels"), "labels", "label", "y", "targets", "target")
    return next((name for name in likely if name in names and name != images), None)


def holds_arrays(path: Path) -> bool:
    """Return whether a zip archive is a `.npz` with another name."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, OverflowError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _stored_idx(path: Path) -> _StoredArray:
    @contextmanager
    def open_file() -> Iterator[Any]:
        with open_regular(path) as file:
            yield decompressed(file)

    with open_file() as stream:
        array = _StoredArray(open_file, *read_header(stream, path), stream.tell())
        if not isinstance(stream, gzip.GzipFile):
            array.check_size(path.stat().st_size)
    return array


def _stored_npy(open_file: Callable[[], AbstractContextManager[Any]], size: int) -> _StoredArray:
    with open_file() as stream:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(stream)
        if version not in readers:
            raise InputError(f"version {version} of the format; expected 1.0 or 2.0")
        shape, fortran, dtype = readers[version](stream)
        array = _StoredArray(open_file, dtype, shape, stream.tell(), fortran and len(shape) > 1)
    if dtype.hasobject:
        raise InputError("an array of Python objects, which can run code when it is loaded; expected numbers")
    array.check_size(size)
    return array


def _source(path: Path, preprocess: str, images: _StoredArray, labels: _StoredArray | None = None) -> Source:
    if 0 in images.shape:
        raise InputError("an array of no images")
    # A broadcast array takes no memory, whatever shape the header declares.
    stack = as_stack(np.broadcast_to(np.zeros((), images.dtype), images.shape))
    if len(stack) != images.shape[0]:  # a single image
        images = replace(images, shape=(1, *images.shape))  # the values keep their positions, in Fortran order, too
    shape, digits = images.shape, stack.shape[1:] == (SIZE, SIZE)
    if preprocess == "none" and not digits:
        raise InputError(f"images of {stack.shape[2]} x {stack.shape[1]} pixels; preprocess=none expects 28 x 28")
    if images.row_bytes > LARGEST_FILE:
        raise InputError(f"images of {images.row_bytes:,} bytes; expected {LARGEST_FILE:,} at most")
    if labels is not None and labels.shape != shape[:1]:
        raise InputError(f"labels of shape {labels.shape}; expected one for each image, {shape[:1]}")
    size = max(1, min(ARRAY_BATCH if digits else IMAGE_BATCH, _SLICE_BYTES // images.row_bytes))

    def blocks(start: int) -> Iterator[InputBlock]:
        for first in range(0, min(start, shape[0]), ARRAY_BATCH):
            yield InputBlock(index_names(first, min(start, shape[0], first + ARRAY_BATCH) - first), None)
        label_slices = None if labels is None else labels.slices(start, size)
        for number, array in enumerate(images.slices(start, size)):
            targets = [] if label_slices is None else [target_of(value) for value in next(label_slices).tolist()]
            yield InputBlock(index_names(start + number * size, len(array)), array, targets)

    return file_source(path, "array", blocks, shape[0], labels is not None, arrays=digits)
