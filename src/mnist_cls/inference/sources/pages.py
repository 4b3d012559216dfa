"""Count the pages of a file without decoding it: those of a TIFF, and the pictures of an animated GIF or WebP."""

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

from ...errors import InputError
from .reading import open_regular

# No scan has more pages. A forged file can declare any number.
MOST_PAGES = 10_000


def count_pages(path: str) -> int:
    """Return the number of pages of a file; 1 unless its extension is that of a format with several pages.

    Files that cannot be read, or are broken, count as one page, and fail when they are decoded.
    """
    count = _COUNTERS.get(os.path.splitext(path)[1].lower())  # noqa: PTH122 (faster: a folder can hold a million names)
    if count is None:
        return 1
    try:
        with open_regular(path) as file:
            return max(1, min(count(file), MOST_PAGES))
    except (InputError, OSError, struct.error, IndexError, ValueError, OverflowError):
        return 1


def _tiff_pages(file: BinaryIO) -> int:
    """Follow the offsets from one directory of tags to the next, in a plain TIFF or a BigTIFF."""
    start = file.read(4)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None:
        return 1
    is_big = start[2:] in (b"+\0", b"\0+")
    offset, number, entry = ("Q", "Q", 20) if is_big else ("I", "H", 12)

    def read(form: str) -> int:
        value: int = struct.unpack(order + form, file.read(struct.calcsize(order + form)))[0]
        return value

    if is_big:
        file.seek(8)
    seen = set[int]()
    while (position := read(offset)) and position not in seen and len(seen) < MOST_PAGES:
        seen.add(position)
        file.seek(position)
        file.seek(entry * read(number), os.SEEK_CUR)
    return len(seen)


def _gif_pictures(file: BinaryIO) -> int:
    """Go from block to block, and count the pictures."""

    def skip_palette(flags: int) -> None:
        if flags & 0x80:
            file.seek(3 << (flags % 8 + 1), os.SEEK_CUR)

    skip_palette(file.read(13)[10])
    count = 0
    while (kind := file.read(1)) in (b"!", b",") and count < MOST_PAGES:
        if kind == b",":
            count += 1
            skip_palette(file.read(9)[8])
        file.seek(1, os.SEEK_CUR)  # the kind of extension, or the size of codes
        while size := file.read(1)[0]:
            file.seek(size, os.SEEK_CUR)
    return count


def _webp_pictures(file: BinaryIO) -> int:
    """Count the chunks that hold a picture."""
    file.seek(12)
    count = 0
    while len(header := file.read(8)) == 8 and count < MOST_PAGES:
        count += header[:4] == b"ANMF"
        size = struct.unpack("<I", header[4:])[0]
        file.seek(size + size % 2, os.SEEK_CUR)
    return count


_COUNTERS: dict[str, Callable[[BinaryIO], int]] = {
    ".tif": _tiff_pages,
    ".tiff": _tiff_pages,
    ".gif": _gif_pictures,
    ".webp": _webp_pictures,
}
