"""Where rows go: the screen, standard output, or a file that appears when it is whole."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...errors import InputError
from ...files import expand
from ..progress import Progress
from ..rows import COLUMNS, READING_COLUMNS, Rows
from .formats import FORMATS, Format
from .partial_file import PartialFile

# More than this nobody reads on a screen.
SCREEN_ROWS = 50


# Of further columns on the screen, which answer stands out.
_STRIKING = {"is_digit": False, "undecided": True}


class Sink(Protocol):
    """Takes rows, chunk by chunk."""

    def write(self, rows: Rows, progress: Progress) -> None:
        """Take some rows.

        Args:
            rows: of the next inputs.
            progress: how far the run is with them.
        """

    def resume(self, run: dict[str, Any]) -> Progress:
        """Go on with the work of an earlier run, if that is wanted and there is any.

        Args:
            run: what must be the same in both for the result to be that of one.

        Returns:
            How far the earlier run was.
        """


@contextlib.contextmanager
def open_sink(
    output: str | Path | None, further: Sequence[str] = (), split: bool = False, resume: bool = False
) -> Iterator[Sink]:
    """Open what rows are written to.

    Args:
        output: a `.csv`, `.jsonl`, `.parquet` or `.npy` (probabilities only) file, which appears under its name when
            the block has ended well; "-" is standard output as CSV, "-.jsonl" as JSON lines; None is the screen.
        further: columns besides `COLUMNS`, of those in `FURTHER`.
        split: the rows are `READING_COLUMNS`.
        resume: go on with what an earlier run has left, see `PartialFile`.

    Raises:
        InputError: the file's ending is none of those, or there is nothing that could be resumed on the screen.
        OSError: the file cannot be written.
    """
    columns = [*(READING_COLUMNS if split else COLUMNS), *further]
    name = "-.csv" if output == "-" else str(output)
    if (output is None or name.startswith("-.")) and resume:
        raise InputError("resume=true goes with a file as output: what was printed cannot be taken up again")
    if output is None:
        screen = _Screen(columns)
        yield screen
        screen.show()
        return
    kind = Path(name).suffix.lower()
    if kind not in FORMATS or (name == f"-{kind}" and kind not in (".csv", ".jsonl")):
        raise InputError(f"output={output}: expected a name that ends in {', '.join(FORMATS)}; or -, or -.jsonl")
    if name == f"-{kind}":
        standard = _StandardOutput(FORMATS[kind](columns))
        with contextlib.redirect_stdout(sys.stderr):  # whatever else is printed must not get between the rows
            yield standard
        return
    path = expand(name)
    if path.is_dir():
        raise InputError(f"output={path}: is a folder; expected a file's name")
    with PartialFile(path, FORMATS[kind](columns), resume) as partial:
        yield partial


class _StandardOutput:
    def __init__(self, form: Format) -> None:
        self.form, self.stream = form, sys.stdout.buffer
        self._put(form.begin)

    def resume(self, run: dict[str, Any]) -> Progress:
        return Progress()

    def write(self, rows: Rows, progress: Progress) -> None:
        self._put(self.form.encode(rows))

    def _put(self, content: bytes) -> None:
        self.stream.write(content)
        self.stream.flush()  # who reads along shall see each chunk at once


class _Screen:
    def __init__(self, columns: list[str]) -> None:
        self.columns = columns
        self.shown: list[dict[str, Any]] = []
        self.hidden = 0

    def resume(self, run: dict[str, Any]) -> Progress:
        return Progress()

    def write(self, rows: Rows, progress: Progress) -> None:
        free = SCREEN_ROWS - len(self.shown)
        first = zip(*(values[:free] for values in rows.columns.values()), strict=True)
        self.shown += [dict(zip(rows.columns, row, strict=True)) for row in first]
        self.hidden += max(len(rows.errors) - free, 0)

    def show(self) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        further = self.columns[self.columns.index("error") + 1 :]
        shown = ["path", "reading" if "reading" in self.columns else "label", "confidence", *further]
        if any(row["error"] for row in self.shown):
            shown.append("error")
        table = Table(*shown, box=None, pad_edge=False)
        table.columns[0].overflow = "fold"
        for row in self.shown:
            # As Text, names with square brackets are not taken for rich's markup.
            table.add_row(*(Text(*_told(name, row[name])) for name in shown))
        console = Console()
        console.print(table)
        if self.hidden:
            console.print(f"... and {self.hidden:,} more; output=FILE.csv takes them all", markup=False)


def _told(name: str, value: Any) -> tuple[str, str]:
    """A cell's text and its style."""
    if value is None:
        return "", ""
    if name in _STRIKING:
        return ("yes" if value else "no"), ("red" if value == _STRIKING[name] else "")
    if name == "confidence":
        return f"{value:.2%}", ""
    styles = {"label": "bold", "reading": "bold", "error": "red"}
    # What a terminal would take for a command is shown, not obeyed.
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(value))
    return text, styles.get(name, "")
