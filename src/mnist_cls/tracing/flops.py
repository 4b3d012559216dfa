"""Count the floating-point operations of PyTorch's kernels."""

from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode  # private, but where PyTorch's notes on modes import it from
from torch.utils.flop_counter import flop_registry

from .tensors import Region, region, tensors_in

# PyTorch has formulas for convolutions and matrix products. For other kernels: operations per value.
_REDUCTIONS = {"sum", "mean", "var", "var_mean", "std", "std_mean", "amax", "amin", "max", "min", "argmax", "argmin"}
_REDUCTIONS |= {"norm", "linalg_vector_norm"}
_VECTOR_PRODUCTS = {"mv", "dot", "vdot"}
_PER_OUTPUT = {"softmax": 3, "batch_norm": 2, "layer_norm": 5, "group_norm": 5, "dropout": 2}
# Expensive kernels without a formula.
_UNKNOWN = ("rnn", "lstm", "gru", "fft", "linalg_solve", "linalg_inv", "linalg_eig", "linalg_svd", "linalg_qr")


class _KernelCounter:
    """Implements `FlopCount`.

    A class of its own: PyTorch excludes a `__torch_dispatch__` that a subclass of TorchDispatchMode defines itself from
    compilation, and imports the compiler to do so, which takes a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: int | None = 0
        self.written: list[Region] = []

    def __torch_dispatch__(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in flop_registry:
            # Without gradients some operations arrive undivided, and only their parts have formulas.
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

    A multiplication and an addition count as two operations, a comparison as one. Convolutions and matrix products
    follow PyTorch's own formulas.

    Attributes:
        flops: operations so far; None once an expensive kernel without a formula has run, such as a recurrent layer.
            Other kernels without a formula count as 0.
        written: what the kernels changed in place.
    """


def _kernel_flops(func: Any, args: Any, kwargs: Any, result: Any) -> int | None:
    if func.overloadpacket in flop_registry:
        return int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=result))
    outputs = tensors_in(result)
    if not outputs:
        return 0
    name = func.overloadpacket.__name__.rstrip("_")
    if any(word in name for word in _UNKNOWN):
        return None
    if name.startswith(("max_pool", "avg_pool")):
        window = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
        window = [*window, *window] if len(window) == 1 and "2d" in name else window
        return outputs[0].numel() * prod(window)
    if name in _VECTOR_PRODUCTS:
        return 2 * tensors_in(args)[0].numel()
    if name in _REDUCTIONS or "adaptive" in name:
        return tensors_in(args)[0].numel()
    pointwise = torch.Tag.pointwise in func.tags
    per_value = 1 if pointwise else next((flops for word, flops in _PER_OUTPUT.items() if word in name), 0)
    return per_value * outputs[0].numel()
