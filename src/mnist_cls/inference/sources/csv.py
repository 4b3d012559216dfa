"""Images in text tables, such as CSV: in base64, by their paths, as lists, or as 784 numbers per row."""

import base64
import contextlib
import csv
import io
import itertools
import re
import warnings
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ...errors import InputError
from ...images import SIZE
from .blocks import IMAGE_BATCH, Content, InputBlock, Sample, Source, blocks_of, file_source, index_names, target_of
from .dialect import Dialect, encoding_of, is_number, read_dialect
from .reading import LARGEST_FILE, decompressed, open_regular, reader_errors
from .tables import PIXELS, Columns, counts_up, find_columns, images_of, path_beside, pixels_of, row_name, wrong_number

# The longest line: an image of the largest size in base64, and some other cells.
_LONGEST_LINE = LARGEST_FILE * 4 // 3 + 100_000

# Minimum number of rows in which the labels are looked for, in a table that does not name its columns.
_LOOK_AT = 100

# Advice for an extra column that numbers the rows.
_NO_INDEX = "save it without pandas' index: to_csv(..., index=False)"

Lines = Callable[[], AbstractContextManager[Iterator[str]]]


@dataclass(frozen=True)
class _Table:
    """A text table: its lines, its dialect, and its columns with images and labels; other columns are ignored."""

    lines: Lines
    dialect: Dialect
    columns: Columns

    def rows(self) -> Generator[str, None, None]:
        with self.lines() as lines:
            yield from self.dialect.rows(lines)


def csv_source(path: Path, member: str | None = None) -> Source:
    """Return the images in a text table, see `open_source` for its columns. Their number is unknown.

    Cells are separated by commas, semicolons (with decimal commas), tabs or spaces. Compressed tables, too, are read
    line by line.

    Args:
        path: the table, plain or compressed by gzip, bzip2 or xz; or a zip archive.
        member: the name of the table in the archive.
    """
    # The csv module's limit for the length of cells holds for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_LINE))
    lines = partial(_open, path, member)
    name = path if member is None else path / member
    with reader_errors(name, "CSV"):
        with lines() as beginning:
            dialect = read_dialect(beginning)
        table = _Table(lines, dialect, _columns(dialect, lines))
    columns = table.columns
    labelled = columns.label is not None
    found = partial(_blocks, table) if not columns.kind else blocks_of(partial(_samples, table, path), labelled)
    return file_source(path, "CSV", found, labelled=labelled, arrays=not columns.kind, member=member)


@contextmanager
def _open(path: Path, member: str | None) -> Iterator[Iterator[str]]:
    """Open a table, and yield an iterator over its lines."""
    with contextlib.ExitStack() as stack:
        binary: Any
        if member is None:
            binary = decompressed(stack.enter_context(open_regular(path)))
        else:
            archive = stack.enter_context(zipfile.ZipFile(path))
            binary = stack.enter_context(archive.open(member))
        start = binary.read(4)
        binary.seek(0)
        text = io.TextIOWrapper(binary, encoding_of(start), "surrogateescape", newline="")
        yield _lines(text)


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise InputError(f"a line of more than {_LONGEST_LINE:,} characters")
        yield line


def _columns(dialect: Dialect, lines: Lines) -> Columns:
    """Find the images and labels of a table, by its header or else by its first rows."""
    names = dialect.header or []
    first = int(len(names) > PIXELS and names[0] in ("", "Unnamed: 0") and counts_up(names[1:]))  # pandas' index
    # A header of 785 numbers does not say which column has the labels.
    if names and not (len(names) - first > PIXELS and counts_up(names[first:])):
        return find_columns(names)
    columns = list(range(first, dialect.width))
    if len(columns) == PIXELS:
        return Columns("", columns)
    if len(columns) != PIXELS + 1:
        index = f"; {_NO_INDEX}" if len(columns) == PIXELS + 2 else ""
        raise InputError(f"has no header and {wrong_number(dialect.width)}{index}")
    rows = _Table(lines, dialect, Columns("", columns)).rows()
    with contextlib.closing(rows):
        position, is_label = _other_column(dialect.cells(line)[first:] for line in rows)
    other = columns.pop(position)
    return Columns("", columns, other if is_label else None)


