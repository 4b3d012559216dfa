"""Output formats: CSV, JSON lines, Parquet, and the probabilities alone as `.npy`.

Each file is written by appending batch after batch, so that the rows of an interrupted run can be kept.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ...errors import InputError
from ...images import CLASSES
from ..rows import PROBABILITIES, Rows

if TYPE_CHECKING:
    import pyarrow as pa


# Rows of a Parquet file that are compressed together, whatever batches they came in.
ROW_GROUP = 1 << 16

# Length of NumPy's header for an array of fewer than 10^40 rows.
_NPY_HEADER = 128

_LINE_END = "\r\0\n"


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        header: the first bytes of a file.
        encode: rows, and the number of rows before them -> bytes to append.
        final_header: number of bytes in a complete file -> bytes that replace `header`.
        convert: reads a complete file from its start and writes the output, see `parquet_format`.
    """

    header: bytes
    encode: Callable[[Rows, int], bytes]
    final_header: Callable[[int], bytes] | None = None
    convert: Callable[[BinaryIO, Path], None] | None = None


def csv_format(columns: list[str]) -> Format:
    """CSV with a header line; lists are JSON in their cell."""
    return Format(_csv([columns]), lambda rows, before: _csv(_csv_rows(rows)))


def kaggle_format(columns: list[str]) -> Format:
    """CSV as Kaggle's competition "Digit Recognizer" takes it: row numbers from 1, and labels, empty in error rows."""
    if "label" not in columns:
        raise InputError("format=kaggle and split=true exclude each other; leave one of them out")

    def encode(rows: Rows, before: int) -> bytes:
        if (name := next(iter(rows.columns["path"]), str(before))) != str(before):
            raise InputError(
                f"format=kaggle numbers the rows of a table or an array, but these images have names, such as {name};"
                " leave out format=kaggle"
            )
        return _csv(enumerate(rows.columns["label"], before + 1))

    return Format(_csv([["ImageId", "Label"]]), encode)


def _csv(rows: Any) -> bytes:
    text = io.StringIO(newline="")
    # The csv module quotes cells that contain a character of the line terminator. With "\n" alone, it would leave cells
    # with "\r" unquoted.
    csv.writer(text, lineterminator=_LINE_END).writerows(rows)
    return text.getvalue().replace(_LINE_END, "\n").encode()


def _csv_rows(rows: Rows) -> Iterator[tuple[Any, ...]]:
    columns = dict(rows.columns)
    # Spreadsheets run cells that begin with these characters as formulas. A leading "./" does not change a path.
    columns["path"] = [f"./{path}" if re.match(r"[=+\-@\t\r]", path) else path for path in columns["path"]]
    for name in columns.keys() & {"confidences", "boxes"}:
        columns[name] = [None if value is None else json.dumps(value) for value in columns[name]]
    return zip(*columns.values(), strict=True)


def jsonl_format(columns: list[str]) -> Format:
    """One JSON object per line."""

    def encode(rows: Rows, before: int) -> bytes:
        values = zip(*rows.columns.values(), strict=True)
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in values)
        return "".join(lines).encode()

    return Format(b"", encode)


def npy_format(columns: list[str]) -> Format:
    """The probabilities alone, float32 (N, 10), NaN in error rows."""
    if "reading" in columns:
        raise InputError("output: a .npy holds probabilities, not readings; use .csv, .jsonl or .parquet")

    def final_header(size: int) -> bytes:
        header, shape = io.BytesIO(), ((size - _NPY_HEADER) // (4 * CLASSES), CLASSES)
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return header.getvalue()

    def encode(rows: Rows, before: int) -> bytes:
        return b"" if rows.probabilities is None else rows.probabilities.astype("<f4").tobytes()

    return Format(bytes(_NPY_HEADER), encode, final_header)


def parquet_schema(columns: list[str]) -> "pa.Schema":
    """Return the columns of a Parquet file with their types."""
    import pyarrow as pa  # imported only if Parquet is written

    types = {
        "path": pa.string(),
        "label": pa.int8(),
        "reading": pa.string(),
        **dict.fromkeys(["confidence", *PROBABILITIES], pa.float32()),
        "confidences": pa.list_(pa.float32()),
        "boxes": pa.list_(pa.list_(pa.int32())),
        "error": pa.string(),
        "is_digit": pa.bool_(),
        "undecided": pa.bool_(),
        "target": pa.int8(),
    }
    return pa.schema([(name, types[name]) for name in columns])


def record_batch(rows: Rows, schema: "pa.Schema") -> "pa.RecordBatch":
    """Return rows as an Arrow record batch."""
    import pyarrow as pa

    arrays = [pa.array(rows.columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def parquet_format(columns: list[str]) -> Format:
    """Parquet. It cannot be appended to, so the rows are kept as Arrow record batches until the end."""
    schema = parquet_schema(columns)

    def encode(rows: Rows, before: int) -> bytes:
        content: bytes = record_batch(rows, schema).serialize().to_pybytes()
        return content

    return Format(b"", encode, convert=lambda written, target: _to_parquet(written, target, schema))


def _to_parquet(written: BinaryIO, target: Path, schema: "pa.Schema") -> None:
    """Write row groups of `ROW_GROUP` rows, so that the same rows make the same file, whatever their batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size, held = written.seek(0, io.SEEK_END), schema.empty_table()
    written.seek(0)
    # Opened here, because Arrow does not accept a path that is not UTF-8.
    with target.open("wb") as file, pq.ParquetWriter(file, schema) as writer:
        while written.tell() < size:
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(written), schema)
            held = pa.concat_tables([held, pa.Table.from_batches([batch])])
            while len(held) >= ROW_GROUP:
                writer.write_table(held[:ROW_GROUP].combine_chunks(), row_group_size=ROW_GROUP)
                held = held[ROW_GROUP:]
        if len(held):
            writer.write_table(held.combine_chunks(), row_group_size=ROW_GROUP)


# By file extension.
FORMATS: dict[str, Callable[[list[str]], Format]] = {
    ".csv": csv_format,
    ".jsonl": jsonl_format,
    ".parquet": parquet_format,
    ".npy": npy_format,
}
