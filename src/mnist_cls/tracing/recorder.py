"""Record a forward pass, operation by operation: `trace_forward(model, x)`.

A `TorchFunctionMode` intercepts the functions called on tensors, a `TorchDispatchMode` the kernels that they run. So
functional operations and control flow are recorded like layers, and the network needs no hooks.
"""

import inspect
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode, resolve_name

from ..errors import InputError, first_line, shortened
from ..models import shapes
from .dataflow import Dataflow
from .flops import FlopCount
from .records import Record, Trace
from .tensors import region, tensors_in

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
# Files of this package whose frames lie between a network's code and PyTorch's.
_OWN_FRAMES = {__file__, shapes.__file__}
# Name of the original network in the module that `torch.compile` returns.
_COMPILED = "_orig_mod"
# Threads take turns, because tracing replaces the network's buffers and restores PyTorch's random state.
_TURN = threading.RLock()


# The input that the networks of this package expect.
_NORMALIZED = "such as mnist_cls.data.normalization.normalize(torch.as_tensor(images)) makes from uint8 (B, 28, 28)"


def trace_forward(model: nn.Module, *inputs: Any, **options: Any) -> Trace:
    """Run a network once and record every operation.

    Buffers, such as batch norm's running averages, and PyTorch's random state are left unchanged. `trace.output` can
    be differentiated like the output of `model(x)`. A function of PyTorch is one record, whatever it calls inside. A
    compiled network runs as if it were not compiled.

    Args:
        model: any network, in training or evaluation mode.
        *inputs: positional arguments for the network's `forward`, usually one tensor.
        **options: keyword arguments for the network's `forward`.

    Returns:
        The records. `output` equals `model(*inputs, **options)` bit for bit, except with attention in evaluation mode
        without gradients: while a pass is traced, PyTorch does not use its fused kernel, which rounds differently.

    Raises:
        InputError: If `model` is not an `nn.Module`, has a scripted layer (`torch.jit`) or a lazy one that has not run
            yet, or is on the meta device; if the input is an array or an image; if the network fails because the input
            is a list or a path instead of a tensor, or because of the tensor's dtype.
    """
    tensors = tensors_in((inputs, options))
    _check(model, tensors)
    first = None if tensors else next(iter((*inputs, *options.values())), None)
    for value in (first, *(first[:1] if isinstance(first, (list, tuple)) else ())):
        if hasattr(value, "__array_interface__"):  # a NumPy array or a Pillow image
            raise InputError(f"an input of type {type(value).__name__}; expected a tensor, {_NORMALIZED}")
    with unchanged(model), recording(model, (inputs, options)) as trace:
        try:
            trace.output = model(*inputs, **options)
        except (AttributeError, RuntimeError, TypeError) as error:
            if isinstance(first, (str, os.PathLike, list, tuple)) and not isinstance(error, RuntimeError):
                reason = f"an input of type {type(first).__name__}; expected a tensor"
            elif dtype := _unfit_dtype(model, tensors, error):
                reason = f"the input is {dtype}; expected float32"
            else:
                raise
            raise InputError(f"{reason}, {_NORMALIZED} ({shortened(first_line(error))})") from error
    return trace


@contextmanager
def recording(model: nn.Module, inputs: Any = ()) -> Iterator[Trace]:
    """Record all operations in the block in the trace that is yielded.

    Args:
        model: the network whose layers are named in the records.
        inputs: the tensors that the operations start from, in nested tuples, lists and dicts.
    """
    trace = Trace()
    with ExitStack() as stack:
        # Otherwise nothing has been compiled; `set_stance` would import the compiler, which takes a second.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_Recorder(model, trace, tensors_in(inputs)))
        yield trace


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Let a network use copies of its buffers in the block, and restore PyTorch's random state afterwards."""
    with _TURN:
        owners = [
            (module, name, buffer)
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        ]
        copies = {id(buffer): buffer.clone() for buffer in model.buffers()}  # one per buffer, even if modules share it
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


