"""Where predictions go: a row for each input, into a .csv, .jsonl or .parquet file, or onto the screen."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import expand, whole_file
from .predictor import Predictions

if TYPE_CHECKING:
    import pyarrow as pa

PROBABILITIES = [f"p{digit}" for digit in range(10)]
COLUMNS = ["path", "label", "confidence", *PROBABILITIES, "error"]

# More than this nobody reads on a screen.
SCREEN_ROWS = 50

Sink = Callable[[list[str], Predictions], None]


@contextmanager
def open_sink(output: str | Path | None) -> Iterator[Sink]:
    """Yield a function that takes the inputs' names and their predictions, chunk by chunk.

    Args:
        output: a `.csv`, `.jsonl` or `.parquet` file, which appears under its name when the block has ended well;
            None is the screen.

    Raises:
        InputError: the file's ending is none of those.
        OSError: the file cannot be written.
    """
    if output is None:
        screen = _Screen()
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
    with whole_file(path) as temporary, writers[kind](temporary) as sink:
        yield sink


@contextmanager
def _csv_writer(path: Path) -> Iterator[Sink]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        yield lambda paths, predictions: writer.writerows(rows(paths, predictions))


@contextmanager
def _jsonl_writer(path: Path) -> Iterator[Sink]:
    with path.open("w", encoding="utf-8") as file:

        def write(paths: list[str], predictions: Predictions) -> None:
            for row in rows(paths, predictions):
                file.write(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) + "\n")

        yield write


@contextmanager
def _parquet_writer(path: Path) -> Iterator[Sink]:
    import pyarrow as pa  # only who writes Parquet pays for it
    import pyarrow.parquet as pq

    numbers = [(name, pa.float32()) for name in ("confidence", *PROBABILITIES)]
    schema = pa.schema([("path", pa.string()), ("label", pa.int8()), *numbers, ("error", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda paths, predictions: writer.write_batch(_record_batch(paths, predictions, schema))


def _record_batch(paths: list[str], predictions: Predictions, schema: "pa.Schema") -> "pa.RecordBatch":
    import pyarrow as pa

    columns = zip(*rows(paths, predictions), strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def rows(paths: list[str], predictions: Predictions) -> Iterator[list[Any]]:
    """The rows of some predictions, in the order of `COLUMNS`; what a row with an error lacks is None."""
    labels, errors = predictions.labels.tolist(), predictions.errors
    # Six decimals: enough to tell 0.999999 from 1, and the same text on every machine.
    confidences = predictions.confidences.astype(float).round(6).tolist()
    probabilities = predictions.probabilities.astype(float).round(6).tolist()
    for place, path in enumerate(paths):
        if errors[place] is None:
            yield [path, labels[place], confidences[place], *probabilities[place], None]
        else:
            yield [path, *[None] * 12, errors[place]]


class _Screen:
    def __init__(self) -> None:
        self.shown: list[list[Any]] = []
        self.hidden = 0

    def write(self, paths: list[str], predictions: Predictions) -> None:
        for row in rows(paths, predictions):
            if len(self.shown) < SCREEN_ROWS:
                self.shown.append(row)
            else:
                self.hidden += 1

    def show(self) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("path", "label", "confidence", box=None, pad_edge=False)
        table.columns[0].overflow = "fold"
        failed = any(row[-1] for row in self.shown)
        if failed:
            table.add_column("error")
        for path, label, confidence, *_, error in self.shown:
            # As Text, names with square brackets are not taken for rich's markup.
            cells: list[Text | str] = (
                [Text(path.replace("\n", "\\n")), f"[bold]{label}[/]", f"{confidence:.2%}"]
                if error is None
                else [Text(path.replace("\n", "\\n")), "", ""]
            )
            table.add_row(*cells, *([Text(error or "", "red")] if failed else []))
        console = Console()
        console.print(table)
        if self.hidden:
            console.print(f"... and {self.hidden:,} more; output=FILE.csv takes them all", markup=False)
