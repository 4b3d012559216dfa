"""Print a forward pass in the terminal."""

import math
import sys
from collections.abc import Callable, Iterable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from ..data.normalization import normalize
from .cells import CELLS
from .outputs import heads
from .recorder import unchanged
from .records import Record, Trace
from .tensors import dense

_IN_EVERY_TABLE = ["#", "operation"]
_LEFT_ALIGNED = ("operation", "layer", "code", "from", "input", "output")
_COMPARED = ("mean", "std", "zeros")


def print_trace(trace: Trace, screen: Console | None = None) -> None:
    """Print the operations as a table; on a narrow screen as several tables, one below the other."""
    screen = screen or _console()
    for columns in _fit(trace, screen.width):
        screen.print(_table(trace, columns))
    screen.print(f"{trace.summary()}\n")
    if first := trace.first_not_finite():
        found = f"first output with NaN or infinite values: operation {first.step}"
        screen.print(Text.assemble((found, "red"), f", {first}\n"))


def print_values(trace: Trace) -> None:
    """Print every value of every operation."""
    for record in trace:
        value = dense(record.value)
        array = (value.float() if value.is_floating_point() else value).cpu().numpy()
        text = np.array2string(array, max_line_width=200, threshold=sys.maxsize, precision=4, suppress_small=True)
        print(f"{record.step}. {record}\n{text}\n")


def print_modes(evaluation: Trace, training: Trace) -> None:
    """Print what differs between the traces of both modes: dropout, normalization, and operations of one mode only."""
    screen = _console()
    table = Table("evaluation vs. training", box=None, pad_edge=False)
    for name in _COMPARED:
        table.add_column(f"{name}: eval", justify="right")
        table.add_column("train", justify="right")
    in_evaluation, in_training = _by_key(evaluation), _by_key(training)
    for key, record in in_evaluation.items():
        other = in_training.get(key)
        varies = "dropout" in record.operation or "norm" in record.operation
        if varies and other is not None and not torch.equal(record.value, other.value):
            table.add_row(Text(_name(record)), *(CELLS[name](side) for name in _COMPARED for side in (record, other)))
    if table.row_count:
        screen.print(table, "")
    only_evaluation = [_name(record) for key, record in in_evaluation.items() if key not in in_training]
    only_training = [_name(record) for key, record in in_training.items() if key not in in_evaluation]
    for mode, names in (("evaluation", only_evaluation), ("training", only_training)):
        if names:
            screen.print(Text(f"only in {mode}: {', '.join(dict.fromkeys(names))}\n"))
    if not table.row_count and not only_evaluation and not only_training:
        screen.print("this network is the same in evaluation and training\n")


def print_predictions(outputs: object, labels: Tensor | None) -> None:
    """Print a network's logits and probabilities for a single image, and the predicted label of each of several."""
    screen = _console()
    block = "#" if screen.options.ascii_only else "█"  # the stream's encoding may not have it
    for name, logits in heads(outputs).items():
        probabilities = logits.softmax(1)
        confidences, predictions = probabilities.max(1)
        verdict = ""
        if len(logits) == 1:
            table = Table(name, "logit", "probability", "", box=None, pad_edge=False)
            rows = zip(logits[0].tolist(), probabilities[0].tolist(), strict=True)
            for digit, (logit, probability) in enumerate(rows):
                bar = "" if math.isnan(probability) else block * round(20 * probability)
                table.add_row(str(digit), f"{logit:.2f}", f"{probability:.4f}", bar)
            screen.print(table)
            if labels is not None:
                correct = bool(predictions[0] == labels[0])
                verdict = ", correct" if correct else f", incorrect: it is a {labels[0]}"
        pairs = zip(predictions.tolist(), confidences.tolist(), strict=True)
        texts = ["none" if math.isnan(confidence) else f"{digit} ({confidence:.2%})" for digit, confidence in pairs]
        screen.print(f"label {', '.join(texts)}{verdict}\n", highlight=False)


def print_reconstruction_error(model: nn.Module, images: Tensor) -> None:
    """Print an autoencoder's reconstruction errors of images (B, 28, 28), and its threshold; nothing for others."""
    reconstruction_error: Callable[[Tensor], Tensor] | None = getattr(model, "reconstruction_error", None)
    if reconstruction_error is None:
        return
    with torch.no_grad(), unchanged(model):
        errors = reconstruction_error(normalize(images))
    found = ", ".join(f"{error:.4f}" for error in errors.tolist())
    threshold = float(getattr(model, "threshold", math.nan))
    limit = "the network has no threshold" if math.isnan(threshold) else f"a digit has at most {threshold:.4f}"
    print(f"reconstruction error {found}; {limit}\n")


def _console() -> Console:
    """Return a console for standard output; wide for a file or a pipe, where lines need not be wrapped."""
    return Console(width=None if sys.stdout.isatty() else 240)


def _name(record: Record) -> str:
    return record.layer or record.operation


def _by_key(trace: Iterable[Record]) -> dict[tuple[str, str, int], Record]:
    """Return the records by operation, layer, and number of earlier records with both."""
    found: dict[tuple[str, str, int], Record] = {}
    for record in trace:
        earlier = sum(key[:2] == (record.operation, record.layer) for key in found)
        found[record.operation, record.layer, earlier] = record
    return found


def _fit(trace: Trace, width: int) -> list[list[str]]:
    """Split the columns into tables that fit the width."""
    unlimited = Console(width=10_000)
    tables = [_IN_EVERY_TABLE]
    for column in list(CELLS)[len(_IN_EVERY_TABLE) :]:
        wider = unlimited.measure(_table(trace, [*tables[-1], column])).maximum
        if wider > width and tables[-1] != _IN_EVERY_TABLE:
            tables.append(_IN_EVERY_TABLE)
        tables[-1] = [*tables[-1], column]
    return tables


def _table(trace: Trace, columns: list[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in _LEFT_ALIGNED else "right", no_wrap=True)
    for record in trace:
        table.add_row(*(Text(CELLS[name](record)) for name in columns), style="" if record.finite else "red")
    return table
