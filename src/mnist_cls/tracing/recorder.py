"""Record a forward pass, operation by operation: `trace_forward(model, x)`.

A `TorchFunctionMode` intercepts the functions called on tensors, a `TorchDispatchMode` the kernels that they run. So
functional operations and control flow are recorded like layers, and the network needs no hooks.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from ..models import shapes
from .flops import FlopCount, tensors_in

Shape = tuple[int, ...]

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
# Files of this package whose frames stand between a network's code and PyTorch's.
_OWN_FRAMES = {__file__, shapes.__file__}


@dataclass
class Record:
    """One operation of a forward pass.

    Attributes:
        step: number of the operation, counted from 1.
        operation: name of the function, such as "conv2d", "relu" or "flatten".
        layer: name of the module that called it, such as "conv1"; "" for the network itself.
        file: innermost source file outside PyTorch.
        line: line number in that file.
        input_shapes: shapes of the input tensors, without parameters and buffers.
        output_shape: shape of the output; of the first tensor if there are several.
        parameters: number of parameters used.
        flops: floating-point operations, see `FlopCount`; None if unknown, as for recurrent layers.
        bytes: memory allocated for the output; 0 for a view of an input and for in-place operations.
        value: copy of the output, detached from the graph.
        mean, std, min, max: statistics of the output's finite values; NaN if there are none. `std` divides by N.
        zeros: fraction of the output's values that are zero, 0 to 1.
        nans: number of NaNs.
        infs: number of infinite values.
    """

    step: int
    operation: str
    layer: str
    file: str
    line: int
    input_shapes: list[Shape]
    output_shape: Shape
    parameters: int
    flops: int | None
    bytes: int
    value: Tensor = field(repr=False)
    mean: float = field(default=nan, init=False)
    std: float = field(default=nan, init=False)
    min: float = field(default=nan, init=False)
    max: float = field(default=nan, init=False)
    zeros: float = field(init=False)
    nans: int = field(init=False)
    infs: int = field(init=False)

    def __post_init__(self) -> None:
        values = dense(self.value)
        if values.is_complex():
            values = torch.view_as_real(values)
        self.nans, self.infs = int(values.isnan().sum()), int(values.isinf().sum())
        self.zeros = (values == 0).sum().item() / max(values.numel(), 1)
        finite = values[values.isfinite()].double()
        if len(finite):
            std, mean = torch.std_mean(finite, correction=0)
            self.mean, self.std = mean.item(), std.item()
            self.min, self.max = finite.min().item(), finite.max().item()

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


class Trace(list[Record]):
    """Records of a forward pass, in order, and `output`, the network's return value."""

    output: Any = None

    def first_not_finite(self) -> Record | None:
        """Return the first operation whose output has NaNs or infinite values, or None."""
        return next((record for record in self if not record.finite), None)


def trace_forward(model: nn.Module, x: Any, **options: Any) -> Trace:
    """Run a network once and record every operation.

    Buffers, such as batch norm's running averages, and PyTorch's random state are left unchanged. `trace.output` can
    be differentiated like the output of `model(x)`. A function of PyTorch is one record, whatever it calls inside.

    Args:
        model: any network, in training or evaluation mode.
        x: input of the network.
        **options: keyword arguments for the network's `forward`.

    Returns:
        The records. `output` equals `model(x)` bit for bit, but for attention in evaluation mode without gradients:
        PyTorch does not use its fused kernel, which rounds differently, while a pass is traced.
    """
    with unchanged(model), recording(model) as trace:
        trace.output = model(x, **options)
    return trace


@contextmanager
def recording(model: nn.Module) -> Iterator[Trace]:
    """Record all operations in the block, those of `model` with their layers, in the trace that is yielded."""
    trace = Trace()
    with _Recorder(model, trace):
        yield trace


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Let a network work on copies of its buffers in the block, and restore PyTorch's random state afterwards."""
    owners = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    copies = {id(buffer): buffer.clone() for buffer in model.buffers()}  # one copy even if several modules share it
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}
    try:
        # Restoring the values instead would modify what autograd has saved for the backward pass.
        for module, name, buffer in owners:
            setattr(module, name, copies[id(buffer)])
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        for module, name, buffer in owners:
            setattr(module, name, buffer)


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, trace: Trace) -> None:
        super().__init__()
        self.trace = trace
        self.layers = {id(module): name for name, module in model.named_modules()}
        self.parameters = {id(parameter) for parameter in model.parameters()}
        self.buffers = {id(buffer) for buffer in model.buffers()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = tensors_in((args, kwargs))
        activations = [tensor for tensor in inputs if id(tensor) not in self.parameters | self.buffers]
        input_shapes = [tuple(tensor.shape) for tensor in activations]
        storages = {_storage(tensor) for tensor in inputs}
        with FlopCount() as count:
            result = func(*args, **kwargs)
        operation = _operation_name(func)
        # `x[i] = y` returns nothing and changes x.
        outputs = [args[0]] if operation == "setitem" else tensors_in(result)
        # An output that is itself a buffer is bookkeeping, such as batch norm's counter of batches.
        if operation is None or all(id(output) in self.buffers for output in outputs):
            return result
        layer, file, line = self._caller(inspect.currentframe())
        allocated = {_storage(output): output.numel() * output.element_size() for output in outputs}
        self.trace.append(
            Record(
                step=len(self.trace) + 1,
                operation=operation,
                layer=layer,
                file=file,
                line=line,
                input_shapes=input_shapes,
                output_shape=tuple(outputs[0].shape),
                parameters=sum(tensor.numel() for tensor in inputs if id(tensor) in self.parameters),
                flops=count.flops,
                bytes=sum(size for storage, size in allocated.items() if storage not in storages),
                value=outputs[0].detach().clone(),
            )
        )
        return result

    def _caller(self, frame: FrameType | None) -> tuple[str, str, int]:
        """Find the layer, file and line that called an operation, from the innermost frame outwards."""
        layer = source = None
        while frame is not None and (layer is None or source is None):
            code = frame.f_code
            if code.co_filename not in _OWN_FRAMES:
                if source is None and not code.co_filename.startswith(_TORCH):
                    source = code.co_filename, frame.f_lineno
                if layer is None and code.co_argcount:
                    layer = self.layers.get(id(frame.f_locals.get(code.co_varnames[0])))
            frame = frame.f_back
        return layer or "", *(source or ("", 0))


def dense(values: Tensor) -> Tensor:
    """Return a sparse or quantized tensor as an ordinary one; others unchanged."""
    if values.is_quantized:
        values = values.dequantize()
    return values if values.layout is torch.strided else values.to_dense()


def _storage(tensor: Tensor) -> int:
    """Return a number that two tensors share if one is a view of the other."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse tensors have no storage
        return id(tensor)


def _operation_name(func: Any) -> str | None:
    """Return the short name of a function of PyTorch; None if it computes nothing."""
    *_, owner, name = ["", *str(resolve_name(func) or getattr(func, "__name__", func)).split(".")]
    if name == "__get__":
        # `x.T` is an operation; `x.data` and `x.grad` only read a tensor.
        return owner if owner in ("T", "mT", "H", "mH", "real", "imag") else None
    if name in ("detach", "requires_grad_", "__set__"):
        return None
    return name.strip("_") if name.startswith("__") else name
