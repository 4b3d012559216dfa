"""A forward pass as tables on the screen, and as pictures on disk and in TensorBoard."""

import math
import sys
from collections.abc import Callable, Mapping

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from ..data.normalization import normalize
from .recorder import Record, Trace, dense, heads, unchanged

# Where no terminal says how wide it is (a file, a pipe), nothing is gained by breaking lines.
_WIDE = 240


Column = tuple[str, Callable[[Record], str]]


_WHAT: list[Column] = [
    ("#", lambda record: str(record.step)),
    ("operation", lambda record: record.operation),
    ("layer", lambda record: record.layer),
    ("code", lambda record: record.place),
]


_COST: list[Column] = [
    ("input", lambda record: " ".join(str(shape) for shape in record.input_shapes)),
    ("output", lambda record: str(record.output_shape)),
    ("parameters", lambda record: f"{record.parameters:,}"),
    ("FLOPs", lambda record: "?" if record.flops is None else f"{record.flops:,}"),
    ("bytes", lambda record: f"{record.bytes:,}"),
]


_VALUES: list[Column] = [
    ("mean", lambda record: f"{record.mean:.4g}"),
    ("std", lambda record: f"{record.std:.4g}"),
    ("min", lambda record: f"{record.min:.4g}"),
    ("max", lambda record: f"{record.max:.4g}"),
    ("zeros", lambda record: f"{record.zeros:.0%}"),
    ("NaN", lambda record: f"{record.nans:,}"),
    ("Inf", lambda record: f"{record.infs:,}"),
]


_LEFT = ("operation", "layer", "code", "input", "output")


def print_trace(trace: Trace) -> None:
    """Print the operations as a table; as several below each other, where the screen is too narrow for one."""
    screen = console()
    for columns in _split([*_WHAT, *_COST, *_VALUES], trace, screen.width):
        screen.print(_table(trace, columns))
    known = [record.flops for record in trace if record.flops is not None]
    besides = f" and those of {len(trace) - len(known)} unknown to PyTorch" if len(known) < len(trace) else ""
    size = sum(record.bytes for record in trace)
    screen.print(f"{len(trace)} operations, {sum(known):,} FLOPs{besides}, {size:,} bytes of activations\n")
    if bad := trace.first_not_finite():
        screen.print(f"[red]the first output that is not finite is that of operation {bad.step}[/]: {_label(bad)}\n")


def print_values(trace: Trace) -> None:
    """Print every value of every operation."""
    for record in trace:
        value = dense(record.value)
        array = (value.float() if value.is_floating_point() else value).cpu().numpy()
        text = np.array2string(array, max_line_width=200, threshold=sys.maxsize, precision=4, suppress_small=True)
        print(f"{record.step}. {_label(record)}\n{text}\n")


def print_modes(traces: Mapping[str, Trace]) -> None:
    """Print side by side what differs between evaluation and training: dropout, normalization, other paths.

    Args:
        traces: of the same network and input, by mode.
    """
    screen = console()
    table = Table("evaluation against training", box=None, pad_edge=False)
    columns = [column for column in _VALUES if column[0] in ("mean", "std", "zeros")]
    for name, _ in columns:
        table.add_column(f"{name}: eval", justify="right")
        table.add_column("train", justify="right")
    evaluation, training = (_numbered(traces[mode]) for mode in ("eval", "train"))
    for key, record in evaluation.items():
        other = training.get(key)
        special = "dropout" in key[0] or "norm" in key[0]
        if special and other is not None and not torch.equal(record.value, other.value):
            table.add_row(key[1] or key[0], *(getter(side) for _, getter in columns for side in (record, other)))
    if table.row_count:
        screen.print(table, "")
    alone = {"evaluation": evaluation.keys() - training.keys(), "training": training.keys() - evaluation.keys()}
    for mode, keys in alone.items():
        if keys:
            names = dict.fromkeys(key[1] or key[0] for key in [*evaluation, *training] if key in keys)
            screen.print(f"only in {mode}: {', '.join(names)}\n")
    if not table.row_count and evaluation.keys() == training.keys():
        screen.print("nothing in this network differs between evaluation and training\n")


def print_answer(model: nn.Module, trace: Trace, images: Tensor, labels: Tensor | None) -> None:
    """Print what the network says: logits and probabilities of one image, the label of each of several.

    Args:
        model: the network, for what only some networks tell.
        trace: of its forward pass.
        images: what went in, (B, 28, 28).
        labels: (B,), if they are known.
    """
    screen = console()
    for name, logits in heads(trace.output).items():
        probabilities = logits.softmax(1)
        confidences, answers = probabilities.max(1)
        if len(logits) == 1:
            table = Table(name, "logit", "probability", "", box=None, pad_edge=False)
            rows = zip(logits[0].tolist(), probabilities[0].tolist(), strict=True)
            for digit, (logit, probability) in enumerate(rows):
                bar = "" if math.isnan(probability) else "█" * round(20 * probability)
                table.add_row(str(digit), f"{logit:.2f}", f"{probability:.4f}", bar)
            screen.print(table)
        right = ""
        if labels is not None and len(labels) == 1:
            right = f" ({'right' if answers[0] == labels[0] else f'wrong, it is a {labels[0]}'})"
        said = [
            f"{a} ({c:.2%})" if not math.isnan(c) else "none"
            for a, c in zip(answers.tolist(), confidences.tolist(), strict=True)
        ]
        screen.print(f"label {', '.join(said)}{right}\n", highlight=False)
    reconstruction_error: Callable[[Tensor], Tensor] | None = getattr(model, "reconstruction_error", None)
    if reconstruction_error is not None:
        with torch.no_grad(), unchanged(model):
            errors = reconstruction_error(normalize(images))
        found = ", ".join(f"{error:.4f}" for error in errors.tolist())
        threshold = float(getattr(model, "threshold", math.nan))
        verdict = "its threshold was never set" if math.isnan(threshold) else f"up to {threshold:.4f} it is a digit"
        screen.print(f"reconstruction error {found}; {verdict}\n", highlight=False)


def _label(record: Record) -> str:
    where = f" {record.layer}" if record.layer else ""
    return f"{record.operation}{where} {record.output_shape} ({record.place})"


def _numbered(trace: Trace) -> dict[tuple[str, str, int], Record]:
    """The records by operation, layer and how many of the same came before: paths may differ between modes."""
    found: dict[tuple[str, str, int], Record] = {}
    for record in trace:
        number = sum(key[:2] == (record.operation, record.layer) for key in found)
        found[record.operation, record.layer, number] = record
    return found


def _split(columns: list[Column], trace: Trace, width: int) -> list[list[Column]]:
    """The columns in groups that fit the width, each beginning with the operation's number and name."""
    endless = Console(width=10_000)
    groups = [columns[:2]]
    for column in columns[2:]:
        if endless.measure(_table(trace, [*groups[-1], column])).maximum > width and len(groups[-1]) > 2:
            groups.append(columns[:2])
        groups[-1] = [*groups[-1], column]
    return groups


def _table(trace: Trace, columns: list[Column]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, _ in columns:
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    for record in trace:
        table.add_row(*(Text(getter(record)) for _, getter in columns), style="" if record.finite else "red")
    return table


def console() -> Console:
    """The screen; where none says how wide it is, one that is wide enough."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)
