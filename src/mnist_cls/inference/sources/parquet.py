"""Images in Parquet files: as the bytes of image files, by their paths, or as numbers."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from .blocks import ARRAY_BATCH, Content, InputBlock, Sample, Source, blocks_of, file_source, target_of
from .reading import reader_errors
from .tables import EXPECTED, LABELS, PIXELS, Columns, find_columns, images_of, path_beside, pixels_of, row_name

if TYPE_CHECKING:
    import pyarrow as pa

# Rows of encoded images that are read at once.
_IMAGE_ROWS = 16


def parquet_source(path: Path) -> Source:
    """Return the images in a Parquet file, see `open_source` for its columns."""
    import pyarrow.parquet as pq  # here, because importing it takes longer than everything else

    with reader_errors(path, "Parquet"):
        with pq.ParquetFile(path) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
        if count == 0:
            raise InputError("a table without rows")
        names, columns = _find_columns(schema)
    images = [names[position] for position in columns.images]
    label, path_column = (None if position is None else names[position] for position in (columns.label, columns.path))
    wanted = list(dict.fromkeys([*images, *filter(None, (label, path_column))]))
    pixels = not columns.kind or _is_list(schema.field(images[0]).type)

    def batches() -> "Iterator[tuple[pa.RecordBatch, list[str], list[int | None]]]":
        first = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ARRAY_BATCH if pixels else _IMAGE_ROWS, columns=wanted):
                paths, labels = (_cells(batch, column) for column in (path_column, label))
                row_names = [row_name(path, index) for index, path in enumerate(paths, first)]
                yield batch, row_names, list(map(target_of, labels))
                first += len(batch)

    def samples() -> Iterator[Sample]:
        for batch, row_names, targets in batches():
            for cell, name, target in zip(batch.column(images[0]), row_names, targets, strict=True):
                yield Sample(name, partial(_content, cell, path), target)

    def blocks(start: int) -> Iterator[InputBlock]:
        for batch, row_names, targets in batches():
            contents = _pixels([batch.column(name) for name in images])
            yield InputBlock(row_names, contents, targets if label is not None else [])

    labelled = label is not None
    found = blocks if pixels else blocks_of(samples, labelled)
    return file_source(path, "Parquet", found, count, labelled, arrays=pixels)


def _find_columns(schema: "pa.Schema") -> tuple[list[str], Columns]:
    """Return the names of the columns that are considered, and the positions of images and labels among them.

    Raises:
        InputError: If there are no images.
    """
    from pyarrow import types

    names = _candidates(schema)
    columns = find_columns(names)
    if columns.kind in ("image", "pixels"):
        name = names[columns.images[0]]
        kind = schema.field(name).type
        encoded = (types.is_binary, types.is_large_binary, types.is_string, types.is_large_string, types.is_struct)
        if not _is_list(kind) and not any(test(kind) for test in encoded):
            raise InputError(f"the column {name} is of type {kind}; {EXPECTED}")
    return names, columns


def _candidates(schema: "pa.Schema") -> list[str]:
    """Return the names of all columns, or only of labels and numbers if there are enough of these for the pixels."""
    names = list(schema.names)
    if {name.strip().lower() for name in names} & {"image", "pixels", "path"}:
        return names
    texts = [field.name for field in schema if not _is_number(field.type)]
    if len(names) - len(texts) < PIXELS:
        return names  # perhaps numbers as text
    return [name for name in names if name not in texts or name.strip().lower() in LABELS]


def _cells(batch: "pa.RecordBatch", column: str | None) -> list[Any]:
    cells: list[Any] = [None] * len(batch) if column is None else batch.column(column).to_pylist()
    return cells


def _content(cell: "pa.Scalar[Any]", table: Path) -> Content:
    value = cell.as_py()
    if isinstance(value, dict):  # as Hugging Face's datasets store images
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, bytes) else path_beside(table, value)


def _pixels(columns: "Sequence[pa.Array[Any]]") -> np.ndarray | list[Content]:
    """Return images from 784 columns of numbers or one column of lists: as one array if all rows are complete."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(columns) > 1 and not any(column.null_count for column in columns):
        try:
            return images_of(np.stack([_numbers(column) for column in columns], axis=1))
        except pa.ArrowInvalid:  # text that is no number
            pass
    if len(columns) == 1 and not columns[0].null_count:
        values, lengths = columns[0].flatten(), pc.min_max(pc.list_value_length(columns[0])).as_py()
        if _is_number(values.type) and not values.null_count and lengths == {"min": PIXELS, "max": PIXELS}:
            return images_of(_numbers(values).reshape(-1, PIXELS))
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [pixels_of(row[0] if len(columns) == 1 else row) for row in rows]


def _numbers(column: "pa.Array[Any]") -> np.ndarray:
    import pyarrow as pa

    numbers = column if _is_number(column.type) else column.cast(pa.float64())
    array: np.ndarray = numbers.to_numpy(zero_copy_only=False)
    return array


def _is_number(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_list(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
