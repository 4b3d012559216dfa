"""One forward pass, operation by operation: `trace_forward(model, x)`.

PyTorch lets a program listen to the functions that are called on tensors (`TorchFunctionMode`) and to the kernels that
they run (`TorchDispatchMode`). Both are listened to for the time of one pass, so that functional operations and
control flow are seen as layers are, and no hook is put on the network.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from ..models import shapes
from .flops import FlopCount

Shape = tuple[int, ...]


_TORCH = str(Path(torch.__file__).parent)


# What stands between a network's code and PyTorch's because of us.
_NO_PLACE = {__file__, shapes.__file__}


@dataclass
class Record:
    """One operation of a forward pass.

    Attributes:
        step: its number, from 1, in the order in which the operations ran.
        operation: the function's name, such as "conv2d", "relu" or "flatten".
        layer: the module that it ran in, by its name in the network, such as "conv1"; "" is the network itself.
        file: the innermost source file that is not PyTorch's own.
        line: the line there.
        input_shapes: the shapes of the tensors that went in, without parameters and buffers.
        output_shape: the shape of what came out; of the first tensor, if there are several.
        parameters: how many parameters took part.
        flops: floating-point operations; a multiplication and an addition are two, a comparison is one. None where
            they are not known, as in recurrent layers.
        bytes: what the output needs in memory; 0 for a view of an input, and for a change in place.
        mean, std, min, max: of the output's finite values; NaN if there are none. `std` divides by N.
        zeros: the share of the output's values that are zero, 0 to 1.
        nans: how many values are NaN.
        infs: how many values are infinite.
        value: a copy of the output, outside the gradient's graph.
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
    mean: float = nan
    std: float = nan
    min: float = nan
    max: float = nan
    zeros: float = 0.0
    nans: int = 0
    infs: int = 0

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

    @property
    def finite(self) -> bool:
        """Whether the output holds neither NaN nor infinite values."""
        return self.nans == self.infs == 0

    @property
    def place(self) -> str:
        """Where the operation stands in the code, such as "image_classifier.py:38"."""
        return f"{Path(self.file).name}:{self.line}"


def dense(values: Tensor) -> Tensor:
    """The values of a sparse or quantized tensor as a plain one; a plain one as it is."""
    if values.is_quantized:
        values = values.dequantize()
    return values if values.layout is torch.strided else values.to_dense()


class Trace(list[Record]):
    """The records of a forward pass, in order.

    Attributes:
        output: what the network gave.
    """

    output: Any = None

    def first_not_finite(self) -> Record | None:
        """The first operation whose output holds NaN or infinite values, if there is one."""
        return next((record for record in self if not record.finite), None)


def trace_forward(model: nn.Module, x: Any, **options: Any) -> Trace:
    """Run a network once and record every operation.

    The network is left as it was: its buffers, such as batch norm's running averages, and PyTorch's random state too.
    Gradients are recorded if the caller has them switched on, so that `trace.output` can be differentiated like the
    output of `model(x)`. What a function of PyTorch does inside, such as the products of its attention, is one record.

    Args:
        model: any network, in the mode (training or evaluation) that shall be seen.
        x: its input.
        **options: further arguments of its `forward`.

    Returns:
        The records; `output` is what `model(x)` gives, bit for bit. An exception is attention in evaluation without
        gradients: while somebody listens, PyTorch does not take its fused short cut, which rounds otherwise.
    """
    with unchanged(model), recording(model) as trace:
        trace.output = model(x, **options)
    return trace


@contextmanager
def recording(model: nn.Module) -> Iterator[Trace]:
    """Record what is computed in the block, the network's forward pass or more; yield the trace that grows.

    Args:
        model: gives the layers their names and tells parameters from other tensors.
    """
    trace = Trace()
    with _Recorder(model, trace):
        yield trace


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Let a network work on copies of its buffers in the block, and put PyTorch's random state back after it."""
    buffers = [(module, name) for module in model.modules() for name, _ in module.named_buffers(recurse=False)]
    originals = [getattr(module, name) for module, name in buffers]
    copies = {id(original): original.clone() for original in originals}  # one of each, however many modules share it
    places = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}
    try:
        # Copies rather than a change back: what was saved for the gradient must stay as it was.
        for (module, name), original in zip(buffers, originals, strict=True):
            setattr(module, name, copies[id(original)])
        with torch.random.fork_rng(list(places)):
            yield
    finally:
        for (module, name), original in zip(buffers, originals, strict=True):
            setattr(module, name, original)


