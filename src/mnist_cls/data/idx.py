"""IDX, the file format of MNIST: a magic number, the sizes, then the values, all big-endian.

Source of the format: http://yann.lecun.com/exdb/mnist/ ("the IDX file format").
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ..errors import InputError

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


_GZIP_MAGIC = b"\x1f\x8b"


_PIECE = 1 << 24


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file, plain or gzip-compressed (told by its first bytes, not by its name).

    Never holds more than the size that the file's header declares, so that a decompression bomb stays small.

    Args:
        path: the file.

    Returns:
        An array of the header's shape, in the machine's byte order; for MNIST uint8 of shape (N, 28, 28) or (N,).

    Raises:
        InputError: the file is no IDX file, or its size is not what its header declares.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if compressed else raw
        try:
            return _parse(stream, path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path}: broken gzip data ({error}); copy the file again") from error


def read_header(stream: BinaryIO, path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    """Read what comes before an IDX file's values.

    Args:
        stream: at the file's beginning; afterwards at the first value.
        path: for the messages.

    Returns:
        The values' dtype, big-endian as they are in the file, and their shape.

    Raises:
        InputError: it is no IDX file, or cut off.
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
    # One byte more than declared is asked for, to notice a file that is too long. In pieces, because a single
    # read of a huge declared size would reserve that much memory at once.
    while len(values) <= size and (piece := stream.read(min(_PIECE, size + 1 - len(values)))):
        values += piece
    if len(values) != size:
        found = f"{len(values):,}" if len(values) < size else "more"
        raise InputError(f"{path}: holds {found} bytes of values, its header {shape} declares {size:,}")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
