"""Images in CSV files: in base64, by their paths, or as 784 numbers a row."""

import base64
import csv
import itertools
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from ...errors import InputError
from ...images import SIZE
from .blocks import IMAGE_BATCH, Content, InputBlock, Sample, Source, blocks_of, file_source, index_names, target_of
from .reading import LARGEST_FILE, reader_errors
from .tables import EXPECTED, PIXELS, listed, path_beside, row_name

# The longest line: an image of the largest size in base64, and some other cells.
_LONGEST_LINE = LARGEST_FILE * 4 // 3 + 100_000


def csv_source(path: Path) -> Source:
    """Return the images in a CSV file, see `open_source` for its columns. Their number is unknown.

    Without a header it must have 784 or 785 columns, and of 785 the first is the label.
    """
    # The csv module refuses longer cells than this, in the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_LINE))
    with reader_errors(path, "CSV"), _open(path) as file:
        first = next(csv.reader(_lines(file)), [])
        if not first:
            raise InputError("an empty table")
    header = not all(map(_is_whole, first))
    if header:
        columns = [name.strip() for name in first]
    else:
        columns = ["label", *first[1:]] if len(first) == PIXELS + 1 else first
    labelled = "label" in columns
    if header and ("image" in columns or "path" in columns):
        return file_source(path, "CSV", blocks_of(partial(_samples, path, columns), labelled), labelled=labelled)
    if len(columns) != PIXELS + labelled or columns.count("label") > 1:
        found = f"the columns {listed(columns)}" if header else f"no header and {len(first)} columns"
        raise InputError(f"input={path}: has {found}; {EXPECTED}")
    label = columns.index("label") if labelled else None
    return file_source(path, "CSV", lambda start: _blocks(path, header, label), labelled=labelled, arrays=True)


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise InputError(f"a line of more than {_LONGEST_LINE:,} characters")
        yield line


def _samples(path: Path, columns: list[str]) -> Iterator[Sample]:
    encoded = "image" in columns
    read: Callable[[str], Content] = _decode_base64 if encoded else partial(path_beside, path)
    column = columns.index("image" if encoded else "path")
    with _open(path) as file:
        rows = filter(None, csv.reader(_lines(file)))  # empty lines are not rows
        for index, row in enumerate(itertools.islice(rows, 1, None)):
            cells = dict(zip(columns, row, strict=False))
            name, target = row_name(cells.get("path") or None, index), target_of(cells.get("label"))
            complete = len(row) == len(columns)
            content = partial(read, row[column]) if complete else partial(_wrong_length, row, len(columns))
            yield Sample(name, content, target)


def _decode_base64(cell: str) -> Content:
    try:
        return base64.b64decode(cell, validate=True) if cell else InputError("no image: the cell is empty")
    except ValueError as error:
        return InputError(f"not base64: {error}")


def _wrong_length(row: list[str], expected: int) -> InputError:
    return InputError(f"a row of {len(row)} columns; expected {expected}")


def _blocks(path: Path, header: bool, label: int | None) -> Iterator[InputBlock]:
    width, first = PIXELS + (label is not None), 0
    with _open(path) as file:
        lines = (line for line in _lines(file) if line.strip())
        if header:
            next(lines, None)
        while block := list(itertools.islice(lines, IMAGE_BATCH)):
            names = index_names(first, len(block))
            first += len(block)
            numbers = _numbers(block, width)
            if numbers is None:
                contents, targets = zip(*(_row(line, width, label) for line in block), strict=True)
                yield InputBlock(names, list(contents), [] if label is None else list(targets))
            elif label is None:
                yield InputBlock(names, numbers)
            else:
                yield InputBlock(names, np.delete(numbers, label, 1), list(map(target_of, numbers[:, label].tolist())))


def _numbers(lines: list[str], width: int) -> np.ndarray | None:
    """Return lines of whole numbers as int64 (N, width), or None if anything else is in them."""
    # NumPy reads them several times as fast as the csv module and int().
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = np.loadtxt(lines, np.int64, comments=None, delimiter=",", quotechar='"', ndmin=2)
    except (ValueError, OverflowError, Warning):
        return None
    return found if found.shape == (len(lines), width) else None


def _row(line: str, width: int, label: int | None) -> tuple[Content, int | None]:
    """Return the image in a line, or why there is none, and its label."""
    cells = next(csv.reader([line]))
    if len(cells) != width:
        return _wrong_length(cells, width), None
    target = None if label is None else target_of(cells.pop(label))
    wrong = next((cell for cell in cells if not _is_whole(cell)), None)
    if wrong is not None:
        return InputError(f"a pixel {wrong[:20]!r}; expected whole numbers 0 to 255"), target
    return np.array([int(float(cell)) for cell in cells]).reshape(SIZE, SIZE), target


def _is_whole(cell: str) -> bool:
    digits = cell.strip().removesuffix(".0").removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 16
