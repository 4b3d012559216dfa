"""Predictions as rows with named columns."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .options import PredictOptions

if TYPE_CHECKING:
    from .decoding.batches import Batch
    from .predictions import Predictions

PROBABILITIES = [f"p{digit}" for digit in range(10)]
COLUMNS = ["path", "label", "confidence", *PROBABILITIES, "error"]

# The columns of inputs that are rows of digits.
READING_COLUMNS = ["path", "reading", "confidence", "confidences", "boxes", "error"]

# Six decimals distinguish 0.999999 from 1, and give the same text on every machine.
_DECIMALS = 6


class Rows(NamedTuple):
    """Some rows, column by column.

    Attributes:
        columns: the values of each column, by name, in the order of the output; None where an error row has no value.
        probabilities: float32 (N, 10) unrounded, NaN in error rows; None for rows of digits.
    """

    columns: dict[str, list[Any]]
    probabilities: np.ndarray | None = None

    @property
    def errors(self) -> list[str | None]:
        """For each row None, or why there is no prediction."""
        return self.columns["error"]


def output_columns(options: PredictOptions, labelled: bool) -> list[str]:
    """Return the names of all columns of the output for a source with or without labels."""
    extra = {
        "is_digit": options.is_digit is not False,
        "undecided": options.min_confidence is not None,
        "target": labelled and not options.split,
    }
    return [*(READING_COLUMNS if options.split else COLUMNS), *(name for name, present in extra.items() if present)]


def batch_rows(batch: "Batch", predictions: "Predictions", options: PredictOptions, labelled: bool) -> Rows:
    """Return a row for each input of a batch, with the columns of `output_columns`."""
    if options.split:
        decoded = batch.decoded
        rows = reading_rows(batch.names, predictions, decoded.counts, decoded.boxes, decoded.errors)
    else:
        extra = {} if predictions.is_digit is None else {"is_digit": predictions.is_digit.tolist()}
        rows = prediction_rows(batch.names, predictions, extra)
    columns = rows.columns
    if options.min_confidence is not None:
        threshold = options.min_confidence
        # NaN, too, is undecided.
        columns["undecided"] = [None if value is None else not value >= threshold for value in columns["confidence"]]
    if labelled and not options.split:
        targets = zip(batch.targets or [], rows.errors, strict=True)
        columns["target"] = [target if error is None else None for target, error in targets]
    return rows


def prediction_rows(
    names: Sequence[str], predictions: "Predictions", extra_columns: Mapping[str, Sequence[Any]]
) -> Rows:
    """Return a row for each of N images; `extra_columns`, of N values each, come after the others."""
    probabilities = predictions.probabilities.astype(float).round(_DECIMALS).T.tolist()
    columns: dict[str, list[Any]] = {
        "path": list(names),
        "label": predictions.labels.tolist(),
        "confidence": predictions.confidences.astype(float).round(_DECIMALS).tolist(),
        **dict(zip(PROBABILITIES, probabilities, strict=True)),
        "error": list(predictions.errors),
        **{name: list(values) for name, values in extra_columns.items()},
    }
    for index in (index for index, error in enumerate(predictions.errors) if error is not None):
        for name in columns.keys() - {"path", "error"}:
            columns[name][index] = None
    return Rows(columns, predictions.probabilities)


def reading_rows(
    names: Sequence[str],
    predictions: "Predictions",
    counts: Sequence[int],
    boxes: np.ndarray,
    errors: Sequence[str | None],
) -> Rows:
    """Return a row for each of N images of rows of digits.

    Args:
        names: N names.
        predictions: of all digits, image after image.
        counts: N numbers of digits.
        boxes: int32 (M, 4), the position of each digit in its image, see `Digits`.
        errors: for each image None, or why it cannot be read.
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
