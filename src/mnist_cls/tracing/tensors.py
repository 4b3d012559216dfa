"""Small questions about tensors of every kind: nested, sparse, quantized."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


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


def storage_address(tensor: Tensor) -> int:
    """Return a number that two tensors share if one is a view of the other."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse tensors have no storage
        return id(tensor)
