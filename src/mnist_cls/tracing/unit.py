"""The arithmetic behind one value of a forward pass: which inputs and weights it was computed from, and how."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .records import Record, Trace
from .tensors import dense

# Operations that only rearrange values.
_VIEWS = {"flatten", "reshape", "view", "unsqueeze", "squeeze", "contiguous", "to", "float", "clone"}
_POOLINGS = {"max_pool2d": "max", "avg_pool2d": "mean", "adaptive_avg_pool2d": "mean"}

# A recomputed value may differ from the traced one by this fraction of its magnitude or of its terms' magnitudes.
_TOLERANCE = 1e-4


@dataclass(eq=False)
class Unit:
    """One value of a forward pass, and what it was computed from.

    Attributes:
        kind: "sum of products", "max", "mean", "batch norm", "softmax", "argmax", "unknown", "scalar" for an operation
            on one value and a number that is the same for all values, or "values" for one on one value of each input.
        value: the traced value.
        inputs: values that it was computed from: (C, H, W) for a convolution, (H, W) for pooling, otherwise (N,).
        weights: factors of the inputs, in the same shape; empty unless `kind` is "sum of products".
        bias: number added to the sum of products.
        origin: row and column of the first of `inputs` in the operation's input, negative in the padding; empty except
            for convolution and pooling.
        constants: "mean", "variance", "weight", "bias" and "eps" of batch norm; "factor" or "addend" of a scalar; None
            for other kinds.
    """

    kind: str
    value: float
    inputs: Tensor
    weights: Tensor
    bias: float = 0.0
    origin: tuple[int, ...] = ()
    constants: dict[str, float] | None = None


_NONE = torch.zeros(0)


@torch.no_grad()
def explain_unit(model: nn.Module, images: Tensor, trace: Trace, step: int, index: tuple[int, ...]) -> Unit:
    """Explain one value of a traced forward pass in evaluation mode.

    Args:
        model: the network, with the parameters that it had when it was traced.
        images: the input of the pass, (B, 28, 28), 0 to 255.
        trace: the pass.
        step: number of the operation, counted from 1.
        index: index of the value in the operation's output, one number per dimension.

    Raises:
        InputError: If there is no such operation, or its output has no such value.
    """
    if not 1 <= step <= len(trace):
        raise InputError(f"step={step}: the forward pass has the steps 1 to {len(trace)}")
    record = trace[step - 1]
    shape = record.output_shape
    if len(index) != len(shape) or not all(0 <= i < size for i, size in zip(index, shape, strict=True)):
        raise InputError(f"unit={','.join(map(str, index))}: the output of step {step} has the shape {shape}")
    value = float(dense(record.value)[index])
    inputs = [_input(images, trace, record, number) for number in range(len(record.inputs))]
    unit = None
    if inputs and inputs[0] is not None:
        unit = _explain(model, record, inputs[0], index, value)
    if unit is None and inputs:
        found = [x[index] for x in inputs if x is not None and x.shape == shape]
        if len(found) == len(inputs) == 1 and inputs[0] is not None:
            unit = _scalar(record, inputs[0], index, value)
        if unit is None and len(found) == len(inputs):
            unit = Unit("values", value, torch.stack([x.float() for x in found]), _NONE)
    return unit or Unit("unknown", value, _NONE, _NONE)


def _input(images: Tensor, trace: Trace, record: Record, number: int) -> Tensor | None:
    """Return an input of an operation: the pass's input or another operation's output; None if it is neither."""
    step = record.inputs[number]
    if step is None:
        return None
    values = images if step == 0 else dense(trace[step - 1].value)
    return values if tuple(values.shape) == record.input_shapes[number] else None


def _explain(model: nn.Module, record: Record, x: Tensor, index: tuple[int, ...], value: float) -> Unit | None:
    """Explain a value of a known operation; return None for any other."""
    layer: Any = model.get_submodule(record.layer)
    if record.operation == "conv2d" and isinstance(layer, nn.Conv2d) and x.ndim == 4:
        return _checked(_convolution(layer, x, index, value))
    if record.operation == "linear" and isinstance(layer, nn.Linear):
        bias = 0.0 if layer.bias is None else float(layer.bias[index[-1]])
        return _checked(Unit("sum of products", value, x[index[:-1]], layer.weight[index[-1]], bias))
    if record.operation in _POOLINGS and x.ndim == 4:
        return _pooling(layer, record, x, index, value)
    if record.operation == "batch_norm" and isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
        return _batch_norm(layer, x, index, value)
    if record.operation in ("softmax", "argmax") and x.ndim == 2:
        return Unit(record.operation, value, x[index[0]], _NONE)
    if record.operation in _VIEWS and x.numel() == record.value.numel():
        flat = int(torch.arange(x.numel()).reshape(record.output_shape)[index])
        return Unit("values", value, x.reshape(-1)[flat : flat + 1].float(), _NONE)
    return None


def _convolution(layer: nn.Conv2d, x: Tensor, index: tuple[int, ...], value: float) -> Unit | None:
    if layer.padding_mode != "zeros":
        return None
    image, channel, *position = index
    group = channel // (layer.out_channels // layer.groups)
    channels = layer.in_channels // layer.groups
    patch, origin = _patch(
        x[image, group * channels : (group + 1) * channels],
        position,
        layer.kernel_size,
        layer.stride,
        _padding(layer),
        layer.dilation,
    )
    bias = 0.0 if layer.bias is None else float(layer.bias[channel])
    return Unit("sum of products", value, patch, layer.weight[channel], bias, origin)


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    """Return the padding at the top and on the left."""
    if layer.padding == "same":
        pairs = zip(layer.dilation, layer.kernel_size, strict=True)
        return tuple(dilation * (size - 1) // 2 for dilation, size in pairs)
    return (0, 0) if isinstance(layer.padding, str) else layer.padding


def _patch(
    x: Tensor,
    position: list[int],
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...] = (1, 1),
    outside: float = 0.0,
) -> tuple[Tensor, tuple[int, int]]:
    """Return the part of x (C, H, W) that a window at a position covers, (C, h, w), and its first row and column.

    Values in the padding are `outside`.
    """
    axes = [
        [position[axis] * stride[axis] - padding[axis] + step * dilation[axis] for step in range(size[axis])]
        for axis in (0, 1)
    ]
    rows, columns = (torch.tensor(axis) for axis in axes)
    height, width = x.shape[1:]
    patch = x[:, rows.clamp(0, height - 1)][:, :, columns.clamp(0, width - 1)].clone()
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    patch[:, ~inside] = outside
    return patch, (axes[0][0], axes[1][0])


def _pooling(layer: Any, record: Record, x: Tensor, index: tuple[int, ...], value: float) -> Unit | None:
    height, width = record.output_shape[2:]
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        size, stride, padding = (_pair(number) for number in (layer.kernel_size, layer.stride, layer.padding))
        if getattr(layer, "dilation", 1) != 1:
            return None
    elif x.shape[2] % height == 0 == x.shape[3] % width:  # adaptive, or called as a function with its own stride
        size = stride = (x.shape[2] // height, x.shape[3] // width)
        padding = (0, 0)
    else:
        return None
    kind = _POOLINGS[record.operation]
    outside = -torch.inf if kind == "max" else 0.0
    patch, origin = _patch(x[index[0], index[1] : index[1] + 1], [*index[2:]], size, stride, padding, outside=outside)
    unit = Unit(kind, value, patch[0], _NONE, origin=origin)
    result = float(patch.max() if kind == "max" else patch.double().mean())
    return unit if abs(result - value) <= _TOLERANCE * max(1.0, abs(value)) else None


def _pair(number: int | tuple[int, ...]) -> tuple[int, ...]:
    return (number, number) if isinstance(number, int) else number


def _batch_norm(layer: nn.BatchNorm2d | nn.BatchNorm1d, x: Tensor, index: tuple[int, ...], value: float) -> Unit | None:
    mean, variance = layer.running_mean, layer.running_var
    if mean is None or variance is None:
        return None
    channel = index[1]
    weight = 1.0 if layer.weight is None else float(layer.weight[channel])
    bias = 0.0 if layer.bias is None else float(layer.bias[channel])
    constants = {"mean": float(mean[channel]), "variance": float(variance[channel])}
    return Unit(
        "batch norm",
        value,
        x[index].reshape(1),
        _NONE,
        constants={**constants, "weight": weight, "bias": bias, "eps": layer.eps},
    )


def _scalar(record: Record, x: Tensor, index: tuple[int, ...], value: float) -> Unit | None:
    """Explain a value that was multiplied by a number, or to which one was added.

    The number is an argument of the operation, which is not recorded; it follows from the input and the output.
    """
    y = dense(record.value).double()
    x = x.double()
    operation = record.operation.rstrip("_")
    largest = int(x.abs().argmax())
    if operation in ("mul", "div") and x.reshape(-1)[largest] != 0:
        name, number = "factor", float(y.reshape(-1)[largest] / x.reshape(-1)[largest])
        expected = x * number
    elif operation in ("add", "sub"):
        name, number = "addend", float(y.reshape(-1)[largest] - x.reshape(-1)[largest])
        expected = x + number
    else:
        return None
    if not torch.allclose(y, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        return None
    return Unit("scalar", value, x[index].reshape(1).float(), _NONE, constants={name: number})


def _checked(unit: Unit | None) -> Unit | None:
    """Return the unit if its sum of products gives the traced value, which the layer's hooks may have changed."""
    if unit is None or unit.inputs.shape != unit.weights.shape:
        return None
    products = unit.inputs.double() * unit.weights.double()
    error = abs(float(products.sum()) + unit.bias - unit.value)
    return unit if error <= _TOLERANCE * max(1.0, float(products.abs().sum())) else None
