"""How many floating-point operations PyTorch's kernels make."""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# What a kernel computes besides convolutions and matrix products, whose formulas PyTorch has: operations a value.
_PER_INPUT = {"sum", "mean", "var", "var_mean", "std", "std_mean", "amax", "amin", "max", "min", "argmax", "argmin"}


_PER_INPUT |= {"norm", "linalg_vector_norm"}


_PRODUCTS = {"mv", "dot", "vdot"}


_PER_OUTPUT = {"_softmax": 3, "_log_softmax": 3, "native_layer_norm": 5, "native_group_norm": 5, "native_dropout": 2}


_PER_OUTPUT |= dict.fromkeys(["native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit"], 2)


_PER_OUTPUT["_native_batch_norm_legit_no_training"] = 2


# Kernels that do a lot, of which PyTorch has no formula.
_UNKNOWN = ("rnn", "lstm", "gru", "fft", "linalg_solve", "linalg_inv", "linalg_eig", "linalg_svd", "linalg_qr")


class FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the floating-point operations of what runs in its block.

    A multiplication and an addition are two, a comparison is one. Convolutions and matrix products go by PyTorch's own
    formulas.

    Attributes:
        flops: the count so far; None once one of the kernels ran that do a lot and have no formula. Small or rare ones
            without a formula count as 0.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and keeping the compiler away would first import it: two seconds

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int | None = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in flop_registry:
            # Without gradients some operations come whole, and only their parts have formulas.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        flops = _flops(func, packet, args, kwargs, result)
        self.flops = None if self.flops is None or flops is None else self.flops + flops
        return result


def _flops(func: Any, packet: Any, args: Any, kwargs: Any, result: Any) -> int | None:
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if not outputs:
        return 0
    name = packet.__name__.rstrip("_")
    if any(word in name for word in _UNKNOWN):
        return None
    if name.startswith("max_pool") or name.startswith("avg_pool"):
        window = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
        window = [*window, *window] if len(window) == 1 and "2d" in name else window
        return outputs[0].numel() * prod(window)
    first = next((leaf.numel() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), 0)
    if name in _PRODUCTS:
        return 2 * first
    if name in _PER_INPUT or "adaptive" in name:
        return first
    if torch.Tag.pointwise in func.tags:
        return outputs[0].numel()
    return outputs[0].numel() * _PER_OUTPUT.get(name, 0)
