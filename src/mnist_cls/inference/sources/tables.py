"""What Parquet and CSV have in common: their columns, and the values of their cells."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...images import SIZE
from .blocks import Content
from .reading import printable

PIXELS = SIZE * SIZE

EXPECTED = "expected a column image, path or pixels, or 784 columns of pixels and perhaps one called label"


def path_beside(table: Path, name: object) -> Content:
    """Return the path in a cell, which is relative to the folder of the table."""
    if not name or not isinstance(name, str):
        return InputError("no image: the cell is empty" if not name else f"no path: {type(name).__name__}")
    return os.path.join(table.parent, name)  # noqa: PTH118 (an absolute name stays as it is)


def row_name(path: object, index: int) -> str:
    """Return the printable name of a row: its cell in the column `path`, or its index."""
    if path is None:
        return str(index)
    return printable(os.fsdecode(path)) if isinstance(path, (str, bytes)) else str(path)


def pixels_of(values: object) -> Content:
    """Return a row of 784 numbers as an image."""
    try:
        array = np.asarray(values)
    except ValueError:
        return InputError("no image: its rows are of different lengths")
    if array.dtype.kind not in "buif":
        return InputError("no image: there are pixels missing")
    if array.size != PIXELS:
        return InputError(f"{array.size} pixels; expected {PIXELS}")
    return array.reshape(SIZE, SIZE)


def listed(columns: Sequence[str]) -> str:
    """Return the first of many names of columns, for a message."""
    more = f", ... ({len(columns)} in all)" if len(columns) > 6 else ""
    return ", ".join(map(repr, columns[:6]))[:200] + more
