"""A network's training pass with less work for Python: compiled, or captured once and replayed by the GPU alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import torch
from torch import Tensor, nn

from .errors import InputError

Pass = Callable[[Tensor], Tensor]


def compiled(
    network: nn.Module, how: str, sample: Tensor, autocast: Callable[[], AbstractContextManager[None]]
) -> Pass:
    """Make a function that computes what a network in training computes, and whose gradients reach its parameters.

    Args:
        network: in training mode, on its device; gives one tensor.
        how: "cuda_graph" captures the forward and the backward pass as CUDA graphs, in less than a second; the others
            are modes of `torch.compile`, which take longer to prepare and may be faster afterwards.
        sample: normalized images as all batches will be, (B, 1, 28, 28), on the network's device.
        autocast: makes the context of the training's precision.

    Returns:
        A function for images of the sample's shape.

    Raises:
        InputError: a CUDA graph is wanted on another device.
    """
    if how != "cuda_graph":
        whole: Pass = torch.compile(lambda images: network(images), mode=how, dynamic=False)
        return whole
    if sample.device.type != "cuda":
        raise InputError(f"compile=cuda_graph: CUDA graphs are for CUDA devices, not {sample.device}; use trainer=cuda")
    # The trial passes before the capture would count in batch norm's averages.
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with autocast():
        # What autocast keeps of one pass would not be there when the graph is replayed.
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            # A module of its own, because this function replaces the forward of the one that it is given.
            graphed = torch.cuda.make_graphed_callables(_Whole(network), (sample,))
        finally:
            torch.set_autocast_cache_enabled(cached)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])
    network.zero_grad(set_to_none=True)
    return cast(Pass, graphed)


class _Whole(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.network(images)
        return outputs
