"""Images in tables: what Parquet and CSV have in common, and Parquet."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...images import SIZE
from .blocks import (
    ARRAY_CHUNK,
    Content,
    InputBlock,
    Sample,
    Source,
    file_identity,
    pieces_of,
    reader_errors,
    shown_name,
    target_of,
)

if TYPE_CHECKING:
    import pyarrow as pa


PIXELS = SIZE * SIZE


EXPECTED = "expected a column image, path or pixels, or 784 columns of pixels and perhaps one called label"


# The names of some rows, their pixels, their labels.
Rows = tuple[list[str], np.ndarray | list[Content], list[int | None]]


# Rows with encoded images that are read together.
_IMAGE_ROWS = 16


def parquet_source(path: Path) -> Source:
    """The images in a Parquet file, see `open_source` for the columns.

    Raises:
        InputError: it is broken, or has no such columns, or no rows.
    """
    import pyarrow.parquet as pq  # only who reads Parquet pays for it

    with reader_errors(path, "Parquet"):
        with pq.ParquetFile(path) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
        if count == 0:
            raise InputError("a table without rows")
        names = _columns(schema)
        pixels = len(names) > 1 or _is_list(schema.field(names[0]).type)
    labelled = "label" in schema.names
    beside = [name for name in ("path", "label") if name in schema.names and name not in names]

    def batches() -> "Iterator[tuple[int, pa.RecordBatch]]":
        first = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ARRAY_CHUNK if pixels else _IMAGE_ROWS, columns=names + beside):
                yield first, batch
                first += len(batch)

    def items() -> Iterator[Sample]:
        for first, batch in batches():
            cells = batch.column(names[0])
            for place, (name, target) in enumerate(zip(*_beside(batch, first), strict=True)):
                yield Sample(name, lambda cell=cells[place]: _content(cell.as_py(), path), target)  # type: ignore[misc]

    def rows() -> Iterator[Rows]:
        for first, batch in batches():
            called, targets = _beside(batch, first)
            yield called, _pixels([batch.column(name) for name in names]), targets

    def pieces(start: int) -> Iterator[InputBlock]:
        with reader_errors(path, "Parquet"):
            yield from in_chunks(rows(), start, labelled) if pixels else pieces_of(items(), start, labelled)

    if pixels:
        return Source(count, pieces, ARRAY_CHUNK, labelled, True, file_identity(path))
    return Source(count, pieces, labelled=labelled, identity=file_identity(path))


def _columns(schema: "pa.Schema") -> list[str]:
    """The column that has the images or the pixels, or the 784 of them."""
    import pyarrow as pa

    for name in ("image", "pixels", "path"):
        if name in schema.names:
            kind = schema.field(name).type
            text = [pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string]
            if name == "path" or _is_list(kind) or any(test(kind) for test in [*text, pa.types.is_struct]):
                return [name]
            raise InputError(f"the column {name} is of type {kind}; {EXPECTED}")
    numbers = [field.name for field in schema if field.name != "label" and _is_number(field.type)]
    if len(numbers) != PIXELS:
        raise InputError(f"has the columns {some(schema.names)}; {EXPECTED}")
    return numbers


def _beside(batch: "pa.RecordBatch", first: int) -> tuple[list[str], list[int | None]]:
    """What the rows are called, by a column `path` or by their index, and their labels."""
    names: list[str] = [str(first + place) for place in range(len(batch))]
    targets: list[int | None] = [None] * len(batch)
    if "path" in batch.schema.names:
        given = batch.column("path").to_pylist()
        names = [number if name is None else as_shown(name) for number, name in zip(names, given, strict=True)]
    if "label" in batch.schema.names:
        targets = [target_of(value) for value in batch.column("label").to_pylist()]
    return names, targets


def _content(cell: Any, table: Path) -> Content:
    if isinstance(cell, dict):  # as Hugging Face's datasets keep images
        cell = cell.get("bytes") or cell.get("path")
    return cell if isinstance(cell, bytes) else path_beside(table, cell)


def path_beside(table: Path, name: object) -> Content:
    """The path that a table has in a cell, beginning at the table's own folder."""
    if not name or not isinstance(name, str):
        return InputError("no image: the cell is empty" if not name else f"no path: {type(name).__name__}")
    return os.path.join(table.parent, name)  # noqa: PTH118 (an absolute name stays as it is)


def as_shown(name: object) -> str:
    """What a table has in its column `path` as text that can be written anywhere."""
    return shown_name(os.fsdecode(name)) if isinstance(name, (str, bytes)) else str(name)


def _pixels(columns: "Sequence[pa.Array]") -> np.ndarray | list[Content]:
    """Rows of 784 numbers, as columns of numbers or as one column of lists."""
    import pyarrow.compute as pc

    if len(columns) > 1 and not any(column.null_count for column in columns):
        return np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1)
    if len(columns) == 1 and not columns[0].null_count:
        values = columns[0].flatten()
        if (
            _is_number(values.type)
            and not values.null_count
            and pc.min_max(pc.list_value_length(columns[0])).as_py() == {"min": PIXELS, "max": PIXELS}
        ):
            return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(-1, PIXELS)
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [_row(row[0] if len(columns) == 1 else row) for row in rows]


def _row(values: Any) -> Content:
    try:
        array = np.asarray(values)
    except ValueError:
        return InputError("no image: its rows are of different lengths")
    if array.dtype.kind not in "buif":
        return InputError("no image: there are pixels missing")
    if array.size != PIXELS:
        return InputError(f"{array.size} pixels; expected {PIXELS}")
    return array.reshape(SIZE, SIZE)


def in_chunks(rows: Iterator[Rows], start: int, labelled: bool) -> Iterator[InputBlock]:
    """Cut rows of pixels where chunks end; what comes before the number `start` loses its pixels."""
    first = 0
    for names, pixels, targets in rows:
        last = first + len(names)
        cuts = [first, *range((first // ARRAY_CHUNK + 1) * ARRAY_CHUNK, last, ARRAY_CHUNK), last]
        for begin, end in itertools.pairwise(cuts):
            part = slice(begin - first, end - first)
            content = pixels[part] if begin >= start else None
            yield InputBlock(names[part], content, targets[part] if labelled else None)
        first = last


def _is_number(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def some(names: Sequence[str]) -> str:
    """Some of many columns' names, for a message."""
    return ", ".join(map(repr, names[:6]))[:200] + (f", ... ({len(names)} in all)" if len(names) > 6 else "")
