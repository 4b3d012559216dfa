"""What sources hand on: names with contents that are not decoded yet, piece by piece, always in order."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ...errors import InputError

# Inputs that the network gets together, of arrays and of images that have to be decoded first. Chunks are cut at
# multiples of these whatever happens, so that a run that was interrupted sees the same batches when it goes on.
ARRAY_CHUNK, IMAGE_CHUNK = 2048, 256


# Larger files are refused unread: no scan of digits has so many bytes, and each is held in memory.
LARGEST_FILE = 100_000_000


# An encoded image's bytes, the path of its file, its pixels, or why there is none of these.
Content = bytes | str | np.ndarray | InputError


# Of each content, in a message.
_OVERHEAD = 64


# What goes to a decoder together: large enough to repay the message, small enough to keep all of them busy.
_PIECE, _PIECE_BYTES = 64, 4_000_000


class InputBlock(NamedTuple):
    """Some inputs.

    Attributes:
        names: what their rows are to be called.
        contents: a stack of images as `images_from_array` takes it, or the content of each; None: they belong to the
            part that an earlier run has done, and were not read.
        targets: their labels, None where one is not known; None: the source has none.
    """

    names: list[str]
    contents: np.ndarray | list[Content] | None
    targets: list[int | None] | None = None


@dataclass(frozen=True)
class Source:
    """Inputs, and the way to go through them once, in order.

    Attributes:
        count: how many there are, None if that is not known before the end.
        pieces: goes through them; those before the number that it is given come without contents. No piece crosses
            that number, if it is a multiple of `chunk`, nor a multiple of `chunk`.
        chunk: how many the network is to get together.
        labelled: whether the pieces have targets.
        arrays: whether the contents are stacks of 28x28 images, which as a rule need no decoder.
        identity: what tells this source from another one, for a run that goes on with an earlier one's work.
    """

    count: int | None
    pieces: Callable[[int], Iterator[InputBlock]]
    chunk: int = IMAGE_CHUNK
    labelled: bool = False
    arrays: bool = False
    identity: str = ""


class Sample(NamedTuple):
    """One input: its name, how to get its content, its label if there is one."""

    name: str
    read: Callable[[], Content]
    target: int | None = None


def pieces_of(items: Iterable[Sample], start: int, labelled: bool = False) -> Iterator[InputBlock]:
    """Put inputs together to pieces. What comes before the number `start` is not read."""
    names: list[str] = []
    contents: list[Content] = []
    targets: list[int | None] = []
    size = 0

    def piece(done: bool = False) -> InputBlock:
        return InputBlock(names, None if done else contents, targets if labelled else None)

    for index, item in enumerate(items):
        names.append(item.name)
        targets.append(item.target)
        if index >= start:
            content = item.read()
            contents.append(content)
            size += size_of(content)
        at_end = (index + 1) % IMAGE_CHUNK == 0 or index + 1 == start
        if at_end or len(names) == _PIECE or size >= _PIECE_BYTES:
            yield piece(index < start)
            names, contents, targets, size = [], [], [], 0
    if names:
        yield piece(not contents)


def size_of(content: Content) -> int:
    """How many bytes are held in memory for it, and sent to a decoder."""
    if isinstance(content, np.ndarray):
        return _OVERHEAD + content.nbytes
    return _OVERHEAD + len(content if isinstance(content, bytes) else os.fsencode(str(content)))


def shown_name(path: str | Path) -> str:
    """A path as text that can be written anywhere: bytes that are no UTF-8 become `\\xff` and the like."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, without touching anything else that may have that name.

    Raises:
        InputError: it is a folder, a pipe, a socket or a device.
        OSError: it cannot be opened.
    """
    try:
        # Merely to open a device may set something going, and a pipe may wait for ever for somebody to write.
        _require_regular(os.stat(path))  # noqa: PTH116
        # What was a file a moment ago may be a pipe by now.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except InputError:
        raise
    except ValueError as error:  # a NUL in the name
        raise InputError(f"not a path: {error}") from error
    with os.fdopen(descriptor, "rb") as file:
        _require_regular(os.fstat(file.fileno()))
        yield file


def _require_regular(status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    raise InputError(f"{kinds.get(stat.S_IFMT(mode), 'a device')}; expected a file")


def read_file(path: str) -> bytes:
    """Read a file at once, so that whatever changes it afterwards changes nothing for us.

    Raises:
        InputError: it is no regular file, or larger than `LARGEST_FILE`.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_FILE:
            raise too_large(size)
        return file.read(size + 1)  # whatever it grows to in the meantime


def too_large(size: int) -> InputError:
    """Why something of that many bytes is not read."""
    return InputError(f"{size:,} bytes, more than the {LARGEST_FILE:,} that are read of one image")


def target_of(value: object) -> int | None:
    """A label as a digit 0 to 9, or None if it is none."""
    text = str(value).strip().removesuffix(".0")
    return int(text) if len(text) == 1 and text in "0123456789" else None


def file_identity(path: Path) -> str:
    """What tells a file's contents from other contents without reading them."""
    status = path.stat()
    return f"{path} of {status.st_size} bytes, changed at {status.st_mtime_ns}"


@contextlib.contextmanager
def reader_errors(path: Path, what: str) -> Iterator[None]:
    """Turn what a broken file makes its reader raise into one line that names the file.

    Args:
        path: the file.
        what: what it should be, such as "NumPy".

    Raises:
        InputError: the block raised anything but an error of the operating system.
    """
    try:
        yield
    except InputError as error:
        text = str(error)
        raise error if str(path) in text else InputError(f"input={path}: {text}") from error
    # Of a header that is made up, readers raise nearly anything, also OSError: without a number, or because they want
    # to go to a place that no file has.
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"input={path}: not a whole {what} file ({reason}); copy it again") from error
