"""Tensors of every kind: nested in containers, sparse, quantized, or views of each other."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Region(NamedTuple):
    """The memory of a tensor.

    Attributes:
        storage: identifies the storage; the same for a tensor and its views.
        start, end: index of the first value in the storage, and of the one after the last.
    """

    storage: int
    start: int
    end: int

    def overlaps(self, other: "Region") -> bool:
        """Return whether the regions overlap. Views with strides can overlap without a value in common."""
        return self.storage == other.storage and self.start < other.end and other.start < self.end


def region(tensor: Tensor) -> Region:
    """Return the memory of a tensor."""
    try:
        storage = tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse tensors have no storage
        return Region(id(tensor), 0, 1)
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in sizes) if tensor.numel() else 0
    start = int(tensor.storage_offset())
    return Region(storage, start, start + extent)


def tensors_in(values: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts, in order."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = list(values.values())
    return [tensor for value in values for tensor in tensors_in(value)] if isinstance(values, (tuple, list)) else []


def dense(values: Tensor) -> Tensor:
    """Return a sparse or quantized tensor as an ordinary one; others unchanged."""
    if values.is_quantized:
        values = values.dequantize()
    return values if values.layout is torch.strided else values.to_dense()
