"""The text in each column of a table of records, in the terminal and in a notebook."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import Record

CELLS: dict[str, Callable[["Record"], str]] = {
    "#": lambda record: str(record.step),
    "operation": lambda record: record.operation,
    "layer": lambda record: record.layer,
    "code": lambda record: record.location,
    "from": lambda record: ", ".join({0: "input", None: "constant"}.get(step, str(step)) for step in record.inputs),
    "input": lambda record: " ".join(map(str, record.input_shapes)),
    "output": lambda record: str(record.output_shape),
    "parameters": lambda record: f"{record.parameters:,}" if record.parameters else "",
    "FLOPs": lambda record: "unknown" if record.flops is None else f"{record.flops:,}",
    "bytes": lambda record: f"{record.bytes:,}",
    "mean": lambda record: f"{record.mean:.4g}",
    "std": lambda record: f"{record.std:.4g}",
    "min": lambda record: f"{record.min:.4g}",
    "max": lambda record: f"{record.max:.4g}",
    "zeros": lambda record: f"{record.zeros:.0%}",
    "NaN": lambda record: f"{record.nans:,}",
    "Inf": lambda record: f"{record.infs:,}",
}
