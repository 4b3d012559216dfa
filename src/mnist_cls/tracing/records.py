"""The records of a forward pass."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, overload

import torch
from torch import Tensor

from ..errors import InputError, shortened
from .tensors import dense

if TYPE_CHECKING:
    import pandas as pd

Shape = tuple[int, ...]


class Statistics(NamedTuple):
    """Statistics of values.

    Attributes:
        mean, std, min, max: of the finite values; NaN if there are none. `std` divides by N, not N - 1.
        zeros: fraction of the values that are zero, 0 to 1.
        nans: number of NaNs.
        infs: number of infinite values.
    """

    mean: float
    std: float
    min: float
    max: float
    zeros: float
    nans: int
    infs: int

    @classmethod
    def of(cls, value: Tensor) -> "Statistics":
        """Compute the statistics of a tensor of any kind."""
        values = dense(value)
        values = (torch.view_as_real(values) if values.is_complex() else values).double()
        nans, infs = int(values.isnan().sum()), int(values.isinf().sum())
        zeros = (values == 0).sum().item() / max(values.numel(), 1)
        finite = values[values.isfinite()] if nans or infs else values
        if not finite.numel():
            return cls(nan, nan, nan, nan, zeros, nans, infs)
        std, mean = torch.std_mean(finite, correction=0)
        return cls(mean.item(), std.item(), finite.min().item(), finite.max().item(), zeros, nans, infs)


@dataclass(eq=False)  # comparing tensors yields no truth value
class Record:
    """One operation of a forward pass.

    Attributes:
        step: number of the operation, counted from 1.
        operation: name of the function, such as "conv2d", "relu" or "flatten".
        layer: name of the module that called it, such as "conv1"; "" for the network itself.
        file: source file of the call, the innermost one outside PyTorch.
        line: line number in that file.
        input_shapes: shapes of the input tensors, without parameters and buffers.
        inputs: for each of these tensors the step that computed or last changed it; 0 for an input of the network,
            None for any other tensor, such as a constant.
        output_shape: shape of the output; of the first tensor if there are several.
        parameters: number of parameters used.
        flops: floating-point operations, see `FlopCount`; None if unknown, as for recurrent layers.
        bytes: memory allocated for the outputs; 0 for a view of an input and for in-place operations.
        value: copy of the output, detached from the graph.
    """

    step: int
    operation: str
    layer: str
    file: str
    line: int
    input_shapes: list[Shape]
    inputs: list[int | None]
    output_shape: Shape
    parameters: int
    flops: int | None
    bytes: int
    value: Tensor = field(repr=False)

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of the output, computed on first access."""
        return Statistics.of(self.value)

    @property
    def mean(self) -> float:
        """Mean of the finite values; NaN if there are none."""
        return self.statistics.mean

    @property
    def std(self) -> float:
        """Standard deviation of the finite values, with division by N; NaN if there are none."""
        return self.statistics.std

    @property
    def min(self) -> float:
        """Smallest finite value; NaN if there is none."""
        return self.statistics.min

    @property
    def max(self) -> float:
        """Largest finite value; NaN if there is none."""
        return self.statistics.max

    @property
    def zeros(self) -> float:
        """Fraction of the values that are zero, 0 to 1."""
        return self.statistics.zeros

    @property
    def nans(self) -> int:
        """Number of NaNs."""
        return self.statistics.nans

    @property
    def infs(self) -> int:
        """Number of infinite values."""
        return self.statistics.infs

    def __str__(self) -> str:
        return f"{self.operation}{f' {self.layer}' if self.layer else ''} {self.output_shape} ({self.location})"

    @property
    def finite(self) -> bool:
        """Whether the output has neither NaNs nor infinite values."""
        return self.nans == self.infs == 0

    @property
    def location(self) -> str:
        """Source line of the operation, such as "image_classifier.py:38"."""
        return f"{Path(self.file).name}:{self.line}"

    @property
    def name(self) -> str:
        """Unique name within the trace, such as "05_conv1_conv2d"."""
        return "_".join(filter(None, [f"{self.step:02}", self.layer, self.operation]))

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from .html import record_html

        return record_html(self)


