"""IDX, the file format of MNIST: a magic number, the sizes, then the values, all big-endian.

Specification: http://yann.lecun.com/exdb/mnist/ ("the IDX file format").
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ..errors import InputError

# The third byte of a file: the dtype of its values.
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_READ_SIZE = 1 << 24  # bytes


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file, plain or gzip-compressed.

    Reads no more than the size declared in the header, so that a decompression bomb does no harm.

    Returns:
        An array of the header's shape in native byte order; for MNIST uint8 of shape (N, 28, 28) or (N,).

    Raises:
        InputError: If the file is not an IDX file, or its size is not the one declared in its header.
        OSError: If the file cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            return _parse(decompressed(file), path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path}: broken gzip data ({error}); copy the file again") from error


def decompressed(file: BinaryIO) -> BinaryIO:
    """Return a stream of a file's content, decompressed if the first two bytes are those of gzip."""
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file


def read_header(stream: BinaryIO, path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    """Read the header of an IDX file, up to the first value.

    Returns:
        The dtype of the values, big-endian, and their shape.

    Raises:
        InputError: If it is not an IDX file, or is truncated.
    """
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or magic[3] == 0:
        raise InputError(f"{path}: not an IDX file: starts with {magic!r}, expected two zero bytes, a type and a rank")
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise InputError(f"{path}: cut off in its header; copy the file again")
    return np.dtype(DTYPES[magic[2]]), struct.unpack(f">{magic[3]}I", header)


def _parse(stream: BinaryIO, path: Path) -> np.ndarray:
    dtype, shape = read_header(stream, path)
    size = math.prod(shape) * dtype.itemsize
    values = bytearray()
    # Request one byte more than declared, to detect a file that is too long; and in blocks, since a single read would
    # allocate a huge declared size at once.
    while len(values) <= size and (read := stream.read(min(_READ_SIZE, size + 1 - len(values)))):
        values += read
    if len(values) != size:
        found = f"{len(values):,}" if len(values) < size else "more"
        raise InputError(f"{path}: holds {found} bytes of values, its header {shape} declares {size:,}")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
