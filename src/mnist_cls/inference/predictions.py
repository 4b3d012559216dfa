"""What a network predicts for some images, as arrays, as single predictions, or as a table."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, overload

import numpy as np
from PIL import Image

from ..errors import InputError, shortened
from .rows import Rows, prediction_rows

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# Predictions for more images than this do not keep what the network saw.
MOST_KEPT = 10_000

# Rows of a table that are shown: the first and the last ones as text, the first ones in a notebook.
_FIRST, _LAST, _NOTEBOOK_ROWS = 10, 5, 20

# Length of the longest name and of the longest error in a table of text.
_NAME_LENGTH, _ERROR_LENGTH = 40, 80


@dataclass(frozen=True)
class Prediction:
    """What a network predicts for one image. If there is an error, only `name` and `error` have a value.

    Attributes:
        name: path of the image, or its index.
        label: 0 to 9.
        confidence: the probability of the label, 0 to 1.
        probabilities: float32 (10,), 0 to 1; NaN if there is an error.
        error: None, or why the image could not be used.
        is_digit: whether the image looks like a digit at all; None without `Predictor(is_digit=True)`.
    """

    name: str
    label: int | None
    confidence: float | None
    probabilities: np.ndarray = field(repr=False, compare=False)
    error: str | None = None
    is_digit: bool | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """What a network predicts for N images.

    An image with an error has label -1, a confidence and probabilities of NaN, `is_digit` False, and is all zeros.

    A sequence: `predictions[0]` is the first `Prediction`; `predictions[:10]` and
    `predictions[predictions.confidences < 0.9]` are `Predictions` of some of the images.

    Attributes:
        labels: int64 (N,), 0 to 9.
        confidences: float32 (N,), the probability of the label, 0 to 1.
        probabilities: float32 (N, 10), each row summing to 1.
        errors: for each image None, or why it could not be used.
        is_digit: bool (N,), whether the image looks like a digit at all; None without `Predictor(is_digit=True)`.
        names: paths of the images, or their indexes.
        images: uint8 (N, 28, 28), what the network saw; None for more than 10,000 images.
    """

    labels: np.ndarray
    confidences: np.ndarray
    probabilities: np.ndarray
    errors: list[str | None]
    is_digit: np.ndarray | None = None
    names: list[str] = field(default_factory=list)
    images: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.names:
            object.__setattr__(self, "names", [str(index) for index in range(len(self.labels))])

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Prediction]:
        return map(self._prediction, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: "slice | np.ndarray | Sequence[int]") -> "Predictions": ...

    def __getitem__(self, index: "int | slice | np.ndarray | Sequence[int]") -> "Prediction | Predictions":
        chosen = np.arange(len(self))[index]  # an IndexError for an integer that is out of range
        if chosen.ndim == 0:
            return self._prediction(int(chosen))
        return Predictions(
            self.labels[chosen],
            self.confidences[chosen],
            self.probabilities[chosen],
            [self.errors[number] for number in chosen],
            None if self.is_digit is None else self.is_digit[chosen],
            [self.names[number] for number in chosen],
            None if self.images is None else self.images[chosen],
        )

    def _prediction(self, index: int) -> Prediction:
        error = self.errors[index]
        label = int(self.labels[index]) if error is None else None
        confidence = float(self.confidences[index]) if error is None else None
        is_digit = None if self.is_digit is None or error is not None else bool(self.is_digit[index])
        return Prediction(self.names[index], label, confidence, self.probabilities[index], error, is_digit)

    def to_arrow(self) -> "pa.Table":
        """Return the rows that `predict` would write, as an Arrow table: `path`, `label`, `confidence`, `p0`, ..."""
        import pyarrow as pa

        from .sinks.formats import parquet_schema, record_batch

        rows = self._rows()
        schema = parquet_schema(list(rows.columns))
        return pa.Table.from_batches([record_batch(rows, schema)], schema)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows that `predict` would write, as a DataFrame. Missing labels are `<NA>`.

        Raises:
            InputError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise InputError("pandas is not installed; pip install pandas, or use to_arrow()") from error
        table = self.to_arrow()
        types = {"int8": pd.Int8Dtype(), "bool": pd.BooleanDtype()} if any(self.errors) else {}
        frame: pd.DataFrame = table.to_pandas(types_mapper=lambda kind: types.get(str(kind)))
        return frame

    def _rows(self) -> Rows:
        return prediction_rows(self.names, self, {} if self.is_digit is None else {"is_digit": self.is_digit.tolist()})

    def __repr__(self) -> str:
        count = len(self)
        shown = range(count) if count <= _FIRST + _LAST else [*range(_FIRST), *range(count - _LAST, count)]
        table = self._cells(shown)
        if count > len(shown):
            table.insert(1 + _FIRST, ["..." for _ in table[0]])
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        return "\n".join([_counted(count), *(line.rstrip() for line in lines)])

    def _cells(self, indexes: Sequence[int]) -> list[list[str]]:
        """Return a table of text with a row of headings, without the columns that would be empty."""
        columns = ["path", "label", "confidence"]
        columns += ["is_digit"] * (self.is_digit is not None) + ["error"] * any(self.errors)
        table = [columns]
        for one in map(self._prediction, indexes):
            cells = {
                "path": _end_of(one.name),
                "label": "" if one.label is None else str(one.label),
                "confidence": "" if one.confidence is None else f"{one.confidence:.4f}",
                "is_digit": {None: "", True: "yes", False: "no"}[one.is_digit],
                "error": shortened(one.error or "", _ERROR_LENGTH),
            }
            table.append([cells[name] for name in columns])
        return table

    def _repr_html_(self) -> str:
        """Return a plain HTML table for notebooks, readable without styles, with what the network saw."""
        shown = range(min(len(self), _NOTEBOOK_ROWS))
        head, *rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self._cells(shown)]
        head = head.replace("td>", "th>")
        if self.images is not None:
            head += "<th>image</th>"
            rows = [f"{row}<td>{self._picture(index)}</td>" for index, row in zip(shown, rows, strict=True)]
        lines = "\n".join(f"<tr>{cells}</tr>" for cells in (head, *rows))
        more = len(self) - len(shown)
        rest = f"\n<p>... and {more:,} more</p>" if more else ""
        return f"<table>\n<caption>{_counted(len(self))}</caption>\n{lines}\n</table>{rest}"

    def _picture(self, index: int) -> str:
        """Return what the network saw of one image, as an HTML element."""
        if self.images is None or self.errors[index] is not None:
            return ""
        file = io.BytesIO()
        Image.fromarray(self.images[index]).save(file, "PNG")
        content = base64.b64encode(file.getvalue()).decode()
        alt = escape(f"What the network saw of {_end_of(self.names[index])}")
        return f'<img alt="{alt}" width="56" height="56" src="data:image/png;base64,{content}">'


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Concatenate the predictions of consecutive images, without images if one of `parts` has none."""
    optional = {}
    for name in ("is_digit", "images"):
        arrays = [getattr(part, name) for part in parts]
        optional[name] = None if any(array is None for array in arrays) else np.concatenate(arrays)
    labels, confidences, probabilities = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "confidences", "probabilities")
    )
    errors, names = [error for part in parts for error in part.errors], [name for part in parts for name in part.names]
    return Predictions(labels, confidences, probabilities, errors, names=names, **optional)


def _counted(count: int) -> str:
    return f"{count:,} prediction{'s' * (count != 1)}"


def _end_of(name: str) -> str:
    """Shorten a name to its end, where the names of files differ."""
    text = shortened(name, max(len(name), 1))
    return text if len(text) <= _NAME_LENGTH else f"...{text[3 - _NAME_LENGTH :]}"
