"""Count the floating-point operations of PyTorch's kernels."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode  # private, but where PyTorch's notes on modes import it from
from torch.utils.flop_counter import flop_registry

from .kernels import kernel_flops
from .tensors import Region, region, tensors_in


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
        flops = kernel_flops(func, args, kwargs, result)
        self.flops = None if self.flops is None or flops is None else self.flops + flops
        return result


class FlopCount(_KernelCounter, TorchDispatchMode):
    """Counts the floating-point operations of the kernels that run in its `with` block.

    A multiplication and an addition count as two operations, a comparison or a function such as exp as one.
    Convolutions and matrix products follow PyTorch's own formulas, the others the tables in `kernels.py`.

    Attributes:
        flops: operations so far; None once an expensive kernel without a formula has run, such as a recurrent layer.
            Other kernels without a formula count as 0.
        written: what the kernels changed in place.
    """
