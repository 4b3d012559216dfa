"""Recognize the input, by its contents first and by its name second."""

import lzma
import zipfile
import zlib
from pathlib import Path

from ...data.embedded import embedded_file
from ...data.idx import DTYPES
from ...errors import InputError
from ...files import expand
from .archives import tar_source, zip_source, zip_tables
from .arrays import holds_arrays, idx_source, npy_source, npz_source
from .blocks import Source
from .csv import csv_source
from .dialect import is_text, looks_like_table
from .files import folder_source, image_source, is_pattern, list_source, pattern_source
from .parquet import parquet_source
from .reading import decompressed, open_regular

# MNIST's test images, which the package carries: an input that exists right after the install.
EXAMPLE = "mnist:test"

# Number of bytes that suffice to recognize a file.
_BEGINNING = 512

# Endings of files that are not read, some because reading them can run code, and what to do instead.
_UNREADABLE = {
    (".pt", ".pth", ".pkl", ".pickle", ".mat", ".h5", ".hdf5", ".feather"): "save the images and labels in a .npz",
    (".xlsx", ".xls", ".ods", ".json"): "save the table as .csv",
    (".7z", ".rar", ".zst"): "unpack it",
}

_XZ, _BZ2, _GZIP, _ZIP, _EMPTY_ZIP = b"\xfd7zXZ\0", b"BZh", b"\x1f\x8b", b"PK\x03\x04", b"PK\x05\x06"

_TABLES = (".csv", ".tsv")
_COMPRESSED_TABLES = tuple(table + kind for table in _TABLES for kind in (".gz", ".bz2", ".xz"))


def open_source(input: str | Path, preprocess: str = "auto") -> Source:
    """Recognize the input, and open it.

    Args:
        input: one of
            - an image;
            - a folder: all files in it and in the folders below it, except hidden ones, in the order of their names;
            - a pattern such as `scans/*.png`, `**` for folders at any depth;
            - a `.txt` file with a path per line; or `-` for paths from standard input, one per line or separated by NUL
              as `find -print0` writes them; relative to the working directory; UTF-8, or UTF-16 as PowerShell writes;
            - a `.npy`, a `.npz`, or an IDX file, plain or `.gz`, see `images_from_array`. From a `.npz`, the array
              "images", or the only one without labels, or a named one: `mnist.npz/x_test`; see `labels_of` for labels;
            - a `.zip`, or a `.tar`, plain or compressed by gzip, bzip2 or xz, of images;
            - a Parquet or CSV file with a column `image` (the bytes of image files, in CSV as base64), `path` (relative
              to the file's own folder) or `pixels` (lists), or with 784 columns of numbers, and perhaps a column
              `label`; CSV also compressed, or in a zip archive: `digit-recognizer.zip/test.csv`. See docs/tables.md;
            - "mnist:test": MNIST's test images, which the package carries.
        preprocess: see `prepare`; with "none", an array must hold 28x28 images.

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
    if not path.exists() and (archive := _archive_above(path)) is not None:
        return _zip_source(archive, preprocess, path.relative_to(archive).as_posix())
    if not path.exists() and is_pattern(text):
        return pattern_source(text)
    try:
        path.lstat()  # `exists` hides other reasons, such as a name that is too long, from Python 3.14 on
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"input={path}: no such file or folder") from error
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
    for suffixes, advice in _UNREADABLE.items():
        if Path(name.removesuffix(".gz")).suffix in suffixes:
            raise InputError(f"input={path}: {Path(name).suffix} files are not read; {advice}")
    if start.startswith((_ZIP, _EMPTY_ZIP)):
        return _zip_source(path, preprocess)
    if start.startswith((_GZIP, _BZ2, _XZ)):
        return _compressed_source(path, start, preprocess)
    if _is_tar(start) or name.endswith(".tar"):
        return tar_source(path)
    if start.startswith(b"PAR1"):
        return parquet_source(path)
    # Some pictures (TGA) begin with two zeros, too, but no valid type and rank of an array follow.
    if start[:2] == b"\0\0" and start[2:3] in {bytes([code]) for code in DTYPES} and start[3:4] in b"\1\2\3\4":
        return idx_source(path, preprocess)
    if (name.endswith(_TABLES) and is_text(start)) or looks_like_table(start):
        return csv_source(path)
    if name.endswith(".txt") and is_text(start):
        return list_source(path)
    for suffix, kind in {".npy": "NumPy", ".npz": "NumPy", ".zip": "zip", ".parquet": "Parquet"}.items():
        if name.endswith(suffix):
            raise InputError(f"input={path}: damaged, or not a {kind} file: begins with {start[:8]!r}; copy it again")
    return image_source(path)


def _zip_source(path: Path, preprocess: str, member: str | None = None) -> Source:
    if path.name.lower().endswith(".npz") or holds_arrays(path):
        return npz_source(path, preprocess, member)
    tables = zip_tables(path)
    if member is None and not tables:
        return zip_source(path)
    member = tables[0] if member is None and len(tables) == 1 else member
    if member in tables:
        return csv_source(path, member)
    found = ", ".join(tables)[:200] or "no tables, or not only tables"
    example = next((name for name in tables if "test" in name), next(iter(tables), ""))
    advice = f"; name one of them, such as {path}/{example}" if tables else ""
    wanted = f"{path}:" if member is None else f"{path}/{member}: {path.name}"
    raise InputError(f"input={wanted} holds {found}{advice}")


def _archive_above(path: Path) -> Path | None:
    """Return the zip archive that a path leads into, or None if it leads into none."""
    above = next((parent for parent in path.parents if parent.exists()), path)
    return above if above.is_file() and zipfile.is_zipfile(above) else None


def _compressed_source(path: Path, start: bytes, preprocess: str) -> Source:
    name, content = path.name.lower(), _decompressed(path)
    if not _is_tar(content) and not name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        if (name.endswith(_COMPRESSED_TABLES) and is_text(content)) or looks_like_table(content):
            return csv_source(path)
        if start.startswith(_GZIP):
            return idx_source(path, preprocess)
    return tar_source(path)


def _is_tar(start: bytes) -> bool:
    return start[257:262] == b"ustar"


def _decompressed(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return decompressed(file).read(_BEGINNING)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):  # reported when the file is read
        return b""
