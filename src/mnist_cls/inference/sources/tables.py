"""What Parquet files, text tables and DataFrames have in common: their columns, and the values of their cells."""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...images import SIZE
from .blocks import Content
from .reading import printable

PIXELS = SIZE * SIZE

EXPECTED = "expected a column image, path or pixels, or 784 columns of pixels and perhaps one called label"

# Names, in upper or lower case, of the column of labels and of a column that only numbers the rows. pandas writes its
# index under no name or as __index_level_0__; Kaggle's tables have an id.
LABELS = ("label", "labels", "target", "class", "digit", "y")
INDEX = ("", "unnamed: 0", "__index_level_0__", "index", "id", "imageid")

# The name of a column of pixels: pixel12, 12, 3x4, p_3_4.
PIXEL_NAME = re.compile(r"\D*\d+(\D+\d+)?")


@dataclass(frozen=True)
class Columns:
    """Positions of a table's columns.

    Attributes:
        kind: how images are stored: "image" (encoded), "path", "pixels" (one column of lists), or "" for 784 columns.
        images: positions of the columns with the images.
        label: position of the column of labels; None if there is none.
        path: position of the column `path`; None if there is none.
    """

    kind: str
    images: list[int]
    label: int | None = None
    path: int | None = None


def find_columns(names: Sequence[str]) -> Columns:
    """Find images and labels by the names of a table's columns.

    Raises:
        InputError: If there are no images, or columns among the pixels that are none, or names that occur twice.
    """
    plain = [name.strip().lower() for name in names]
    if twice := [name for name, times in Counter(plain).items() if times > 1]:
        raise InputError(f"has several columns called {listed(twice)}; remove or rename them")
    label = next((plain.index(name) for name in LABELS if name in plain), None)
    path = plain.index("path") if "path" in plain else None
    for kind in ("image", "pixels", "path"):
        if kind in plain:
            return Columns(kind, [plain.index(kind)], label, path)
    pixels = [position for position in range(len(plain)) if position != label]
    if len(pixels) > PIXELS:
        pixels = [position for position in pixels if plain[position] not in INDEX]
    if len(pixels) != PIXELS:
        raise InputError(_unusable([names[position] for position in pixels], names))
    return Columns("", _in_order(pixels, names), label)


def _in_order(pixels: list[int], names: Sequence[str]) -> list[int]:
    """Sort columns named pixel0 to pixel783, or pixel1 to pixel784, by their number: some writers sort by name."""
    numbers = [re.sub(r"\D", "", names[position]) for position in pixels]
    if counts_up(sorted(numbers, key=lambda number: (len(number), number))):
        return [position for _, position in sorted(zip(map(int, numbers), pixels, strict=True))]
    return pixels


def counts_up(cells: Sequence[str]) -> bool:
    """Return whether cells are 0, 1, 2, ... or 1, 2, 3, ..., as pandas names columns and numbers rows."""
    return all(cell.strip().isdecimal() and len(cell) < 9 for cell in cells) and (
        [int(cell) for cell in cells] in (list(range(len(cells))), list(range(1, len(cells) + 1)))
    )


def _unusable(pixels: Sequence[str], names: Sequence[str]) -> str:
    """Return what is wrong with a table that has the columns `names`, of which `pixels` should be 784."""
    others = [name for name in pixels if not PIXEL_NAME.fullmatch(name.strip())]
    if others and len(pixels) - len(others) == PIXELS:
        return f"has {listed(others)} beside 784 columns of pixels; remove it, or call the labels 'label'"
    if not others and _side(len(pixels)):
        return f"has {wrong_number(len(pixels))}"
    return f"has the columns {listed(names)}; {EXPECTED}"


def wrong_number(count: int) -> str:
    """Return what is wrong with a table of that many columns of numbers."""
    if side := _side(count):
        return (
            f"{count} columns of numbers, perhaps images of {side}x{side}; expected 784, 28x28:"
            f" save them as an array, uint8 (N, {side}, {side}), in a .npy"
        )
    return f"{count:,} columns; expected 784 of pixels, and perhaps one with labels"


def _side(count: int) -> int:
    """Return the side of square images in that many columns, one of which can be labels; 0 if they are not square."""
    side = math.isqrt(count)
    return side if count - side * side in (0, 1) and side > 3 else 0


def images_of(numbers: np.ndarray) -> np.ndarray:
    """Return N rows of 784 numbers, (N, 784), as integers if they are all whole, so that errors say 0 to 255.

    `images_from_array` infers the range of each row by itself, 0 to 255 or 0 to 1, whatever the other rows are.
    """
    if not np.issubdtype(numbers.dtype, np.floating):
        return numbers
    with np.errstate(invalid="ignore"):
        whole = numbers.astype(np.int64)
    return whole if (whole == numbers).all() else numbers


def pixels_of(values: object) -> Content:
    """Return a row of 784 numbers, perhaps written as text, as an image."""
    try:
        array = np.asarray(values)
        array = array.astype(float) if array.dtype.kind in "US" else array
    except ValueError:
        return InputError("no image: a pixel is not a number, or its rows are of different lengths")
    if array.dtype.kind not in "buif":
        return InputError("no image: pixels are missing")
    if array.size != PIXELS:
        return InputError(f"{array.size} pixels; expected {PIXELS}")
    return images_of(array).reshape(SIZE, SIZE)


def path_beside(table: Path, name: object) -> Content:
    """Return the path of an image file whose name, in a cell, is relative to the folder of the table."""
    if not name or not isinstance(name, str):
        return InputError("no image: the cell is empty" if not name else f"no path: {type(name).__name__}")
    return os.path.join(table.parent, name)  # noqa: PTH118 (an absolute name stays as it is)


def row_name(path: object, index: int) -> str:
    """Return the printable name of a row: its cell in the column `path`, or its index."""
    if path is None:
        return str(index)
    return printable(os.fsdecode(path)) if isinstance(path, (str, bytes)) else str(path)


def listed(columns: Sequence[str]) -> str:
    """Return the names of columns, or the first of them if there are many, for a message."""
    more = f", ... ({len(columns)} in all)" if len(columns) > 6 else ""
    return ", ".join(map(repr, columns[:6]))[:200] + more
