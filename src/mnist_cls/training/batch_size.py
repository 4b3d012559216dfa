"""`data.batch_size=auto`: the largest batch that fits into memory."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..data.normalization import normalize
from ..errors import InputError
from ..images import SIZE
from ..memory import out_of_memory
from .objective import compute_loss

if TYPE_CHECKING:
    from .module import MNISTModule


def largest_batch(module: "MNISTModule", device: torch.device, most: int) -> int:
    """Find the largest batch size, a divisor of `most`, at which a training step fits into a device's memory.

    The trial steps run on a copy of the network.

    Raises:
        InputError: If not even one image fits.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        size = largest_divisor(lambda size: _try_step(module, device, size), most)
    if size is None:
        raise InputError(f"out of memory: not even one image fits into a training step on {device}")
    return size


def largest_divisor(try_size: Callable[[int], None], most: int) -> int | None:
    """Find the largest divisor of `most` for which `try_size` does not run out of memory; None if there is none."""
    for size in range(most, 0, -1):
        if most % size == 0:
            try:
                try_size(size)
                return size
            except (RuntimeError, MemoryError) as error:
                if out_of_memory(error) is None:
                    raise
    return None


def _try_step(module: "MNISTModule", device: torch.device, size: int) -> None:
    network = copy.deepcopy(module.model).to(device).train()
    optimizer = module.optimizer_factory(network.parameters())
    images = torch.zeros(size, SIZE, SIZE, dtype=torch.uint8, device=device)
    labels = torch.zeros(size, dtype=torch.int64, device=device)
    for _ in range(2):  # the second step also holds the previous gradients and the optimizer's state
        loss = compute_loss(network, network(normalize(images)), images, labels, module.label_smoothing)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
