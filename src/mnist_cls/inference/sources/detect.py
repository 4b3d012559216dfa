"""Recognize the input, by its contents first and by its name second."""

import gzip
import zlib
from pathlib import Path

from ...data.embedded import embedded_file
from ...data.idx import DTYPES
from ...errors import InputError
from ...files import expand
from .archives import tar_source, zip_source
from .arrays import holds_arrays, idx_source, npy_source, npz_source
from .blocks import Source
from .csv import csv_source
from .files import folder_source, image_source, is_pattern, list_source, pattern_source
from .parquet import parquet_source
from .reading import open_regular

# MNIST's test images, which the package carries: an input that exists right after the install.
EXAMPLE = "mnist:test"

# Bytes that are enough to recognize a file.
_BEGINNING = 512

_XZ, _BZ2, _GZIP, _ZIP, _EMPTY_ZIP = b"\xfd7zXZ\0", b"BZh", b"\x1f\x8b", b"PK\x03\x04", b"PK\x05\x06"


def open_source(input: str | Path, preprocess: str = "auto") -> Source:
    """Recognize the input, and open it.

    Args:
        input: one of
            - an image;
            - a folder: its files and those of the folders below it, without hidden ones, in the order of their names;
            - a pattern such as `scans/*.png`, `**` for folders at any depth;
            - a `.txt` file with a path a line, or `-` for paths from standard input, a line each or separated by NUL as
              `find -print0` writes them; relative to the working directory;
            - a `.npy`, a `.npz` (one array or one called "images", and labels in one called "labels"), or an IDX file,
              plain or `.gz`: see `images_from_array`; with `preprocess="auto"` also uint8 (N, H, W) and (N, H, W, 3);
            - a `.zip`, or a `.tar`, plain or compressed by gzip, bzip2 or xz, of images;
            - a Parquet or CSV file with a column `image` (the bytes of image files, in CSV base64), `path` (relative to
              the file's own folder) or `pixels`, or with 784 columns of numbers; and labels in a column `label`;
            - "mnist:test": MNIST's test images, which the package carries.
        preprocess: "none" for arrays that must be in MNIST's form.

    Raises:
        InputError: If it does not exist, is empty, or holds no images.
        OSError: If it cannot be opened.
    """
    text = str(input)
    if text == EXAMPLE:
        images, labels = (embedded_file(f"t10k-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
        return idx_source(images, preprocess, labels)
    if text == "-":
        return list_source(None)
    path = expand(input)
    if path.is_dir():
        return folder_source(path)
    if not path.exists() and is_pattern(text):
        return pattern_source(text)
    if not path.exists() and not path.is_symlink():
        raise InputError(f"input={path}: no such file or folder")
    try:
        with open_regular(path) as file:
            start = file.read(_BEGINNING)
    except InputError as error:
        raise InputError(f"input={path}: {error}") from error
    return _by_contents(path, start, preprocess)


def _by_contents(path: Path, start: bytes, preprocess: str) -> Source:
    name = path.name.lower()
    if start.startswith(b"\x93NUMPY"):
        return npy_source(path, preprocess)
    if start.startswith((_ZIP, _EMPTY_ZIP)):
        return npz_source(path, preprocess) if name.endswith(".npz") or holds_arrays(path) else zip_source(path)
    if start.startswith(_GZIP) and not _is_tar(_decompressed(path)) and not name.endswith((".tar.gz", ".tgz")):
        return idx_source(path, preprocess)
    if start.startswith((_GZIP, _BZ2, _XZ)) or _is_tar(start) or name.endswith(".tar"):
        return tar_source(path)
    if start.startswith(b"PAR1"):
        return parquet_source(path)
    # Some pictures (TGA) begin with two zeros, too, but the type and the rank of an array do not follow.
    if start[:2] == b"\0\0" and start[2:3] in {bytes([code]) for code in DTYPES} and start[3:4] in b"\1\2\3\4":
        return idx_source(path, preprocess)
    if name.endswith((".csv", ".txt")) and _is_text(start):
        return csv_source(path) if name.endswith(".csv") else list_source(path)
    for suffix, kind in {".npy": "NumPy", ".npz": "NumPy", ".zip": "zip", ".parquet": "Parquet"}.items():
        if name.endswith(suffix):
            raise InputError(f"input={path}: not a whole {kind} file: it begins with {start[:8]!r}; copy it again")
    return image_source(path)


def _is_tar(start: bytes) -> bool:
    return start[257:262] == b"ustar"


def _decompressed(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(_BEGINNING)
    except (OSError, EOFError, zlib.error):  # reported when the file is read
        return b""


def _is_text(start: bytes) -> bool:
    # Names on Linux are any bytes, so text need not be UTF-8; but every picture has other control characters.
    return not any(byte < 32 and byte not in b"\0\t\r\n" for byte in start)