def heads(output: Any) -> dict[str, Tensor]:
    """The logits (B, 10) in what a network gave, by name; empty if there are none.

    Args:
        output: a tensor, a tuple, a named tuple or a dict of tensors.
    """
    if isinstance(output, Tensor):
        output = {"logits": output}
    elif hasattr(output, "_asdict"):
        output = output._asdict()
    elif isinstance(output, (tuple, list)):
        output = {f"output {number}": value for number, value in enumerate(output)}
    named = output.items() if isinstance(output, Mapping) else ()
    return {name: value for name, value in named if isinstance(value, Tensor) and value.shape[1:] == (10,)}


def saliency(model: nn.Module, x: Tensor, label: int, head: str = "logits", **options: Any) -> Tensor:
    """Where a network looks: how much each pixel changes the logit of a label (Simonyan et al. 2013,
    https://arxiv.org/abs/1312.6034).

    The network's own gradients are left alone.

    Args:
        model: a network that gives logits (1, 10), or several, see `heads`.
        x: one normalized image, (1, 1, 28, 28).
        label: 0 to 9.
        head: which of them are meant.
        **options: further arguments of its `forward`.

    Returns:
        The gradient's magnitude, float32 (28, 28), 0 or more.
    """
    with torch.enable_grad(), unchanged(model):
        x = x.detach().requires_grad_()
        logits = heads(model(x, **options))[head]
        gradient = torch.autograd.grad(logits[0, label], x)[0]
    return gradient[0, 0].abs()


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, trace: Trace) -> None:
        super().__init__()
        self.trace = trace
        self.names = {id(module): name for name, module in model.named_modules()}
        self.parameters = {id(parameter) for parameter in model.parameters()}
        self.buffers = {id(buffer) for buffer in model.buffers()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        shapes = [tuple(leaf.shape) for leaf in inputs if id(leaf) not in self.parameters | self.buffers]
        storages = {_storage(leaf) for leaf in inputs}
        with FlopCount() as count:
            result = func(*args, **kwargs)
        name = _name(func)
        # `x[i] = y` gives nothing, and changes x.
        outputs = [args[0]] if name == "setitem" else [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        # What comes out is a buffer itself where batch norm counts its batches: bookkeeping, no part of the pass.
        if name is None or all(id(output) in self.buffers for output in outputs):
            return result
        layer, file, line = self._place(sys._getframe(1))
        new = {_storage(output): output.numel() * output.element_size() for output in outputs}
        self.trace.append(
            Record(
                step=len(self.trace) + 1,
                operation=name,
                layer=layer,
                file=file,
                line=line,
                input_shapes=shapes,
                output_shape=tuple(outputs[0].shape),
                parameters=sum(leaf.numel() for leaf in inputs if id(leaf) in self.parameters),
                flops=count.flops,
                bytes=sum(size for storage, size in new.items() if storage not in storages),
                value=outputs[0].detach().clone(),
            )
        )
        return result

    def _place(self, frame: FrameType | None) -> tuple[str, str, int]:
        layer = place = None
        while frame is not None and (layer is None or place is None):
            code = frame.f_code
            if code.co_filename not in _NO_PLACE:
                if place is None and not code.co_filename.startswith(_TORCH):
                    place = code.co_filename, frame.f_lineno
                if layer is None and code.co_argcount:
                    layer = self.names.get(id(frame.f_locals.get(code.co_varnames[0])))
            frame = frame.f_back
        file, line = place or ("", 0)
        return layer or "", file, line


def _name(func: Any) -> str | None:
    full = str(resolve_name(func) or getattr(func, "__name__", func))
    parts = full.split(".")
    if parts[-1] == "__get__":
        # `x.T` is an operation; `x.data` and `x.grad` are looks at one tensor.
        return parts[-2] if parts[-2] in ("T", "mT", "H", "mH", "real", "imag") else None
    if parts[-1] in ("detach", "requires_grad_", "__set__"):
        return None
    return parts[-1].strip("_") if parts[-1].startswith("__") else parts[-1]


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return id(tensor)
