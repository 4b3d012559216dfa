"""Count the floating-point operations of PyTorch's kernels.

A multiplication and an addition count as two operations; a comparison, a division or a function such as exp as one.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # private, but where PyTorch's notes on modes import it from
from torch.utils.flop_counter import flop_registry

from .tensors import Region, region, tensors_in


class _KernelCounter:
    """Implements `FlopCount`.

    A separate class, because PyTorch excludes a `__torch_dispatch__` that is defined in a subclass of TorchDispatchMode
    from compilation, for which it imports the compiler. That takes a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: int | None = 0
        self.written: list[Region] = []

    def __torch_dispatch__(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in flop_registry:
            # Without gradients, some composite operations arrive whole, and only their parts have formulas.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        in_place = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
        self.written += map(region, tensors_in([args[0] if in_place else None, kwargs.get("out")]))
        flops = _kernel_flops(func, args, kwargs, result)
        self.flops = None if self.flops is None or flops is None else self.flops + flops
        return result


class FlopCount(_KernelCounter, TorchDispatchMode):
    """Counts the floating-point operations of the kernels that run in its `with` block.

    Convolutions and matrix products follow PyTorch's own formulas, the others the tables below.

    Attributes:
        flops: operations so far; None once an expensive kernel without a formula has run, such as a recurrent layer.
            Other kernels without a formula count as 0.
        written: the memory that the kernels changed in place.
    """


def _by_name(names: dict[int, str]) -> dict[str, int]:
    return {name: count for count, listed in names.items() for name in listed.split()}


# Operations per value of the output. Pointwise kernels that are not listed have one, such as add, exp, relu and gelu.
_PER_OUTPUT = _by_name(
    {
        0: "clone copy fill zero lift_fresh alias",  # these only move values, though PyTorch tags them as pointwise
        1: "_prelu_kernel hardswish rrelu_with_noise log_sigmoid_forward cumsum cumprod",
        2: "glu addcmul addcdiv native_dropout _batch_norm_no_update",
        3: "_softmax _log_softmax _safe_softmax lerp",
        4: "_fused_rms_norm upsample_linear1d",  # interpolation: two for each neighbouring value
        5: "native_layer_norm native_group_norm _batch_norm_with_update",
        8: "upsample_bilinear2d",
        16: "upsample_trilinear3d",
        32: "upsample_bicubic2d",
        # The rest of a recurrent cell after its matrix products.
        10: "_thnn_fused_gru_cell",
        13: "_thnn_fused_lstm_cell",
    }
)
# Operations per value of the first input.
_PER_INPUT = _by_name(
    {
        1: "sum nansum mean prod all any count_nonzero amax amin max min argmax argmin median topk"
        " _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d col2im nll_loss_forward",
        2: "aminmax norm linalg_vector_norm logsumexp dot vdot mv",
        3: "var var_mean std std_mean _weight_norm_interface"
        " mse_loss smooth_l1_loss binary_cross_entropy binary_cross_entropy_with_logits",
    }
)
# Expensive kernels without a formula, by parts of their names.
_UNKNOWN = (
    *("rnn", "lstm", "gru", "multi_head", "transformer", "fft", "linalg_", "cholesky", "sort", "_aa"),
    *("_sparse_mm", "_sparse_addmm", "_sparse_sparse"),
)


def _attention(args: Any, outputs: list[Tensor]) -> int:
    """Two products of query (..., L, E), key (..., S, E) and value (..., S, V); masked values count, too."""
    query, key = args[:2]
    return int(2 * key.shape[-2] * (query.numel() + outputs[0].numel()))


def _pooling(args: Any, outputs: list[Tensor]) -> int:
    """One operation for each value in the window."""
    window = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    return outputs[0].numel() * prod(window)


def _batch_norm(args: Any, outputs: list[Tensor]) -> int:
    """Scale and shift; in training and in instance norm also the statistics."""
    per_value = 5 if any(flag is True for flag in args) else 2
    return per_value * outputs[0].numel()


def _grid_sample(args: Any, outputs: list[Tensor]) -> int:
    corners = 2 ** (outputs[0].ndim - 2)
    neighbours = {0: corners, 1: 0, 2: 16}[args[2]]  # linear, nearest, cubic
    return int(2 * neighbours * outputs[0].numel())


# Formulas from arguments and outputs, by prefix of the kernel's name.
_FORMULAS: dict[str, Callable[[Any, list[Tensor]], int]] = {
    "_scaled_dot_product": _attention,  # PyTorch has formulas for some of these kernels, but none for the CPU's
    **dict.fromkeys(("max_pool", "avg_pool", "fractional_max_pool"), _pooling),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"), _batch_norm),
    "grid_sampler": _grid_sample,
    "addmv": lambda args, outputs: 2 * args[1].numel(),
    "_trilinear": lambda args, outputs: 3 * outputs[0].numel() * args[1][0].numel(),  # F.bilinear
    "_cdist_forward": lambda args, outputs: 3 * outputs[0].numel() * args[0].shape[-1],
    "_embedding_bag": lambda args, outputs: args[1].numel() * args[0].shape[1],
    **dict.fromkeys(("index_add", "scatter_add", "scatter_reduce"), lambda args, outputs: args[3].numel()),
}


def _kernel_flops(func: Any, args: Any, kwargs: Any, result: Any) -> int | None:
    """Return the operations of one call of a kernel; None if it is expensive and there is no formula for it."""
    name = func.overloadpacket.__name__.rstrip("_")
    outputs = tensors_in(result)
    formula = next((formula for start, formula in _FORMULAS.items() if name.startswith(start)), None)
    if formula is not None:
        return formula(args, outputs)
    if func.overloadpacket in flop_registry:
        return int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=result))
    if not outputs:
        return 0
    if name in _PER_OUTPUT:
        return _PER_OUTPUT[name] * outputs[0].numel()
    if name in _PER_INPUT:
        return _PER_INPUT[name] * tensors_in(args)[0].numel()
    if func.namespace != "aten" or any(word in name for word in _UNKNOWN):
        return None
    return outputs[0].numel() if torch.Tag.pointwise in func.tags else 0