class Trace(list[Record]):
    """Records of a forward pass, in order, and `output`, the network's return value.

    `trace[0]` is the first record, `trace[2:5]` a shorter trace, and `trace["conv1"]` the record of a layer's output.
    """

    def __init__(self, records: Iterable[Record] = (), output: Any = None) -> None:
        super().__init__(records)
        self.output = output

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Record: ...
    @overload
    def __getitem__(self, key: slice) -> "Trace": ...
    def __getitem__(self, key: SupportsIndex | str | slice) -> "Record | Trace":
        """Return a record by its position, its name, or the name of a layer; or a slice of the trace.

        The name of a layer selects the last operation of its last run, including the layers inside it. See `layer` for
        all its operations.

        Raises:
            InputError: If no layer or record has this name.
        """
        if isinstance(key, slice):
            return Trace(super().__getitem__(key), self.output)
        if not isinstance(key, str):
            return super().__getitem__(key)
        for record in self:
            if record.name == key:
                return record
        return self.layer(key)[-1]

    def __contains__(self, key: object) -> bool:
        """Return whether the trace has this record, or a record or a layer of this name."""
        if not isinstance(key, str):
            return super().__contains__(key)
        return any(key == record.name or f"{record.layer}.".startswith(f"{key}.") for record in self)

    def layer(self, name: str) -> "Trace":
        """Return the operations of all runs of a layer, including the layers inside it.

        Raises:
            InputError: If no layer of this name has run.
        """
        found = [record for record in self if not name or f"{record.layer}.".startswith(f"{name}.")]
        if not found:
            raise InputError(f"the trace has no layer {shortened(name)!r}; {self._suggest(name)}")
        return Trace(found, self.output)

    def first_not_finite(self) -> Record | None:
        """Return the first operation whose output has NaNs or infinite values; None if there is none."""
        return next((record for record in self if not record.finite), None)

    def summary(self) -> str:
        """Return the number of operations, FLOPs and bytes as text."""
        known = [record.flops for record in self if record.flops is not None]
        unknown = f" (operations with unknown FLOPs: {len(self) - len(known)})" if len(known) < len(self) else ""
        size = sum(record.bytes for record in self)
        return f"{len(self):,} operations, {sum(known):,} FLOPs{unknown}, {size:,} bytes of activations"

    def to_pandas(self) -> "pd.DataFrame":
        """Return a table with a row for each operation, and a column for each attribute of `Record` except `value`.

        Raises:
            InputError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise InputError("to_pandas() needs pandas, which is not installed: pip install pandas") from error
        names = [attribute.name for attribute in dataclasses.fields(Record) if attribute.name != "value"]
        names += Statistics._fields
        table = pd.DataFrame([[getattr(record, name) for name in names] for record in self], columns=names)
        return table.astype({"flops": "Int64"})  # unlike int64, this has a missing value, for unknown FLOPs

    def _suggest(self, name: str) -> str:
        """Say what to use instead of a name that no layer has."""
        steps = [record.step for record in self if record.operation == name]
        if steps:
            return f"it is an operation of {'step' if len(steps) == 1 else 'steps'} {', '.join(map(str, steps))}"
        layers = list(dict.fromkeys(record.layer for record in self if record.layer))
        near = get_close_matches(name, [*layers, *(record.name for record in self)])
        if near:
            return f"did you mean {' or '.join(map(repr, near))}?"
        return f"it has {shortened(', '.join(layers), 300)}" if layers else "its operations are in no layer"

    def __repr__(self) -> str:
        # In a terminal; a notebook shows `_repr_html_`.
        return "\n".join([f"Trace of {len(self)} operations", *(f"{record.step}. {record}" for record in self)])

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from .html import trace_html

        return trace_html(self)
