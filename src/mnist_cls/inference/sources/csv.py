"""Images in CSV files: in base64, by their paths, or as 784 numbers a row."""

import base64
import csv
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from ...errors import InputError
from ...images import SIZE
from .blocks import (
    ARRAY_CHUNK,
    IMAGE_CHUNK,
    LARGEST_FILE,
    Content,
    InputBlock,
    Sample,
    Source,
    file_identity,
    pieces_of,
    reader_errors,
    target_of,
)
from .tables import EXPECTED, PIXELS, Rows, as_shown, in_chunks, path_beside, some

# The longest line: an image of the largest size in base64, and what stands beside it.
_LONGEST_LINE = LARGEST_FILE * 4 // 3 + 100_000


def csv_source(path: Path) -> Source:
    """The images in a CSV file, see `open_source` for the columns. How many there are only its end tells.

    Without a header it must have 784 or 785 columns, and of 785 the first is the label.

    Raises:
        InputError: it has no such columns.
    """
    # The csv module refuses longer cells than this, in all of the process.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_LINE))
    with reader_errors(path, "CSV"), _open(path) as file:
        first = next(csv.reader(_lines(file)), [])
        if not first:
            raise InputError("an empty table")
    header = not all(map(_is_whole, first))
    names = [name.strip() for name in first] if header else ["label", *first[1:]] if len(first) == PIXELS + 1 else first
    labelled = "label" in names
    encoded = header and ("image" in names or "path" in names)
    if not encoded and (len(names) != PIXELS + labelled or names.count("label") > 1):
        what = f"the columns {some(names)}" if header else f"no header and {len(first)} columns"
        raise InputError(f"input={path}: has {what}; {EXPECTED}")

    def pieces(start: int) -> Iterator[InputBlock]:
        with reader_errors(path, "CSV"):
            if encoded:
                yield from pieces_of(_items(path, names), start, labelled)
            else:
                label = names.index("label") if labelled else None
                yield from in_chunks(_rows(path, header, label), start, labelled)

    if encoded:
        return Source(None, pieces, labelled=labelled, identity=file_identity(path))
    return Source(None, pieces, ARRAY_CHUNK, labelled, True, file_identity(path))


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise InputError(f"a line of more than {_LONGEST_LINE:,} characters")
        yield line


def _items(path: Path, names: list[str]) -> Iterator[Sample]:
    read: Callable[[str], Content] = _decoded if "image" in names else lambda cell: path_beside(path, cell)
    content = names.index("image" if "image" in names else "path")
    with _open(path) as file:
        rows = filter(None, csv.reader(_lines(file)))  # empty lines are no rows
        for index, row in enumerate(itertools.islice(rows, 1, None)):
            cells = dict(zip(names, row, strict=False))
            name, target = as_shown(cells.get("path") or str(index)), target_of(cells.get("label"))
            if len(row) == len(names):
                yield Sample(name, lambda cell=row[content]: read(cell), target)  # type: ignore[misc]
            else:
                wrong = InputError(f"a row of {len(row)} columns; expected {len(names)}")
                yield Sample(name, lambda wrong=wrong: wrong, target)  # type: ignore[misc]


def _decoded(cell: str) -> Content:
    try:
        return base64.b64decode(cell, validate=True) if cell else InputError("no image: the cell is empty")
    except ValueError as error:
        return InputError(f"not base64: {error}")


def _rows(path: Path, header: bool, label: int | None) -> Iterator[Rows]:
    width, first = PIXELS + (label is not None), 0
    with _open(path) as file:
        lines = (line for line in _lines(file) if line.strip())
        for line in itertools.islice(lines, int(header)):
            next(csv.reader([line]))
        while block := list(itertools.islice(lines, IMAGE_CHUNK)):
            names = [str(first + place) for place in range(len(block))]
            first += len(block)
            numbers = _numbers(block, width)
            if numbers is None:
                cells = [next(csv.reader([line])) for line in block]
                targets = [target_of(row[label]) if label is not None and len(row) == width else None for row in cells]
                yield names, [_row(row, width, label) for row in cells], targets
            elif label is None:
                yield names, numbers, [None] * len(block)
            else:
                yield names, np.delete(numbers, label, 1), list(map(target_of, numbers[:, label].tolist()))


def _numbers(lines: list[str], width: int) -> np.ndarray | None:
    """Lines of whole numbers as int64 (N, width), or None if there is anything else in them."""
    # NumPy reads them several times as fast as the csv module and int() do.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = np.loadtxt(lines, np.int64, comments=None, delimiter=",", quotechar='"', ndmin=2)
    except (ValueError, OverflowError, Warning):
        return None
    return found if found.shape == (len(lines), width) else None


def _row(row: list[str], width: int, label: int | None) -> Content:
    if len(row) != width:
        return InputError(f"a row of {len(row)} columns; expected {width}")
    cells = [cell for place, cell in enumerate(row) if place != label]
    wrong = next((cell for cell in cells if not _is_whole(cell)), None)
    if wrong is not None:
        return InputError(f"a pixel {wrong[:20]!r}; expected whole numbers 0 to 255")
    return np.array([int(float(cell)) for cell in cells]).reshape(SIZE, SIZE)


def _is_whole(cell: str) -> bool:
    digits = cell.strip().removesuffix(".0").removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 16
