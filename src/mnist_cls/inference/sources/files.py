"""Inputs that are files of one image each: one, a folder of them, what a pattern matches, or a list of paths."""

import fnmatch
import io
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from ...errors import InputError
from .blocks import Content, Sample, Source, open_regular, pieces_of, shown_name

# The longest path on Linux, and how much of a list is read at once.
_LONGEST_PATH, _BLOCK = 4096, 1 << 16


def image_source(path: Path) -> Source:
    """One image."""
    return Source(1, lambda start: pieces_of([_item(str(path))], start), identity=f"image {path}")


def folder_source(folder: Path) -> Source:
    """All files below a folder, without hidden ones.

    Links to folders are followed, unless they lead to one that they lie in. If the folder has nothing in it but folders
    named 0 to 9, these are the labels.

    Raises:
        InputError: there is no file in it.
    """
    names = [name for name in os.listdir(folder) if not name.startswith(".")]  # noqa: PTH208 (names are all we need)
    labelled = bool(names) and all(re.fullmatch("[0-9]", name) and (folder / name).is_dir() for name in names)
    labels = {name: int(name) for name in names} if labelled else {}

    def items() -> Iterator[Sample]:
        for place, item in _walk(str(folder)):
            below = Path(place).relative_to(folder).parts if labels else [""]
            yield item._replace(target=labels.get(below[0]))

    count = sum(1 for _ in _walk(str(folder)))
    if count == 0:
        raise InputError(f"input={folder}: the folder has no files in it; expected images")
    return Source(count, lambda start: pieces_of(items(), start, labelled), labelled=labelled, identity=f"{folder}")


def is_pattern(text: str) -> bool:
    """Whether it has one of the characters that stand for others in a pattern."""
    return any(character in text for character in "*?[")


def pattern_source(pattern: str) -> Source:
    """All files that a pattern such as `scans/*.png` matches, and those in the folders that it matches.

    Raises:
        InputError: it matches nothing.
    """
    text = os.path.expanduser(pattern)  # noqa: PTH111 (a pattern is no path)
    root, parts = ("/", text.split("/")[1:]) if text.startswith("/") else ("", text.split("/"))
    parts = [part for place, part in enumerate(parts) if part and parts[place - 1 : place + 1] != ["**", "**"]]

    def items() -> Iterator[Sample]:
        for path in _matches(root, parts):
            if os.path.isdir(path):  # noqa: PTH112
                yield from (item for _, item in _walk(path))
            else:
                yield _item(path)

    count = sum(1 for _ in items())
    if count == 0:
        raise InputError(f"input={pattern}: matches no file")
    return Source(count, lambda start: pieces_of(items(), start), identity=pattern)


def list_source(path: Path | None) -> Source:
    """A path a line, or separated by NUL; of `path`, or of standard input if it is None.

    Raises:
        InputError: there is none in the file.
    """
    if path is None:
        lines = _lines(sys.stdin.buffer)
        return Source(None, lambda start: pieces_of(map(_item, lines), start), identity="standard input")

    def items() -> Iterator[Sample]:
        with open_regular(path) as file:
            yield from map(_item, _lines(file))

    count = sum(1 for _ in items())
    if count == 0:
        raise InputError(f"input={path}: the list is empty; expected a path a line")
    return Source(count, lambda start: pieces_of(items(), start), identity=f"{path}")


def _item(path: str) -> Sample:
    return Sample(shown_name(path), lambda: path)


def _failed(path: str, reason: str) -> Sample:
    content: Content = InputError(reason)
    return Sample(shown_name(path), lambda: content)


def _walk(top: str) -> Iterator[tuple[str, Sample]]:
    """The files below a folder in the order of their names, each with its path.

    In memory are the names in one folder, and in those that lead to it. Not recursive: folders nest as deep as somebody
    likes.
    """
    levels: list[_Level] = []
    folder: str | None = top
    while folder is not None or levels:
        if folder is not None:
            try:
                levels.append(_enter(folder, [level.place for level in levels]))
            except InputError as error:
                yield folder, _failed(folder, str(error))
            folder = None
        elif (found := next(levels[-1].names, None)) is None:
            levels.pop()
        else:
            name, is_folder = found
            path = os.path.join(levels[-1].folder, name)  # noqa: PTH118 (joined a million times)
            if is_folder:
                folder = path
            else:
                yield path, _item(path)


class _Level(NamedTuple):
    """A folder on the way: its path, what it is whatever way leads to it, and what is still to be seen in it."""

    folder: str
    place: tuple[int, int]
    names: Iterator[tuple[str, bool]]


def _enter(folder: str, above: list[tuple[int, int]]) -> _Level:
    try:
        status = os.stat(folder)  # noqa: PTH116
        place = status.st_dev, status.st_ino
        if place in above:
            raise InputError("a link to a folder that it lies in; not followed")
        with os.scandir(folder) as entries:
            names = sorted((entry.name, _leads_to_folder(entry)) for entry in entries if entry.name[0] != ".")
    except OSError as error:
        raise InputError(f"the folder cannot be read: {error.strerror}") from error
    return _Level(folder, place, iter(names))


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _matches(folder: str, parts: list[str]) -> Iterator[str]:
    if not parts:
        yield folder
        return
    part, *rest = parts
    if not is_pattern(part):
        path = os.path.join(folder, part)  # noqa: PTH118
        if os.path.lexists(path):
            yield from _matches(path, rest)
        return
    if part == "**":
        for below in _folders(folder) if rest else [folder or "."]:
            yield from _matches(below, rest)
        return
    matching = re.compile(fnmatch.translate(part)).match
    for name in _names(folder):
        if matching(name) and name.startswith(".") == part.startswith("."):
            yield from _matches(os.path.join(folder, name), rest)  # noqa: PTH118


def _folders(top: str) -> Iterator[str]:
    """A folder and those below it, without hidden ones and links."""
    coming = [top]
    while coming:
        folder = coming.pop()
        yield folder
        below = [os.path.join(folder, name) for name in _names(folder) if name[0] != "."]  # noqa: PTH118
        coming += reversed([path for path in below if _is_folder(path) and not os.path.islink(path)])  # noqa: PTH114


def _names(folder: str) -> list[str]:
    """What is in a folder; nothing, if it is none, or must not be read."""
    try:
        return sorted(os.listdir(folder or "."))  # noqa: PTH208
    except OSError:
        return []


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return False


def _lines(file: BinaryIO) -> Iterator[str]:
    """The paths in a list, without empty lines; NUL separates them if there is one where the first must have ended."""
    rest, separator = b"", b""
    while block := cast(io.BufferedReader, file).read1(_BLOCK):
        rest += block
        if not separator and b"\0" not in rest and len(rest) <= _LONGEST_PATH:
            continue  # a name may have line ends in it
        separator = separator or (b"\0" if b"\0" in rest else b"\n")
        *lines, rest = rest.split(separator)
        if len(rest) > _BLOCK:
            raise InputError(f"a list with a line of more than {_BLOCK:,} bytes; expected a path a line")
        yield from (os.fsdecode(line) for line in map(_stripped, lines) if line)
    yield from (os.fsdecode(line) for line in map(_stripped, rest.split(separator or b"\n")) if line)


def _stripped(line: bytes) -> bytes:
    return line.removesuffix(b"\r")
