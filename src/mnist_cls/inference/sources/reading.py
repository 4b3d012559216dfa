"""Untrusted files: opened with care, read at once, their errors turned into one line."""

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ...errors import InputError, first_line

# Larger files are refused unread: no scan of a digit is as large, and each file is held in memory.
LARGEST_FILE = 100_000_000


def printable(path: str | Path) -> str:
    r"""Return a path as text that can be written anywhere: bytes that are not UTF-8 become `\xff` and the like."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading; raise an InputError, without opening it, if it is a folder, a pipe or a device."""
    try:
        # Opening a device may have effects, and opening a pipe may wait forever for a writer.
        _require_regular(os.stat(path))  # noqa: PTH116
        # What was a file a moment ago may be a pipe now.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except InputError:
        raise
    except ValueError as error:  # a NUL in the name
        raise InputError(f"not a path: {error}") from error
    with os.fdopen(descriptor, "rb") as file:
        _require_regular(os.fstat(file.fileno()))
        yield file


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise InputError(f"{kinds.get(stat.S_IFMT(status.st_mode), 'a device')}; expected a file")


def decompressed(file: BinaryIO) -> io.BufferedIOBase:
    """Return a stream of a file's content, decompressed if it is gzip, bzip2 or xz."""
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if start == b"\xfd7zXZ\0" else cast(io.BufferedIOBase, file)


def read_file(path: str) -> bytes:
    """Read a file at once, so that later changes to it have no effect; raise an InputError if it is too large."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_FILE:
            raise too_large(size)
        return file.read(size + 1)  # bounded, even if the file grows meanwhile


def too_large(size: int) -> InputError:
    """Return the error for an image file of that many bytes."""
    return InputError(f"{size:,} bytes; expected at most {LARGEST_FILE:,} for one image")


def file_identity(path: Path) -> str:
    """Return a text that changes when the file does, without reading the file."""
    status = path.stat()
    return f"{path} of {status.st_size} bytes, changed at {status.st_mtime_ns}"


@contextlib.contextmanager
def reader_errors(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a reader of that kind of file raises on a broken one into an InputError that names the file.

    Errors of the operating system are not changed.
    """
    try:
        yield
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"input={path}: {error}") from error
    # On forged headers, readers raise nearly anything, including an OSError without errno, or with EINVAL because they
    # seek to an impossible position.
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = first_line(error)[:200]
        raise InputError(f"input={path}: damaged, or not a {kind} file ({reason}); copy it again") from error
