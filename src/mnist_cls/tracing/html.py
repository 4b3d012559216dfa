"""Show a forward pass in a notebook: a table with pictures, in HTML without scripts."""

from collections.abc import Callable, Iterable
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ..errors import shortened
from .cells import CELLS
from .tensors import dense
from .thumbnails import drawn_values, thumbnails

if TYPE_CHECKING:
    from .records import Record, Trace

# Maximum size of a table, in bytes.
_BYTES = 98_000
# Bytes for everything around the rows, and for a row's pictures besides their values.
_FRAME_BYTES, _PICTURE_BYTES = 2_000, 1_400
# Longer passes list only their first and last operations.
_FIRST, _LAST = 30, 10
# Up to the second number of values, these are also written as numbers; if there are more than the first, folded.
_NUMBERS, _FOLDED_NUMBERS = 16, 64

# Text and lines have the page's own colours, light or dark. The grey around pictures suits both.
_STYLE = """<style>
.mnist-cls-trace{overflow-x:auto}
.mnist-cls-trace table{border-collapse:collapse;color:inherit;font-size:small}
.mnist-cls-trace caption{text-align:left;padding:.4em 0}
.mnist-cls-trace th,.mnist-cls-trace td{text-align:left;vertical-align:top;padding:.2em .7em;border-top:1px solid}
.mnist-cls-trace .shape{white-space:nowrap}
.mnist-cls-trace .number{text-align:right;font-variant-numeric:tabular-nums}
.mnist-cls-trace img{display:block;image-rendering:pixelated;max-width:none;margin:.2em 0}
.mnist-cls-trace img{outline:1px solid rgb(128 128 128/.5)}
</style>"""
_LEGEND = "The pictures show the first of the batch: red is positive, blue negative, white zero, each on its own scale."
# Columns of a trace: heading, text of a cell, CSS class.
_COLUMNS: list[tuple[str, Callable[["Record"], str], str]] = [
    ("operation", CELLS["operation"], ""),
    ("layer", CELLS["layer"], ""),
    ("from step", CELLS["from"], ""),
    ("output shape", CELLS["output"], "shape"),
    ("parameters", CELLS["parameters"], "number"),
    ("FLOPs", CELLS["FLOPs"], "number"),
    ("range", lambda record: _range(record), ""),
    ("zeros", CELLS["zeros"], "number"),
]


def trace_html(trace: "Trace") -> str:
    """Return a forward pass as HTML: a table with a row and pictures for each operation, at most 100 KB.

    The table is readable without CSS, and has the page's colours.
    """
    listed = [*trace] if len(trace) <= _FIRST + _LAST else [*trace[:_FIRST], *trace[-_LAST:]]
    outputs = [_first_of_batch(record) for record in listed]
    cells, numbers = [_cells(record) for record in listed], [_numbers(values) for values in outputs]
    room = _BYTES - _FRAME_BYTES - sum(map(len, cells + numbers))  # for the pictures
    values_room = max(0, room - len(listed) * _PICTURE_BYTES)
    for total in (2 * values_room, values_room):  # a value takes about half a byte, and at most one
        limit = _common_limit([drawn_values(values) for values in outputs], total)
        pictures = [_pictures(record, values, limit) for record, values in zip(listed, outputs, strict=True)]
        if sum(map(len, pictures)) <= room:
            break
    parts = zip(cells, pictures, numbers, strict=True)
    rows = [f"<tr>{cell}<td>{picture}{number}</td></tr>" for cell, picture, number in parts]
    if len(listed) < len(trace):
        rows.insert(_FIRST, _hidden(trace))
    columns = [("step", "number"), *((name, kind) for name, _, kind in _COLUMNS), ("values", "")]
    headings = "".join(f'<th scope="col"{_class(kind)}>{name}</th>' for name, kind in columns)
    return _table(f"{trace.summary()}. {_LEGEND}", rows, f"<thead><tr>{headings}</tr></thead>\n")


def record_html(record: "Record") -> str:
    """Return one operation as HTML: all its attributes and its pictures, at most 100 KB."""
    cells = {name: _text(cell(record), 300) for name, cell in CELLS.items()}
    values = _first_of_batch(record)
    cells["values"] = _pictures(record, values, _BYTES // 2) + _numbers(values)
    rows = [f'<tr><th scope="row">{name}</th><td>{cell}</td></tr>' for name, cell in cells.items()]
    return _table(f"Step {record.step}. {_LEGEND}", rows)


def _table(caption: str, rows: Iterable[str], head: str = "") -> str:
    body = "\n".join(rows)
    table = f"<table><caption>{caption}</caption>\n{head}<tbody>{body}</tbody></table>"
    return f'<div class="mnist-cls-trace">{_STYLE}\n{table}</div>'


def _cells(record: "Record") -> str:
    """Return the cells of an operation's row, all but the last one."""
    cells = [f"<td{_class(kind)}>{_text(cell(record))}</td>" for _, cell, kind in _COLUMNS]
    cells[1] = cells[1].replace(".", ".<wbr>")  # lets a layer's long name wrap
    return f'<th scope="row" class="number">{record.step}</th>{"".join(cells)}'


def _hidden(trace: "Trace") -> str:
    hidden = slice(_FIRST, len(trace) - _LAST)
    text = f"{trace[hidden].summary()}, not listed here: trace[{hidden.start}:{hidden.stop}]"
    return f'<tr><td colspan="{len(_COLUMNS) + 2}">{text}</td></tr>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _text(text: str, length: int = 60) -> str:
    return escape(shortened(text, length))


def _range(record: "Record") -> str:
    finite = "" if np.isnan(record.min) else f"{record.min:.3g} to {record.max:.3g}"
    others = [f"{count:,} {name}" for count, name in ((record.nans, "NaN"), (record.infs, "Inf")) if count]
    return ", ".join(filter(None, [finite, *others]))


def _common_limit(needs: list[int], total: int) -> int:
    """Return the largest limit for each need that keeps the sum within the total."""
    for index, need in enumerate(sorted(needs)):
        limit = total // (len(needs) - index)
        if need > limit:
            return limit
        total -= need
    return max(needs, default=0)


def _first_of_batch(record: "Record") -> np.ndarray:
    """Return the first element of a batch, or a whole vector: float (N, H, W), (H, W) or (N,)."""
    values = dense(record.value)
    values = values[0] if values.ndim > 1 and len(values) else values.reshape(-1)
    values = values.flatten(0, -3) if values.ndim > 3 else values
    array: np.ndarray = (values.abs() if values.is_complex() else values).float().cpu().numpy()
    return array


def _pictures(record: "Record", values: np.ndarray, room: int) -> str:
    return thumbnails(values, _text(f"{record.operation} {record.layer}".strip()), room)


def _numbers(values: np.ndarray) -> str:
    """Return the values as numbers if there are few; otherwise an empty string."""
    if not 0 < values.size <= _FOLDED_NUMBERS:
        return ""
    numbers = f"<code>{' '.join(f'{value:.4g}' for value in values.flat)}</code>"
    folded = f"<details><summary>{values.size} values</summary>{numbers}</details>"
    return numbers if values.size <= _NUMBERS else folded
