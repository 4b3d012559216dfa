"""The dialect of a text table: its encoding, its separator, its header, and which lines are rows."""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...errors import InputError
from .tables import INDEX, LABELS, PIXEL_NAME, counts_up

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?\s*|\s*[+-]?(nan|inf(inity)?)\s*", re.ASCII | re.I)

# Pictures that are text.
_PNM = re.compile(rb"P[1-7]\s")

# A line with fewer cells is not an image, and its words between spaces are not cells.
_MANY = 8


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Attributes:
        separator: the character between cells; None: any white space.
        header: names of the columns; None if the first line is a row.
        width: number of columns.
        start: number of lines before the first row.
        header_line: the line of the header, which can occur again between rows; "" without one.
    """

    separator: str | None
    header: list[str] | None
    width: int
    start: int
    header_line: str = ""

    def cells(self, line: str) -> list[str]:
        """Return the cells of a line, without an empty one after a trailing separator."""
        return self.trimmed(_split(line, self.separator))

    def trimmed(self, cells: list[str]) -> list[str]:
        """Return the cells of a row without an empty one after a trailing separator."""
        return cells[:-1] if len(cells) == self.width + 1 and not cells[-1].strip() else cells

    def rows(self, lines: Iterator[str]) -> Iterator[str]:
        """Yield the lines that are rows: those after the header that are not empty, a comment or the header again."""
        for number, line in enumerate(lines):
            if number < self.start or line.isspace() or _is_comment(line):
                continue
            again = self.header_line and line.startswith(self.header_line)
            if not again or line.rstrip("\r\n") != self.header_line:
                yield line


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text by its byte order mark: UTF-16, as Windows writes it, or UTF-8."""
    return "utf-16" if start[:2] in _UTF16 else "utf-8-sig"


def decoded(start: bytes) -> str:
    """Return the first bytes of a text as text."""
    return start.decode(encoding_of(start), "replace")


def is_text(start: bytes) -> bool:
    """Return whether these can be the first bytes of a text."""
    # File names on Linux are any bytes, so a list of them need not be UTF-8. Pictures contain control characters.
    content = decoded(start).encode("utf-8", "replace") if start[:2] in _UTF16 else start
    return not any(byte < 32 and byte not in b"\0\t\r\n" for byte in content)


def looks_like_table(start: bytes) -> bool:
    """Return whether these are the first bytes of a text whose first line is a row of pixels, or a header of such."""
    if (b"\0" in start and start[:2] not in _UTF16) or _PNM.match(start) or not is_text(start):
        return False
    lines = [line for line in decoded(start).splitlines() if line.strip()]
    if not lines:
        return False
    line = next((line for line in lines if not _is_comment(line)), lines[0].lstrip("# "))
    cells = _split(line, _separator(line))[:-1]  # the last one may be cut off
    pixels = sum(is_number(cell) or PIXEL_NAME.fullmatch(cell) is not None for cell in cells)
    return len(cells) >= _MANY and pixels > len(cells) * 0.8


def read_dialect(lines: Iterable[str]) -> Dialect:
    """Recognize the dialect of a table by its first lines.

    Raises:
        InputError: If it has no lines.
    """
    comment, separator = "", ""
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        if re.fullmatch("sep=.", line.strip(), re.I):  # Excel's own
            separator = line.strip()[-1]
        elif _is_comment(line):
            comment = line.lstrip("# ")
        else:
            return _dialect(line, comment, separator or _separator(line), number)
    raise InputError("an empty table")


def _dialect(line: str, comment: str, separator: str | None, number: int) -> Dialect:
    cells = _without_last(_split(line, separator))
    above = _without_last(_split(comment, _separator(comment)))
    if _is_header(cells):
        names = [cell.strip() for cell in cells]
        return Dialect(separator, names, len(cells), number + 1, line.rstrip("\r\n"))
    if len(above) == len(cells) and _is_header(above):  # as np.savetxt writes headers
        return Dialect(separator, [cell.strip() for cell in above], len(cells), number)
    return Dialect(separator, None, len(cells), number)


def is_number(cell: str) -> bool:
    """Return whether a cell holds a number, perhaps with a decimal comma."""
    return _NUMBER.fullmatch(cell) is not None


def _is_header(cells: list[str]) -> bool:
    """Return whether a line names columns. A row of pixels with a broken cell does not."""
    words = [cell for cell in cells if cell.strip() and not is_number(cell)]
    if len(cells) < _MANY:
        return bool(words)
    rest = [cell for cell in cells if not _is_named(cell) and cell.strip()]
    named = _is_named(cells[0]) or _is_named(cells[-1])
    return named or len(words) > len(cells) / 2 or (len(rest) > 256 and counts_up(rest))


def _is_named(cell: str) -> bool:
    name = cell.strip().lower()
    return name != "" and name in (*LABELS, *INDEX)


def _separator(line: str) -> str | None:
    for separator in "\t;,":
        if separator in line.strip(" \r\n"):
            return separator
    return None if len(line.split()) >= _MANY else ","


def _split(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return [cell.strip('"') for cell in line.split()]
    return next(csv.reader([line], delimiter=separator), [])


def _without_last(cells: list[str]) -> list[str]:
    """Return cells without an empty one after a trailing separator."""
    return cells[:-1] if len(cells) > 1 and not cells[-1].strip() else cells


def _is_comment(line: str) -> bool:
    # As np.savetxt writes comments. Excel's errors, such as #N/A, are cells.
    return line.startswith("# ")
