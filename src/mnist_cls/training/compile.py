"""Compile the forward and backward pass of training with `torch.compile`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from ..data.loader import BatchLoader
from ..data.normalization import normalize
from ..errors import InputError, first_line
from ..images import SIZE

ForwardPass = Callable[[Tensor], Any]


def compile_for(
    trainer: pl.Trainer, network: nn.Module, mode: str, dtype: str | torch.dtype
) -> tuple[torch.Size, ForwardPass]:
    """Compile a network for the full batches of training; return their shape and the forward pass.

    Raises:
        InputError: If the network cannot be compiled, or the training loader has no batch size.
    """
    size, device = _full_batch(trainer.train_dataloader), trainer.strategy.root_device
    sample = normalize(torch.zeros(size, SIZE, SIZE, dtype=torch.uint8, device=device)).to(dtype)
    return sample.shape, compile_network(network, mode, sample, trainer.precision_plugin.forward_context)


def compile_network(
    network: nn.Module, mode: str, sample: Tensor, autocast: Callable[[], AbstractContextManager[None]]
) -> ForwardPass:
    """Compile the forward pass of a network in training mode, and run it once, which takes from seconds to minutes.

    Args:
        network: its parameters receive the gradients of the compiled pass.
        mode: a mode of `torch.compile`.
        sample: normalized images (B, 1, 28, 28) on the network's device; the pass is compiled for their shape.
        autocast: function that creates the context of the training's precision.

    Raises:
        InputError: If the network cannot be compiled, for example because there is no C++ compiler.
    """
    # Compile a function: a compiled module would become a second submodule of the LightningModule.
    compiled: ForwardPass = torch.compile(lambda images: network(images), mode=mode, dynamic=False)
    try:
        with _buffers_restored(network), autocast():
            compiled(sample)
    except Exception as error:  # the network, TorchDynamo or the compiler may fail in any way
        name = type(network).__name__
        raise InputError(f"compile={mode}: {name} cannot be compiled: {first_line(error)}; use compile=null") from error
    return compiled


@contextmanager
def _buffers_restored(network: nn.Module) -> Iterator[None]:
    """Keep the first pass out of batch norm's running averages."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    yield
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])


def _full_batch(loader: Any) -> int:
    """Return the number of images that this process gets of a loader's full batches."""
    if isinstance(loader, BatchLoader):
        return len(range(loader.rank, min(loader.batch_size, loader.sampler.count), loader.world_size))
    size = getattr(loader, "batch_size", None)
    if not isinstance(size, int):
        found = type(loader).__name__
        raise InputError(f"compile: the {found} has no batch_size to compile the network for; use compile=None")
    return size
