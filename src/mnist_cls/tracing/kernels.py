"""Floating-point operations of each of PyTorch's kernels.

A multiplication and an addition count as two operations; a comparison, a division or a function such as exp as one.
"""

from collections.abc import Callable
from math import ceil, log2, prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from .tensors import tensors_in

# Kernels that only move values, though PyTorch tags them as pointwise.
_FREE = {"clone", "copy", "fill", "zero", "lift_fresh", "alias"}
# Operations per value of the output. Pointwise kernels that are not listed have one, such as add, exp, relu and gelu.
_PER_OUTPUT = {
    **dict.fromkeys(("_prelu_kernel", "hardswish", "rrelu_with_noise", "log_sigmoid_forward"), 1),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin"), 1),
    **dict.fromkeys(("glu", "addr", "addcmul", "addcdiv", "native_dropout", "logcumsumexp"), 2),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax", "linalg_cross", "lerp"), 3),
    **{"_batch_norm_no_update": 2, "_batch_norm_with_update": 5},
    **{"_fused_rms_norm": 4, "native_layer_norm": 5, "native_group_norm": 5},
    # Two for each value that is interpolated between.
    **{"upsample_linear1d": 4, "upsample_bilinear2d": 8, "upsample_trilinear3d": 16, "upsample_bicubic2d": 32},
    # What is left of a cell after its products.
    **{"_thnn_fused_lstm_cell": 13, "_thnn_fused_gru_cell": 10},
}
# Operations per value of the first input.
_PER_INPUT = {
    **dict.fromkeys(("sum", "nansum", "mean", "prod", "all", "any", "count_nonzero"), 1),
    **dict.fromkeys(("amax", "amin", "max", "min", "argmax", "argmin", "median", "nanmedian", "mode", "kthvalue"), 1),
    **dict.fromkeys(("topk", "col2im", "nll_loss_forward", "nll_loss2d_forward"), 1),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"), 1),
    **dict.fromkeys(("aminmax", "norm", "linalg_vector_norm", "logsumexp", "dot", "vdot", "mv"), 2),
    **dict.fromkeys(("var", "var_mean", "std", "std_mean", "_weight_norm_interface"), 3),
    **dict.fromkeys(("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss"), 3),
    **dict.fromkeys(("binary_cross_entropy", "binary_cross_entropy_with_logits"), 3),
}
# Expensive kernels without a formula, by parts of their names.
_UNKNOWN = (
    "rnn",
    "lstm",
    "gru",
    "fft",
    "linalg_",
    "cholesky",
    "triangular_solve",
    "ormqr",
    "_sparse_mm",
    "_sparse_addmm",
    "_sparse_sparse",
)

_Formula = Callable[[Any, list[Tensor]], int]


def kernel_flops(func: Any, args: Any, kwargs: Any, result: Any) -> int | None:
    """Return the operations of one call of a kernel; None if it is expensive and there is no formula for it."""
    name = func.overloadpacket.__name__.rstrip("_")
    outputs = tensors_in(result)
    formula = next((formula for start, formula in _FORMULAS.items() if name.startswith(start)), None)
    if formula is not None:
        return formula(args, outputs)
    if func.overloadpacket in flop_registry:
        return int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=result))
    if not outputs or name in _FREE:
        return 0
    if name in _PER_OUTPUT:
        return _PER_OUTPUT[name] * outputs[0].numel()
    if name in _PER_INPUT:
        return _PER_INPUT[name] * tensors_in(args)[0].numel()
    if func.namespace != "aten" or any(word in name for word in _UNKNOWN):
        return None
    return outputs[0].numel() if torch.Tag.pointwise in func.tags else 0


def _attention(args: Any, outputs: list[Tensor]) -> int:
    """The two products of attention of query (..., L, E), key (..., S, E) and value (..., S, V); masked parts count."""
    query, key = args[:2]
    return int(2 * key.shape[-2] * (query.numel() + outputs[0].numel()))


def _multi_head_attention(args: Any, outputs: list[Tensor]) -> int:
    """The products of attention with its four linear layers: of query (B, L, E) and key (B, S, E)."""
    query, key = args[:2]
    width = query.shape[-1]
    linear = 2 * width * (2 * query.numel() + 2 * key.numel())
    return int(linear + 4 * query.numel() * key.shape[-2])


def _encoder_layer(args: Any, outputs: list[Tensor]) -> int:
    x, hidden = args[0], args[14].shape[0]
    attention = _multi_head_attention((x, x), outputs)
    return int(attention + 4 * x.numel() * hidden + 2 * 5 * x.numel() + x.numel() // x.shape[-1] * hidden)


def _pooling(args: Any, outputs: list[Tensor]) -> int:
    """One operation for each value in the window."""
    window = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    return outputs[0].numel() * prod(window)


def _batch_norm(args: Any, outputs: list[Tensor]) -> int:
    """In training, and in instance norm, the statistics are computed, too."""
    per_value = 5 if any(flag is True for flag in args) else 2
    return per_value * outputs[0].numel()


def _antialiased(weights: int) -> _Formula:
    """Interpolate between more values where an image shrinks; `weights` values along an axis where it does not."""

    def flops(args: Any, outputs: list[Tensor]) -> int:
        sizes = zip(args[0].shape[2:], outputs[0].shape[2:], strict=True)
        neighbours: int = prod(ceil(weights * max(1.0, before / after)) for before, after in sizes)
        return 2 * neighbours * outputs[0].numel()

    return flops


def _grid_sample(args: Any, outputs: list[Tensor]) -> int:
    corners = 2 ** (outputs[0].ndim - 2)
    neighbours = {0: corners, 1: 0, 2: 16}[args[2]]  # linear, nearest, cubic
    return int(2 * neighbours * outputs[0].numel())


def _sorting(args: Any, outputs: list[Tensor]) -> int:
    dimension = next((value for value in args[1:] if type(value) is int), -1)
    count = outputs[0].shape[dimension] if outputs[0].ndim else 1
    return outputs[0].numel() * ceil(log2(max(1, count)))


_FORMULAS: dict[str, _Formula] = {
    "_scaled_dot_product": _attention,  # PyTorch has formulas for some of these kernels, but none for the CPU's
    "_native_multi_head_attention": _multi_head_attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    **dict.fromkeys(("max_pool", "avg_pool", "fractional_max_pool"), _pooling),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"), _batch_norm),
    "_upsample_bilinear2d_aa": _antialiased(2),
    "_upsample_bicubic2d_aa": _antialiased(4),
    "grid_sampler": _grid_sample,
    "sort": _sorting,
    "addmv": lambda args, outputs: 2 * args[1].numel(),
    "_trilinear": lambda args, outputs: 3 * outputs[0].numel() * args[1][0].numel(),  # F.bilinear
    "_cdist_forward": lambda args, outputs: 3 * outputs[0].numel() * args[0].shape[-1],
    "_pdist_forward": lambda args, outputs: 3 * outputs[0].numel() * args[0].shape[-1],
    "_embedding_bag": lambda args, outputs: args[1].numel() * args[0].shape[1],
    **dict.fromkeys(("index_add", "scatter_add", "scatter_reduce"), lambda args, outputs: args[3].numel()),
}
