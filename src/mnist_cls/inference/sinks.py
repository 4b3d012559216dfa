"""Where predictions go: a row for each input, into a .csv, .jsonl or .parquet file, or onto the screen."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..files import expand, whole_file
from .predictor import Predictions

if TYPE_CHECKING:
    import pyarrow as pa

PROBABILITIES = [f"p{digit}" for digit in range(10)]
COLUMNS = ["path", "label", "confidence", *PROBABILITIES, "error"]
# What rows may have besides, after those, and its type in Parquet.
FURTHER = {"is_digit": "bool_", "undecided": "bool_", "target": "int8"}
# Of those on the screen, which answer stands out.
_STRIKING = {"is_digit": False, "undecided": True}

# More than this nobody reads on a screen.
SCREEN_ROWS = 50

# The inputs' names, their predictions, and an array for each further column.
Sink = Callable[..., None]


@contextmanager
def open_sink(output: str | Path | None, further: Sequence[str] = ()) -> Iterator[Sink]:
    """Yield a function that takes the inputs' names, their predictions and the further columns, chunk by chunk.

    Args:
        output: a `.csv`, `.jsonl` or `.parquet` file, which appears under its name when the block has ended well;
            None is the screen.
        further: columns besides `COLUMNS`, of those in `FURTHER`.

    Raises:
        InputError: the file's ending is none of those.
        OSError: the file cannot be written.
    """
    if output is None:
        screen = _Screen(further)
        yield screen.write
        screen.show()
        return
    path = expand(output)
    writers = {".csv": _csv_writer, ".jsonl": _jsonl_writer, ".parquet": _parquet_writer}
    kind = path.suffix.lower()
    if kind not in writers:
        raise InputError(f"output={path}: expected a name that ends in {', '.join(writers)}")
    if path.is_dir():
        raise InputError(f"output={path}: is a folder; expected a file's name")
    with whole_file(path) as temporary, writers[kind](temporary, [*COLUMNS, *further]) as sink:
        yield sink


@contextmanager
def _csv_writer(path: Path, columns: list[str]) -> Iterator[Sink]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        yield lambda *chunk: writer.writerows(rows(*chunk))


@contextmanager
def _jsonl_writer(path: Path, columns: list[str]) -> Iterator[Sink]:
    with path.open("w", encoding="utf-8") as file:

        def write(*chunk: Any) -> None:
            for row in rows(*chunk):
                file.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n")

        yield write


@contextmanager
def _parquet_writer(path: Path, columns: list[str]) -> Iterator[Sink]:
    import pyarrow as pa  # only who writes Parquet pays for it
    import pyarrow.parquet as pq

    numbers = [(name, pa.float32()) for name in ("confidence", *PROBABILITIES)]
    schema = pa.schema([("path", pa.string()), ("label", pa.int8()), *numbers, ("error", pa.string())])
    for name in columns[len(COLUMNS) :]:
        schema = schema.append(pa.field(name, getattr(pa, FURTHER[name])()))
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda *chunk: writer.write_batch(_record_batch(schema, *chunk))


def _record_batch(schema: "pa.Schema", *chunk: Any) -> "pa.RecordBatch":
    import pyarrow as pa

    columns = zip(*rows(*chunk), strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def rows(paths: list[str], predictions: Predictions, *further: np.ndarray) -> Iterator[list[Any]]:
    """The rows of some predictions, in the order of `COLUMNS`, then of `further`; what an error's row lacks is None."""
    besides = [column.tolist() for column in further]
    labels, errors = predictions.labels.tolist(), predictions.errors
    # Six decimals: enough to tell 0.999999 from 1, and the same text on every machine.
    confidences = predictions.confidences.astype(float).round(6).tolist()
    probabilities = predictions.probabilities.astype(float).round(6).tolist()
    for place, path in enumerate(paths):
        if errors[place] is None:
            extra = [column[place] for column in besides]
            yield [path, labels[place], confidences[place], *probabilities[place], None, *extra]
        else:
            yield [path, *[None] * 12, errors[place], *[None] * len(besides)]


class _Screen:
    def __init__(self, further: Sequence[str]) -> None:
        self.further = list(further)
        self.shown: list[list[Any]] = []
        self.hidden = 0

    def write(self, *chunk: Any) -> None:
        for row in rows(*chunk):
            if len(self.shown) < SCREEN_ROWS:
                self.shown.append(row)
            else:
                self.hidden += 1

    def show(self) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("path", "label", "confidence", *self.further, box=None, pad_edge=False)
        table.columns[0].overflow = "fold"
        place = COLUMNS.index("error")
        failed = any(row[place] for row in self.shown)
        if failed:
            table.add_column("error")
        for row in self.shown:
            path, label, confidence, error, besides = *row[:3], row[place], row[place + 1 :]
            # As Text, names with square brackets are not taken for rich's markup.
            cells: list[Text | str] = (
                [Text(path.replace("\n", "\\n")), f"[bold]{label}[/]", f"{confidence:.2%}", *self._told(besides)]
                if error is None
                else [Text(path.replace("\n", "\\n")), "", "", *[""] * len(besides)]
            )
            table.add_row(*cells, *([Text(error or "", "red")] if failed else []))
        console = Console()
        console.print(table)
        if self.hidden:
            console.print(f"... and {self.hidden:,} more; output=FILE.csv takes them all", markup=False)

    def _told(self, values: list[bool]) -> list[str]:
        words = [(value, _STRIKING[name]) for name, value in zip(self.further, values, strict=True)]
        return [
            f"[{'red' if value == striking else 'default'}]{'yes' if value else 'no'}[/]" for value, striking in words
        ]
