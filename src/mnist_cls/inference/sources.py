"""Where images come from: one file, a folder, or an array in a file; always in chunks, always in order."""

import mmap
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from ..files import expand
from ..idx import DTYPES, read_idx
from ..images import SIZE, as_stack, images_from_array
from ..preprocessing import prepare

# Images handed on together: large enough that the network's batches are full, small enough to stay in memory.
CHUNK = 2048
# Starting processes to decode files costs more than decoding this many.
_FILES_WORTH_WORKERS = 1000


class Chunk(NamedTuple):
    """Some inputs: their paths (of an array's images the index), uint8 images (N, 28, 28), and errors or None."""

    paths: list[str]
    images: np.ndarray
    errors: list[str | None]


@dataclass(frozen=True)
class Source:
    """A number of inputs, and the way to go through them once, in order."""

    count: int
    chunks: Callable[[], Iterator[Chunk]]


def open_source(path: str | Path) -> Source:
    """Find out what `path` is, by its contents rather than its name.

    Args:
        path: an image, a folder (its files and those of the folders below it, hidden ones left out), a `.npy`, a `.npz`
            with one array or one called "images", or an IDX file, plain or `.gz`. Images in arrays must be in MNIST's
            form already; images in files are brought into it.

    Raises:
        InputError: it is not there, it is empty, or it is an array that holds no 28x28 images.
        OSError: it cannot be opened.
    """
    path = expand(path)
    if path.is_dir():
        files = sorted(_files_below(path))
        if not files:
            raise InputError(f"input={path}: the folder has no files in it; expected images")
        return _from_files(files)
    if not path.is_file():
        raise InputError(f"input={path}: no such file or folder")
    with path.open("rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY" or (start[:2] == b"PK" and path.suffix == ".npz"):
        return _from_array(_read_numpy(path), path)
    if start[:2] == b"\x1f\x8b" or (start[:2] == b"\0\0" and start[2:3] in {bytes([code]) for code in DTYPES}):
        return _from_array(read_idx(path), path)
    return _from_files([path])


def _files_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files if not name.startswith("."))


class _ImageFiles(Dataset[tuple[str, np.ndarray, str | None]]):
    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray, str | None]:
        path = self.files[index]
        # Names that are not UTF-8 exist, but not in a .csv.
        name = os.fsencode(path).decode("utf-8", "backslashreplace")
        try:
            return name, prepare(path.read_bytes()).images[0], None
        except (InputError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return name, np.zeros((SIZE, SIZE), np.uint8), str(reason)


def _from_files(files: list[Path]) -> Source:
    def chunks() -> Iterator[Chunk]:
        workers = (os.cpu_count() or 1) if len(files) >= _FILES_WORTH_WORKERS else 0
        yield from DataLoader(_ImageFiles(files), batch_size=256, num_workers=workers, collate_fn=_collate)

    return Source(len(files), chunks)


def _collate(items: list[tuple[str, np.ndarray, str | None]]) -> Chunk:
    paths, images, errors = zip(*items, strict=True)
    return Chunk(list(paths), np.stack(images), list(errors))


def _from_array(array: np.ndarray, path: Path) -> Source:
    try:
        stack = as_stack(array)
    except InputError as error:
        raise InputError(f"input={path}: {error}") from error
    if len(stack) == 0:
        raise InputError(f"input={path}: an array of no images")

    def chunks() -> Iterator[Chunk]:
        for start in range(0, len(stack), CHUNK):
            images, errors = images_from_array(np.array(stack[start : start + CHUNK]))  # a copy: the file may be mapped
            # What has been read of a mapped file counts as our memory until it is given back.
            if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                array.base.madvise(mmap.MADV_DONTNEED)
            yield Chunk([str(start + place) for place in range(len(images))], images, errors)

    return Source(len(stack), chunks)


def _read_numpy(path: Path) -> np.ndarray:
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = list(content)
            if len(names) != 1 and "images" not in names:
                raise InputError(
                    f"input={path}: holds {', '.join(names) or 'nothing'}; expected one array, or 'images'"
                )
            array: np.ndarray = content["images" if "images" in names else names[0]]
            return array
    except InputError:
        raise
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"input={path}: not a whole NumPy file ({str(error).splitlines()[0]})") from error
