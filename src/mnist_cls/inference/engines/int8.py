"""A network whose convolutions and linear layers compute with whole numbers of 8 bits, for prediction on a CPU.

Four times as many of them fit into a register as floats do, and CPUs with VNNI (AVX-512 or AVX) multiply and add them
in one instruction. The scheme is that of Jacob et al. 2017 (https://arxiv.org/abs/1712.05877): a float is a scale times
(a whole number minus a zero point); weights have a scale for each output channel, and none but 0 as zero point.
"""

import copy
import functools
import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...data.datasets import load_dataset
from ...data.normalization import normalize
from ...errors import InputError

# How many images tell the range of each layer's values, and of how many others the label must stay the same.
CALIBRATION = 1000


_SAME_LABELS = 0.998


class _Range(NamedTuple):
    """A layer, by its name, and the least and largest values that came in and went out."""

    name: str
    least: float
    most: float
    most_out: float


class _Int8(nn.Module):
    """A convolution or a linear layer in 8 bits.

    Args:
        layer: what it computes.
        scale: of the values that come in.
        zero: their zero point.
        out_scale: what comes out is uint8 with this scale, and 0 where it would be negative; None: it is float32.
    """

    def __init__(self, layer: nn.Module, scale: float, zero: int, out_scale: float | None) -> None:
        super().__init__()
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise TypeError(f"neither a convolution nor a linear layer: {type(layer).__name__}")
        weight = layer.weight.detach()
        self.weight_scales = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
        shape = [-1] + [1] * (weight.ndim - 1)
        whole = (weight / self.weight_scales.view(shape)).round().to(torch.int8)
        self.weight_zeros = torch.zeros(len(whole), dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.scale, self.zero, self.out_scale = scale, zero, out_scale
        self.geometry: tuple[object, ...] = ()
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                raise TypeError(f"padding {layer.padding!r}, {layer.padding_mode}")
            self.geometry = (list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups)
            self.weight = torch.ops.onednn.qconv_prepack(whole, self.weight_scales, scale, zero, *self.geometry, None)
        else:
            self.weight = torch.ops.onednn.qlinear_prepack(whole, None)

    def forward(self, x: Tensor) -> Tensor:
        """Float32, or uint8 of its scale and zero point -> float32, or uint8 of its `out_scale`."""
        if x.is_floating_point():
            x = x.mul(1 / self.scale).add_(self.zero).round_().clamp_(0, 255).to(torch.uint8)
        kind = torch.float32 if self.out_scale is None else torch.uint8
        weights = (self.weight, self.weight_scales, self.weight_zeros, self.bias)
        out: tuple[Any, ...] = (self.out_scale or 1.0, 0, kind, "none", [], "")
        result: Tensor
        if self.geometry:
            x = x.contiguous(memory_format=torch.channels_last)
            result = torch.ops.onednn.qconv2d_pointwise(x, self.scale, self.zero, *weights, *self.geometry, *out)
        else:
            result = torch.ops.onednn.qlinear_pointwise(x, self.scale, self.zero, *weights, *out)
        return result


class _Float(nn.Module):
    """A layer in float32 after one that gives uint8."""

    def __init__(self, layer: nn.Module, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale

    def forward(self, x: Tensor) -> Tensor:
        """uint8 of its scale, or float32 -> float32."""
        result: Tensor = self.layer(x if x.is_floating_point() else x.float().mul_(self.scale))
        return result


class _PoolWholeNumbers(TorchFunctionMode):
    """Does the maximum pooling of uint8 values, for which PyTorch has a kernel for tiny images only."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") == "max_pool2d" and args and args[0].dtype == torch.uint8:
            return _max_pool2d(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _max_pool2d(
    x: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    if padding or dilation != 1 or ceil_mode or return_indices:
        raise TypeError("maximum pooling with padding, dilation, ceil_mode or indices")
    kernel, step = (size if isinstance(size, tuple) else (size, size) for size in (kernel_size, stride or kernel_size))
    rows, columns = ((size - k) // s + 1 for size, k, s in zip(x.shape[2:], kernel, step, strict=True))
    ends = (rows - 1) * step[0] + 1, (columns - 1) * step[1] + 1
    places = itertools.product(range(kernel[0]), range(kernel[1]))
    return functools.reduce(
        torch.maximum, (x[:, :, i : i + ends[0] : step[0], j : j + ends[1] : step[1]] for i, j in places)
    )


class _Int8Network(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with _PoolWholeNumbers():
            logits: Tensor = self.network(x)
        return logits


@torch.inference_mode()
def int8_network(network: nn.Module, images: Tensor | None = None) -> nn.Module:
    """Make a network of 8 bits out of one of floats, by the ranges of its values for some images.

    All convolutions and linear layers are replaced but the one that gives the logits. Where the layers between them
    (ReLU, maximum pooling, flattening, dropout) can work on the whole numbers, nothing becomes a float on the way.

    Args:
        network: in evaluation mode, on the CPU; gives logits (B, 10). It is left as it is.
        images: of the kind that the network is for, uint8 (N, 28, 28): the first 1,000, or half of fewer, tell the
            ranges, as many others whether the labels stay the same. None: MNIST's training images.

    Raises:
        InputError: the labels do not stay the same, or the network or this processor has no 8-bit way.
    """
    if images is None:
        images = load_dataset("mnist", "train").images
    count = min(CALIBRATION, len(images) // 2)
    x, others = (normalize(part) for part in (images[:count], images[count : 2 * count]))
    wanted = network(others).argmax(1)
    reason = ""
    for in_a_chain in (True, False):
        try:
            found = _replaced(network, _ranges(network, x), in_a_chain)
            same = (found(others).argmax(1) == wanted).float().mean().item()
        # A network may do anything between its layers, and most of it does not go with whole numbers.
        except Exception as error:
            reason = reason or (str(error).splitlines() or [type(error).__name__])[0]
            continue
        if same >= _SAME_LABELS:
            return found
        reason = f"{same:.1%} of {count} training images keep their label, expected {_SAME_LABELS:.1%}"
    raise InputError(f"engine=int8: {type(network).__name__} does not go with 8 bits: {reason}; use engine=eager")


def _ranges(network: nn.Module, x: Tensor) -> list[_Range]:
    """The layers in the order in which they run."""
    found: list[_Range] = []
    handles = []
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):

            def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                least, most = inputs[0].aminmax()
                most_out = max(output.max().item(), 1e-6)
                found.append(_Range(name, min(least.item(), 0.0), max(most.item(), 1e-6), most_out))

            handles.append(layer.register_forward_hook(look))
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _replaced(network: nn.Module, ranges: list[_Range], in_a_chain: bool) -> nn.Module:
    if len(ranges) < 2:
        raise ValueError("it has no convolutions or linear layers before its last one")
    result = copy.deepcopy(network)
    before: float | None = None  # the scale of the uint8 values that the layer before gives
    for number, layer in enumerate(ranges):
        old = result.get_submodule(layer.name)
        last = number == len(ranges) - 1
        out_scale = layer.most_out / 255 if in_a_chain and not last else None
        scale = before or (layer.most - layer.least) / 255
        zero = 0 if before else round(-layer.least / scale)
        new = _Float(old, scale) if last else _Int8(old, scale, zero, out_scale)
        result.set_submodule(layer.name, new)
        before = out_scale
    return _Int8Network(result)