def _check(model: nn.Module, inputs: list[Tensor]) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"trace_forward needs an nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        found = f"layer {name!r} of the network" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(f"{found} is scripted (torch.jit), which hides its operations; trace it before scripting")
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(is_lazy(tensor) for tensor in own):
            raise InputError(
                f"{found} has no parameters yet, because it is lazy; run the network once before tracing it"
            )
        if any(tensor.is_meta for tensor in own + inputs):
            raise InputError(f"{found}, or its input, is on the meta device, which has no values; use the CPU or a GPU")


def _unfit_dtype(model: nn.Module, inputs: list[Tensor], error: Exception) -> str:
    """Return the dtype of an input that may explain a network's error; "" if none does."""
    fit = {parameter.dtype for parameter in model.parameters()}
    if not isinstance(error, RuntimeError) or torch.float32 not in fit:
        return ""
    # PyTorch's messages say "dtype", "type" or "scalar type".
    unfit = [tensor.dtype for tensor in inputs if tensor.dtype not in fit and "type" in str(error)]
    return str(unfit[0]).removeprefix("torch.") if unfit else ""


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, trace: Trace, inputs: list[Tensor]) -> None:
        super().__init__()
        self.trace = trace
        self.layers = {
            id(module): ".".join(part for part in name.split(".") if part != _COMPILED)
            for name, module in model.named_modules()
        }
        self.parameters = {id(parameter) for parameter in model.parameters()}
        self.buffers = {id(buffer) for buffer in model.buffers()}
        self.state = self.parameters | self.buffers
        self.dataflow = Dataflow()
        for tensor in inputs:
            self.dataflow.computed(tensor, 0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = tensors_in((args, kwargs))
        activations = [tensor for tensor in inputs if id(tensor) not in self.state]
        input_shapes = [tuple(tensor.shape) for tensor in activations]
        sources = [self.dataflow.step_of(tensor) for tensor in activations]
        storages = {region(tensor).storage for tensor in inputs}
        with FlopCount() as count:
            result = func(*args, **kwargs)
        operation = _operation_name(func)
        # `x[i] = y` returns nothing and changes x.
        outputs = [args[0]] if operation == "setitem" else tensors_in(result)
        if operation is None:  # the output of `x.detach()` was computed by the step that computed x
            for output in outputs:
                if sources and sources[0] is not None and region(output).storage in storages:
                    self.dataflow.computed(output, sources[0])
            return result
        # An output that is itself a buffer is bookkeeping, such as batch norm's counter of batches.
        if all(id(output) in self.buffers for output in outputs):
            return result
        step = len(self.trace) + 1
        layer, file, line = self._caller(inspect.currentframe())
        allocated = {region(output).storage: output.numel() * output.element_size() for output in outputs}
        self.trace.append(
            Record(
                step=step,
                operation=operation,
                layer=layer,
                file=file,
                line=line,
                input_shapes=input_shapes,
                inputs=sources,
                output_shape=tuple(outputs[0].shape),
                parameters=sum(tensor.numel() for tensor in inputs if id(tensor) in self.parameters),
                flops=count.flops,
                bytes=sum(size for storage, size in allocated.items() if storage not in storages),
                value=outputs[0].detach().clone(),
            )
        )
        for output in outputs:
            self.dataflow.computed(output, step, new=region(output).storage not in storages)
        for written in count.written:
            if written.storage in storages:
                self.dataflow.written(written, step)
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


def _operation_name(func: Any) -> str | None:
    """Return the short name of a function of PyTorch; None if it computes nothing."""
    *_, owner, name = ["", *str(resolve_name(func) or getattr(func, "__name__", func)).split(".")]
    if name == "__get__":
        # `x.T` is an operation; `x.data` and `x.grad` only read a tensor.
        return owner if owner in ("T", "mT", "H", "mH", "real", "imag") else None
    if name in ("detach", "requires_grad_", "__set__"):
        return None
    return name.strip("_") if name.startswith("__") else name
