"""Where rows go: the screen, standard output, or a file that appears when it is complete."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...errors import InputError
from ...files import expand
from ..progress import Progress
from ..rows import COLUMNS, Rows
from .formats import FORMATS, Format, kaggle_format
from .partial_file import open_partial_file

# Maximum number of rows shown on the screen.
SCREEN_ROWS = 50

# Values that are shown in red.
_STRIKING = {"is_digit": False, "undecided": True}
_STYLES = {"label": "bold", "reading": "bold", "error": "red"}


class Sink(Protocol):
    """Takes rows, batch by batch."""

    def resume(self, run: dict[str, Any]) -> Progress:
        """Return the progress of the interrupted run that this one resumes; all zeros if there is none.

        Args:
            run: identity of this run, see `PredictOptions.identity`; the interrupted run's must be equal.
        """
        return Progress()

    def write(self, rows: Rows, progress: Progress) -> None:
        """Write the rows of the next inputs; `progress` includes them."""


@contextlib.contextmanager
def open_sink(
    output: str | Path | None,
    columns: Sequence[str] = tuple(COLUMNS),
    resume: bool = False,
    format: str | None = None,
) -> Iterator[Sink]:
    """Open the destination of rows.

    Args:
        output: a `.csv`, `.jsonl`, `.parquet` or `.npy` (probabilities only) file, which appears under its name when
            the block has ended without an error; "-" is standard output as CSV, "-.jsonl" as JSON lines; None is the
            screen.
        columns: names of the rows' columns, see `output_columns`.
        resume: continue what an interrupted run has written, see `PartialFile`.
        format: "kaggle" writes a `.csv` or standard output as `kaggle_format`; None follows the ending of `output`.

    Raises:
        InputError: If the file's ending is none of those, or not one of `format`, another run is writing the file, or
            `resume` is set without a file.
        OSError: If the file cannot be written.
    """
    columns = list(columns)
    name = "-.csv" if output == "-" else str(output)
    if resume and (output is None or name.startswith("-.")):
        raise InputError("resume=true needs a file as output: rows that were printed cannot be resumed")
    if format is not None:
        check_format(output, format)
    if output is None:
        screen = _Screen(columns)
        yield screen
        screen.show()
        return
    kind = Path(name).suffix.lower()
    if kind not in FORMATS or (name == f"-{kind}" and kind not in (".csv", ".jsonl")):
        raise InputError(f"output={output}: expected a name that ends in {', '.join(FORMATS)}; or -, or -.jsonl")
    written_as = (FORMATS[kind] if format is None else kaggle_format)(columns)
    if name == f"-{kind}":
        if sys.__stdout__ is None:  # `>&-`
            raise InputError(f"output={output}: standard output is closed")
        standard_output = _StandardOutput(written_as)
        with contextlib.redirect_stdout(sys.stderr):  # other printed lines must not get between the rows
            yield standard_output
        return
    path = expand(name)
    if path.is_dir():
        raise InputError(f"output={path}: is a folder; expected a file's name")
    with open_partial_file(path, written_as, resume) as partial:
        yield partial


def check_format(output: str | Path | None, format: str) -> None:
    """Raise an InputError if there is no such `format`, or the output cannot have it."""
    if format != "kaggle":
        raise InputError(f"format={format}: expected kaggle; the ending of output chooses among other formats")
    if str(output) != "-" and Path(str(output)).suffix.lower() != ".csv":
        raise InputError(f"output={output or 'null'}: format=kaggle needs a name that ends in .csv, or -")


class _StandardOutput(Sink):
    def __init__(self, format: Format) -> None:
        self.format, self.stream = format, sys.stdout.buffer
        self._put(format.header)

    def write(self, rows: Rows, progress: Progress) -> None:
        self._put(self.format.encode(rows, progress.inputs - len(rows.errors)))

    def _put(self, content: bytes) -> None:
        self.stream.write(content)
        self.stream.flush()  # so that programs in the same pipeline see each batch at once


class _Screen(Sink):
    def __init__(self, columns: list[str]) -> None:
        self.columns = columns
        self.rows: list[dict[str, Any]] = []
        self.hidden = 0

    def write(self, rows: Rows, progress: Progress) -> None:
        free = SCREEN_ROWS - len(self.rows)
        first = zip(*(values[:free] for values in rows.columns.values()), strict=True)
        self.rows += [dict(zip(rows.columns, row, strict=True)) for row in first]
        self.hidden += max(len(rows.errors) - free, 0)

    def show(self) -> None:
        extra_columns = self.columns[self.columns.index("error") + 1 :]
        names = ["path", "reading" if "reading" in self.columns else "label", "confidence", *extra_columns]
        if any(row["error"] for row in self.rows):
            names.append("error")
        cells = [[_cell(name, row[name]) for name in names] for row in self.rows]
        if sys.stdout.isatty():
            _show_in_colour(names, cells)
        else:  # rich would wrap long lines, and takes time to import
            lines = [names, *([text for text, _ in row] for row in cells)]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            for line in lines:
                print("  ".join(map(str.ljust, line, widths)).rstrip())
        if self.hidden:
            print(f"... and {self.hidden:,} more; output=FILE.csv has them all")


def _show_in_colour(names: list[str], cells: list[list[tuple[str, str]]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*names, box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for row in cells:
        # As Text, so that rich does not read square brackets in names as markup.
        table.add_row(*(Text(*cell) for cell in row))
    Console().print(table)


def _cell(name: str, value: Any) -> tuple[str, str]:
    """Return the text and the style of a cell."""
    if value is None:
        return "", ""
    if name in _STRIKING:
        return ("yes" if value else "no"), ("red" if value == _STRIKING[name] else "")
    if name == "confidence":
        return f"{value:.2%}", ""
    # Names can contain control sequences for a terminal.
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(value))
    return text, _STYLES.get(name, "")
