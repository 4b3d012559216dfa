"""Post-training quantization to 8 bits, for prediction on a CPU.

A register holds four times as many 8-bit integers as floats, and CPUs with VNNI (AVX-512 or AVX) multiply and add them
in one instruction. The scheme is that of Jacob et al. 2017 (https://arxiv.org/abs/1712.05877): a float is a scale times
(an integer minus a zero point); weights have a scale for each output channel, and the zero point 0.
"""

import copy
import functools
import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...checkpoints.find import Checkpoint, each
from ...checkpoints.weights import read_weights
from ...data.datasets import find_idx, load_dataset
from ...data.normalization import normalize
from ...errors import InputError, first_line
from ...files import expand
from ...models.average import Average

# Number of images that calibrate each layer's range, and of others on which the labels are compared.
CALIBRATION = 1000

# Fraction of the latter that must keep their label.
_SAME_LABELS = 0.998


class _Range(NamedTuple):
    """The range of a layer's inputs, from at most 0, and its greatest output."""

    name: str
    low: float
    high: float
    high_out: float


class _Int8(nn.Module):
    """A convolution or a linear layer in 8 bits, with the scale and the zero point of its input.

    Args:
        out_scale: scale of the output, uint8 with negative values clipped to 0; None: the output is float32.
    """

    def __init__(self, layer: nn.Module, scale: float, zero: int, out_scale: float | None) -> None:
        super().__init__()
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise TypeError(f"neither a convolution nor a linear layer: {type(layer).__name__}")
        weight = layer.weight.detach()
        self.weight_scales = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
        shape = [-1] + [1] * (weight.ndim - 1)
        quantized = (weight / self.weight_scales.view(shape)).round().to(torch.int8)
        self.weight_zeros = torch.zeros(len(quantized), dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.scale, self.zero, self.out_scale = scale, zero, out_scale
        self.geometry: tuple[object, ...] = ()
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                raise TypeError(f"padding {layer.padding!r}, {layer.padding_mode}")
            self.geometry = (list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups)
            self.weight = torch.ops.onednn.qconv_prepack(
                quantized, self.weight_scales, scale, zero, *self.geometry, None
            )
        else:
            self.weight = torch.ops.onednn.qlinear_prepack(quantized, None)

    def forward(self, x: Tensor) -> Tensor:
        """Float32, or uint8 with the layer's scale and zero point -> float32, or uint8 with `out_scale`."""
        if x.is_floating_point():
            x = x.mul(1 / self.scale).add_(self.zero).round_().clamp_(0, 255).to(torch.uint8)
        dtype = torch.float32 if self.out_scale is None else torch.uint8
        weights = (self.weight, self.weight_scales, self.weight_zeros, self.bias)
        out: tuple[Any, ...] = (self.out_scale or 1.0, 0, dtype, "none", [], "")
        result: Tensor
        if self.geometry:
            x = x.contiguous(memory_format=torch.channels_last)
            result = torch.ops.onednn.qconv2d_pointwise(x, self.scale, self.zero, *weights, *self.geometry, *out)
        else:
            result = torch.ops.onednn.qlinear_pointwise(x, self.scale, self.zero, *weights, *out)
        return result


class _Float(nn.Module):
    """A layer in float32 after one whose output is uint8."""

    def __init__(self, layer: nn.Module, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale

    def forward(self, x: Tensor) -> Tensor:
        """Uint8 with the layer's scale, or float32 -> float32."""
        result: Tensor = self.layer(x if x.is_floating_point() else x.float().mul_(self.scale))
        return result


class _PoolUint8(TorchFunctionMode):
    """Max pooling of uint8 values; PyTorch's own kernel only supports tiny images."""

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
        raise TypeError("max pooling with padding, dilation, ceil_mode or indices")
    kernel, step = (size if isinstance(size, tuple) else (size, size) for size in (kernel_size, stride or kernel_size))
    rows, columns = ((size - k) // s + 1 for size, k, s in zip(x.shape[2:], kernel, step, strict=True))
    ends = (rows - 1) * step[0] + 1, (columns - 1) * step[1] + 1
    offsets = itertools.product(range(kernel[0]), range(kernel[1]))
    return functools.reduce(
        torch.maximum, (x[:, :, i : i + ends[0] : step[0], j : j + ends[1] : step[1]] for i, j in offsets)
    )


class _Int8Network(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with _PoolUint8():
            logits: Tensor = self.network(x)
        return logits


@torch.inference_mode()
def int8_network(network: nn.Module, images: Tensor) -> nn.Module:
    """Return an 8-bit copy of a network.

    All convolutions and linear layers are replaced, except the one that computes the logits. If the layers between them
    (ReLU, max pooling, flattening, dropout) can work on integers, values stay uint8 from layer to layer.

    Args:
        network: in evaluation mode, on the CPU; computes logits (B, 10). In an `Average`, each member is replaced.
        images: of the kind that the network was trained on, uint8 (N, 28, 28). The first 1,000, or the first half if
            there are fewer than 2,000, calibrate the ranges; on the next as many the labels are compared.

    Raises:
        InputError: If too many labels change, or the network or this processor does not support 8 bits.
    """
    if isinstance(network, Average):
        return Average([int8_network(member, images) for member in network.members], network.shifts)
    count = min(CALIBRATION, len(images) // 2)
    x, others = (normalize(part) for part in (images[:count], images[count : 2 * count]))
    expected = network(others).argmax(1)
    reason = ""
    for keep_uint8 in (True, False):
        try:
            quantized = _quantized(network, _ranges(network, x), keep_uint8)
            same = (quantized(others).argmax(1) == expected).float().mean().item()
        # A network may do anything between its layers, and most of it does not work on integers.
        except Exception as error:
            reason = reason or first_line(error)
            continue
        if same >= _SAME_LABELS:
            return quantized
        reason = f"{same:.1%} of {count} training images keep their label, expected {_SAME_LABELS:.1%}"
    raise InputError(f"engine=int8: {type(network).__name__} does not work in 8 bits: {reason}; use engine=eager")


def calibration_images(checkpoint: Checkpoint) -> Tensor:
    """Return the training images of the dataset that a checkpoint was trained on, uint8 (N, 28, 28).

    For a dataset of a user's own digits, which are in MNIST's form, these are MNIST's training images.

    Raises:
        InputError: If the checkpoint's provenance is not what `train` writes, or the dataset cannot be loaded.
    """
    weights = read_weights(each(checkpoint)[0])
    config = weights.provenance.get("config", {})
    data = config.get("data", {}) if isinstance(config, dict) else None
    name, folder = (data.get("name", "mnist"), data.get("dir")) if isinstance(data, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(folder, str | None):
        raise InputError(f"{weights.path}: its provenance names no dataset to calibrate with; use engine=eager")
    if name == "mnist" and folder is not None and find_idx(name, "train", expand(folder)) is None:
        folder = None
    return load_dataset(name, "train", folder).images


def _ranges(network: nn.Module, x: Tensor) -> list[_Range]:
    """Return the layers' ranges for normalized images `x`, (B, 1, 28, 28), in the order in which the layers run."""
    found: list[_Range] = []
    handles = []
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):

            def observe(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                low, high = inputs[0].aminmax()
                high_out = max(output.max().item(), 1e-6)
                found.append(_Range(name, min(low.item(), 0.0), max(high.item(), 1e-6), high_out))

            handles.append(layer.register_forward_hook(observe))
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _quantized(network: nn.Module, ranges: list[_Range], keep_uint8: bool) -> nn.Module:
    if len(ranges) < 2:
        raise ValueError("it has no convolutions or linear layers before its last one")
    result = copy.deepcopy(network)
    before: float | None = None  # scale of the previous layer's output, if that is uint8
    for index, layer in enumerate(ranges):
        old = result.get_submodule(layer.name)
        last = index == len(ranges) - 1
        out_scale = layer.high_out / 255 if keep_uint8 and not last else None
        scale = before or (layer.high - layer.low) / 255
        zero = 0 if before else round(-layer.low / scale)
        new = _Float(old, scale) if last else _Int8(old, scale, zero, out_scale)
        result.set_submodule(layer.name, new)
        before = out_scale
    return _Int8Network(result)
