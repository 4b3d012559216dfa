"""A network's training pass with less work for Python: compiled, or captured once and replayed by the GPU alone."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import InputError

Pass = Callable[[Tensor], Any]


Autocast = Callable[[], AbstractContextManager[None]]


def compiled(network: nn.Module, how: str, sample: Tensor, autocast: Autocast) -> Pass:
    """Make a function that computes what a network in training computes, and whose gradients reach its parameters.

    Args:
        network: in training mode, on its device.
        how: "cuda_graph" captures the forward and the backward pass as CUDA graphs, without compiling anything; the
            others are modes of `torch.compile`, which take from seconds to minutes.
        sample: normalized images as all batches will be, (B, 1, 28, 28), on the network's device.
        autocast: makes the context of the training's precision.

    Returns:
        A function for images of the sample's shape.

    Raises:
        InputError: a CUDA graph is wanted on another device, or the network cannot be compiled or captured: it may look
            at values on the way, leave a parameter unused, or there may be no C++ compiler.
    """
    try:
        if how == "cuda_graph":
            return _captured(network, sample, autocast)
        return _compiled(network, how, sample, autocast)
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        name = type(network).__name__
        raise InputError(f"compile={how}: {name} cannot be compiled: {reason}; use compile=null") from error


def _compiled(network: nn.Module, how: str, sample: Tensor, autocast: Autocast) -> Pass:
    # Not the network itself: in a LightningModule the compiled module would be a second network beside the first.
    whole: Pass = torch.compile(lambda images: network(images), mode=how, dynamic=False)
    with _restored(network), autocast():
        whole(sample)
    return whole


def _captured(network: nn.Module, sample: Tensor, autocast: Autocast) -> Pass:
    if sample.device.type != "cuda":
        raise InputError(f"compile=cuda_graph: CUDA graphs are for CUDA devices, not {sample.device}; use compile=null")
    with _restored(network), autocast():
        # What autocast keeps of one pass would not be there when the graph is replayed.
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            # A module of its own, because this function replaces the forward of the one that it is given.
            return cast(Pass, torch.cuda.make_graphed_callables(_Whole(network), (sample,)))
        finally:
            torch.set_autocast_cache_enabled(cached)


@contextmanager
def _restored(network: nn.Module) -> Iterator[None]:
    """Undo what trial passes do to the network: they would count in batch norm's averages."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    yield
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])


class _Whole(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)
