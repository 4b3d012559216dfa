"""Images in Parquet files: as the bytes of image files, by their paths, or as numbers."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from .blocks import ARRAY_BATCH, Content, InputBlock, Sample, Source, blocks_of, file_source, target_of
from .reading import reader_errors
from .tables import EXPECTED, PIXELS, listed, path_beside, pixels_of, row_name

if TYPE_CHECKING:
    import pyarrow as pa

# Rows of encoded images that are read at once.
_IMAGE_ROWS = 16


def parquet_source(path: Path) -> Source:
    """Return the images in a Parquet file, see `open_source` for its columns."""
    import pyarrow.parquet as pq  # takes longer than everything else here

    with reader_errors(path, "Parquet"):
        with pq.ParquetFile(path) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
        if count == 0:
            raise InputError("a table without rows")
        columns = _content_columns(schema)
    pixels = len(columns) > 1 or _is_list(schema.field(columns[0]).type)
    labelled = "label" in schema.names
    others = [name for name in ("path", "label") if name in schema.names and name not in columns]

    def batches() -> "Iterator[tuple[pa.RecordBatch, list[str], list[int | None]]]":
        first = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ARRAY_BATCH if pixels else _IMAGE_ROWS, columns=columns + others):
                yield batch, *_names_and_targets(batch, first)
                first += len(batch)

    def samples() -> Iterator[Sample]:
        for batch, names, targets in batches():
            for cell, name, target in zip(batch.column(columns[0]), names, targets, strict=True):
                yield Sample(name, partial(_content, cell, path), target)

    def blocks(start: int) -> Iterator[InputBlock]:
        for batch, names, targets in batches():
            contents = _pixels([batch.column(name) for name in columns])
            yield InputBlock(names, contents, targets if labelled else [])

    found = blocks if pixels else blocks_of(samples, labelled)
    return file_source(path, "Parquet", found, count, labelled, arrays=pixels)


def _content_columns(schema: "pa.Schema") -> list[str]:
    """Return the column with images, paths or lists of pixels, or the 784 columns of pixels."""
    from pyarrow import types

    for name in ("image", "pixels", "path"):
        if name in schema.names:
            kind = schema.field(name).type
            encoded = (types.is_binary, types.is_large_binary, types.is_string, types.is_large_string, types.is_struct)
            if name == "path" or _is_list(kind) or any(test(kind) for test in encoded):
                return [name]
            raise InputError(f"the column {name} is of type {kind}; {EXPECTED}")
    numbers = [field.name for field in schema if field.name != "label" and _is_number(field.type)]
    if len(numbers) != PIXELS:
        raise InputError(f"has the columns {listed(schema.names)}; {EXPECTED}")
    return numbers


def _names_and_targets(batch: "pa.RecordBatch", first: int) -> tuple[list[str], list[int | None]]:
    paths = batch.column("path").to_pylist() if "path" in batch.schema.names else [None] * len(batch)
    labels = batch.column("label").to_pylist() if "label" in batch.schema.names else [None] * len(batch)
    return [row_name(path, index) for index, path in enumerate(paths, first)], list(map(target_of, labels))


def _content(cell: "pa.Scalar[Any]", table: Path) -> Content:
    value = cell.as_py()
    if isinstance(value, dict):  # as Hugging Face's datasets store images
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, bytes) else path_beside(table, value)


def _pixels(columns: "Sequence[pa.Array[Any]]") -> np.ndarray | list[Content]:
    """Return rows of 784 numbers, from columns of numbers or one column of lists, as one array if they are complete."""
    import pyarrow.compute as pc

    if len(columns) > 1 and not any(column.null_count for column in columns):
        return np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1)
    if len(columns) == 1 and not columns[0].null_count:
        values, lengths = columns[0].flatten(), pc.min_max(pc.list_value_length(columns[0])).as_py()
        if _is_number(values.type) and not values.null_count and lengths == {"min": PIXELS, "max": PIXELS}:
            # A copy: pyarrow's own memory is read-only, but images that are not in MNIST's form are replaced.
            return np.array(values.to_numpy(zero_copy_only=False)).reshape(-1, PIXELS)
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [pixels_of(row[0] if len(columns) == 1 else row) for row in rows]


def _is_number(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_list(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