def _other_column(rows: Iterator[list[str]]) -> tuple[int, bool]:
    """Find the column without pixels among 785 columns without names: labels, first or last, or pandas' index, first.

    Returns:
        Its position, 0 or -1, and whether it has labels.

    Raises:
        InputError: If it cannot be identified.
    """
    numbers = list[str]()
    # For the first and the last column: whether all cells are 0 to 9, and whether one is not 0.
    digits, varied = {0: True, -1: True}, {0: False, -1: False}
    for row in rows:
        if len(row) != PIXELS + 1:
            continue
        if len(numbers) < _LOOK_AT:
            numbers.append(row[0])
        for position in digits:
            if is_number(row[position]):  # a broken cell is ignored
                target = target_of(row[position])
                digits[position] &= target is not None
                varied[position] |= target != 0
        if len(numbers) == _LOOK_AT and varied[0] != varied[-1]:
            break
    if len(numbers) > len("0123456789") and counts_up(numbers):
        return 0, False
    # A column of zeros is a corner that is black in all images, rather than a label that is always 0.
    likely = [position for position in digits if digits[position] and varied[position]]
    if len(likely) == 1:
        return likely[0], True
    if not likely and not any(varied.values()):
        return 0, True
    if not likely and 1 < len(numbers) == len({*numbers}) and all(number.strip().isdecimal() for number in numbers):
        raise InputError(f"has no header and 785 columns, and the first seems to number the rows; {_NO_INDEX}")
    raise InputError(
        "has no header and 785 columns, and neither the first nor the last is clearly the labels, 0 to 9; add a header"
    )


def _samples(table: _Table, path: Path) -> Iterator[Sample]:
    columns, dialect = table.columns, table.dialect
    readers: dict[str, Callable[[str], Content]] = {
        "image": _decode_base64,
        "path": partial(path_beside, path),
        "pixels": _listed_pixels,
    }
    read = readers[columns.kind]
    with table.lines() as lines:
        # csv.reader, because cells can contain line ends.
        rows = csv.reader(itertools.islice(lines, dialect.start, None), delimiter=dialect.separator or ",")
        filled = (dialect.trimmed(row) for row in rows if row)  # empty lines are not rows
        for index, row in enumerate(row for row in filled if [cell.strip() for cell in row] != dialect.header):
            cells = dict(enumerate(row))
            name = row_name((None if columns.path is None else cells.get(columns.path)) or None, index)
            target = None if columns.label is None else target_of(cells.get(columns.label))
            complete = len(row) == dialect.width
            content = partial(read, row[columns.images[0]]) if complete else partial(_wrong_length, row, dialect.width)
            yield Sample(name, content, target)


def _decode_base64(cell: str) -> Content:
    try:
        return base64.b64decode(cell, validate=True) if cell else InputError("no image: the cell is empty")
    except ValueError as error:
        return InputError(f"not base64: {error}")


def _listed_pixels(cell: str) -> Content:
    """Return the image in a cell such as `[0, 12, 255, ...]` or `0 12 255 ...`."""
    return pixels_of(re.sub(r"[\[\](),;]", " ", cell).split()) if cell else InputError("no image: the cell is empty")


def _wrong_length(row: list[str], expected: int) -> InputError:
    return InputError(f"a row of {len(row)} columns; expected {expected}")


def _blocks(table: _Table, start: int) -> Iterator[InputBlock]:
    columns, first = table.columns, 0
    rows = table.rows()
    while block := list(itertools.islice(rows, IMAGE_BATCH)):
        names = index_names(first, len(block))
        first += len(block)
        numbers = _numbers(block, table.dialect)
        if numbers is None:
            found = [_row(line, table) for line in block]
            contents: np.ndarray | list[Content] = [content for content, _ in found]
            targets = [target for _, target in found]
        else:
            contents = images_of(numbers[:, columns.images])
            targets = [] if columns.label is None else list(map(target_of, numbers[:, columns.label].tolist()))
        yield InputBlock(names, contents, [] if columns.label is None else targets)


def _numbers(lines: list[str], dialect: Dialect) -> np.ndarray | None:
    """Return lines of numbers as int64 or float64 (N, width), or None if they hold anything else."""
    separator = dialect.separator
    if separator is not None:
        lines = [line.rstrip("\r\n").removesuffix(separator) for line in lines]
    if separator != ",":
        lines = [line.replace(",", ".") for line in lines]  # decimal commas
    # NumPy is several times as fast as the csv module and int().
    for dtype in (np.int64, np.float64):
        with contextlib.suppress(ValueError, OverflowError, Warning), warnings.catch_warnings():
            warnings.simplefilter("error")
            found = np.loadtxt(lines, dtype, comments=None, delimiter=separator, quotechar='"', ndmin=2)
            return found if found.shape == (len(lines), dialect.width) else None
    return None


def _row(line: str, table: _Table) -> tuple[Content, int | None]:
    """Return the image in a line, or why there is none, and its label."""
    cells, columns = table.dialect.cells(line), table.columns
    if len(cells) != table.dialect.width:
        return _wrong_length(cells, table.dialect.width), None
    target = None if columns.label is None else target_of(cells[columns.label])
    pixels = [cells[position].strip() for position in columns.images]
    wrong = next((cell for cell in pixels if not is_number(cell)), None)
    if wrong is not None:
        return InputError(f"a pixel {wrong[:20]!r}; expected whole numbers 0 to 255, or 0 to 1"), target
    numbers = np.array([float(cell.replace(",", ".")) for cell in pixels])
    return images_of(numbers).reshape(SIZE, SIZE), target
