"""Inputs that are files of one image each: one, a folder of them, what a pattern matches, or a list of paths."""

import codecs
import fnmatch
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from ...errors import InputError
from .blocks import PagePath, Sample, Source, blocks_of, target_of
from .pages import count_pages
from .reading import open_regular, printable

# The longest path on Linux, and the number of bytes that are read of a list at once.
_LONGEST_PATH, _CHUNK = 4096, 1 << 16


def image_source(path: Path) -> Source:
    """Return one image, or the pages of one file."""
    samples = partial(_samples, str(path))
    return Source(_count(samples, ""), blocks_of(samples), f"image {path}")


def folder_source(folder: Path) -> Source:
    """Return all files below a folder, except hidden ones.

    Links to folders are followed, except those to a folder that contains them. If all folders in `folder` are named 0
    to 9, their names are the labels.
    """
    labelled, top = has_label_folders(folder), str(folder)

    def samples() -> Iterator[Sample]:
        for path, sample in _walk(top):
            label, below, _ = path[len(top) :].lstrip(os.sep).partition(os.sep)
            yield sample._replace(target=target_of(label)) if labelled and below else sample

    count = _count(samples, f"input={folder}: the folder has no files in it; expected images")
    return Source(count, blocks_of(samples, labelled), top, labelled)


