"""What is said of each input: the columns of a row."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .predictor import Predictions

PROBABILITIES = [f"p{digit}" for digit in range(10)]


COLUMNS = ["path", "label", "confidence", *PROBABILITIES, "error"]


# Of inputs that are rows of digits.
READING_COLUMNS = ["path", "reading", "confidence", "confidences", "boxes", "error"]


# What rows may have besides, after those.
FURTHER = ("is_digit", "undecided", "target")


# Six decimals: enough to tell 0.999999 from 1, and the same text on every machine.
_DECIMALS = 6


class Rows(NamedTuple):
    """Some rows, column by column.

    Attributes:
        columns: by their names, in their order; what an error's row lacks is None.
        probabilities: float32 (N, 10) as the network gave them, NaN in an error's row; None of rows of digits.
    """

    columns: dict[str, list[Any]]
    probabilities: np.ndarray | None = None

    @property
    def errors(self) -> list[str | None]:
        """Why there is nothing to be said of an input, or None."""
        return self.columns["error"]


def prediction_rows(names: Sequence[str], predictions: Predictions, further: Mapping[str, Sequence[Any]]) -> Rows:
    """A row for each image.

    Args:
        names: N, what the inputs are called.
        predictions: of N images.
        further: more columns, each of N values, see `FURTHER`.
    """
    numbers = predictions.probabilities.astype(float).round(_DECIMALS).T.tolist()
    columns: dict[str, list[Any]] = {
        "path": list(names),
        "label": predictions.labels.tolist(),
        "confidence": predictions.confidences.astype(float).round(_DECIMALS).tolist(),
        **dict(zip(PROBABILITIES, numbers, strict=True)),
        "error": list(predictions.errors),
        **{name: list(values) for name, values in further.items()},
    }
    for place in (place for place, error in enumerate(predictions.errors) if error is not None):
        for name in columns.keys() - {"path", "error"}:
            columns[name][place] = None
    return Rows(columns, predictions.probabilities)


def reading_rows(
    names: Sequence[str],
    predictions: Predictions,
    counts: Sequence[int],
    boxes: np.ndarray,
    errors: Sequence[str | None],
) -> Rows:
    """A row for each image of a row of digits.

    Args:
        names: N, what the inputs are called.
        predictions: of all digits, one input's after the other's.
        counts: how many digits each of the N inputs has.
        boxes: where each digit was in its input, see `Digits`.
        errors: for each input None, or why there is nothing to be read.
    """
    columns: dict[str, list[Any]] = {name: [] for name in READING_COLUMNS}
    first = 0
    for name, count, error in zip(names, counts, errors, strict=True):
        digits = slice(first, first + count)
        first += count
        values: list[Any] = [None] * 4
        if error is None:
            confidences = predictions.confidences[digits].astype(float)
            reading = "".join(map(str, predictions.labels[digits].tolist()))
            product = round(float(confidences.prod()), _DECIMALS)
            values = [reading, product, confidences.round(_DECIMALS).tolist(), boxes[digits].tolist()]
        for column, value in zip(READING_COLUMNS, [name, *values, error], strict=True):
            columns[column].append(value)
    return Rows(columns)