def has_label_folders(folder: Path) -> bool:
    """Return whether there are folders in a folder, and all are named 0 to 9."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name[0] not in "._" and _leads_to_folder(entry)]
    return bool(names) and all(re.fullmatch("[0-9]", name) for name in names)


def is_pattern(text: str) -> bool:
    """Return whether a text contains a wildcard."""
    return any(character in text for character in "*?[")


def pattern_source(pattern: str) -> Source:
    """Return all files that a pattern such as `scans/*.png` matches, and all files below folders that it matches."""
    text = os.path.expanduser(pattern)  # noqa: PTH111 (a pattern is not a path)
    root, parts = ("/", text.split("/")[1:]) if text.startswith("/") else ("", text.split("/"))
    parts = [part for index, part in enumerate(parts) if part and parts[index - 1 : index + 1] != ["**", "**"]]

    def samples() -> Iterator[Sample]:
        for path in _matches(root, parts):
            if os.path.isdir(path):  # noqa: PTH112
                yield from (sample for _, sample in _walk(path))
            else:
                yield from _samples(path)

    return Source(_count(samples, f"input={pattern}: matches no file"), blocks_of(samples), pattern)


def list_source(path: Path | None) -> Source:
    """Return the files in a list of paths, one per line or separated by NUL; from standard input if `path` is None."""
    if path is None:
        return Source(None, blocks_of(lambda: _of_list(sys.stdin.buffer)), "standard input")

    def samples() -> Iterator[Sample]:
        with open_regular(path) as file:
            yield from _of_list(file)

    count = _count(samples, f"input={path}: the list is empty; expected a path per line")
    return Source(count, blocks_of(samples), f"{path}")


def _of_list(file: BinaryIO) -> Iterator[Sample]:
    return itertools.chain.from_iterable(map(_samples, _paths(file)))


def _count(samples: Callable[[], Iterator[Sample]], if_none: str) -> int:
    count = sum(1 for _ in samples())
    if count == 0:
        raise InputError(if_none)
    return count


def _samples(path: str) -> Iterator[Sample]:
    """Yield a file; or its pages, if it has several."""
    name, pages = printable(path), count_pages(path)
    if pages == 1:
        yield Sample(name, lambda: path)
    for number in range(pages if pages > 1 else 0):
        yield Sample(f"{name}#{number + 1}", partial(PagePath, path, number))


def _walk(top: str) -> Iterator[tuple[str, Sample]]:
    """Yield the files below a folder in the order of their names, each with its path.

    Only the names in one folder and in those above it are in memory. Not recursive, because folders can be nested more
    deeply than Python's stack allows.
    """
    levels, above = [iter([(top, True)])], list[tuple[int, int]]()
    while levels:
        path, is_folder = next(levels[-1], ("", False))
        if not path:
            del levels[-1], above[-1:]
        elif not is_folder:
            for sample in _samples(path):
                yield path, sample
        else:
            try:
                identity, entries = _enter(path, above)
            except InputError as error:
                yield path, Sample(printable(path), partial(InputError, str(error)))
            else:
                levels.append(iter(entries))
                above.append(identity)


def _enter(folder: str, above: list[tuple[int, int]]) -> tuple[tuple[int, int], list[tuple[str, bool]]]:
    """Return the device and inode of a folder, and the paths in it, each with whether it is a folder."""
    try:
        status = os.stat(folder)  # noqa: PTH116
        identity = status.st_dev, status.st_ino
        if identity in above:
            raise InputError("a link to a folder that contains it; not followed")
        with os.scandir(folder) as entries:
            return identity, sorted(
                (entry.path, _leads_to_folder(entry)) for entry in entries if not _is_hidden(entry.name)
            )
    except OSError as error:
        raise InputError(f"the folder cannot be read: {error.strerror}") from error


def _is_hidden(name: str) -> bool:
    """Return whether a name is hidden on Unix, or belongs to a file that Windows puts into folders of pictures."""
    return name[0] == "." or name.lower() in ("thumbs.db", "desktop.ini")


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _matches(folder: str, parts: list[str]) -> Iterator[str]:
    """Yield what matches a pattern below a folder, in order. Not `glob`, which is recursive and does not sort."""
    if not parts:
        yield folder
        return
    part, *rest = parts
    if part == "**":
        for below in _folders(folder) if rest else [folder or "."]:
            yield from _matches(below, rest)
    elif is_pattern(part):
        matching = re.compile(fnmatch.translate(part)).match
        for name in _names(folder):
            if matching(name) and name.startswith(".") == part.startswith("."):
                yield from _matches(os.path.join(folder, name), rest)  # noqa: PTH118
    elif os.path.lexists(path := os.path.join(folder, part)):  # noqa: PTH118
        yield from _matches(path, rest)


def _folders(top: str) -> Iterator[str]:
    """Yield a folder and those below it, except hidden ones and links."""
    pending = [top]
    while pending:
        folder = pending.pop()
        yield folder
        below = [os.path.join(folder, name) for name in _names(folder) if name[0] != "."]  # noqa: PTH118
        pending += reversed([path for path in below if os.path.isdir(path) and not os.path.islink(path)])  # noqa: PTH112, PTH114


def _names(folder: str) -> list[str]:
    """Return the names in a folder, sorted; an empty list if it is not a folder, or cannot be read."""
    try:
        return sorted(os.listdir(folder or "."))  # noqa: PTH208
    except OSError:
        return []


def _paths(file: BinaryIO) -> Iterator[str]:
    """Yield the paths in a list. NUL separates them if there is one within the longest possible first path."""
    rest, separator = b"", b""
    for chunk in _chunks(cast(io.BufferedReader, file)):
        rest += chunk
        if not separator and b"\0" not in rest and len(rest) <= _LONGEST_PATH:
            continue  # a line end is not enough to decide: names can contain one
        separator = separator or (b"\0" if b"\0" in rest else b"\n")
        *lines, rest = rest.split(separator)
        if len(rest) > _CHUNK:
            raise InputError(f"a list with a line of more than {_CHUNK:,} bytes; expected a path per line")
        yield from _decoded(lines)
    yield from _decoded(rest.split(separator or b"\n"))


def _chunks(file: io.BufferedReader) -> Iterator[bytes]:
    """Yield the content of a list, chunk by chunk, in UTF-8 and without a byte order mark."""
    start = b""
    while len(start) < len(codecs.BOM_UTF8) and (more := file.read1(_CHUNK)):
        start += more
    is_utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decode = codecs.getincrementaldecoder("utf-16")("replace").decode
    chunks = itertools.chain([start.removeprefix(codecs.BOM_UTF8)], iter(partial(file.read1, _CHUNK), b""))
    for chunk in chunks:
        if content := decode(chunk).encode("utf-8", "replace") if is_utf16 else chunk:
            yield content


def _decoded(lines: list[bytes]) -> Iterator[str]:
    return (_unquoted(os.fsdecode(path)) for line in lines if (path := line.removesuffix(b"\r")))


def _unquoted(path: str) -> str:
    """Remove the quotes that Windows' "copy as path" puts around a path."""
    quoted = len(path) > 2 and path[0] == path[-1] == '"' and not os.path.lexists(path)
    return path[1:-1] if quoted else path
