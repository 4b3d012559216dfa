"""Lightning's Trainer as this package wants it: quiet, and with little to do beside the training itself."""

import dataclasses
import os

import lightning.pytorch as pl
import torch

from ..cli.settings import TrainerSettings
from ..cli.torchrun import hosts, world_size
from ..errors import InputError


def as_launched(settings: TrainerSettings) -> TrainerSettings:
    """The settings with the processes that torchrun has started, as far as they name no others.

    Raises:
        InputError: they name other numbers than torchrun.
    """
    if world_size() == 1:
        return settings
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if here * hosts() != world_size():
        raise InputError(
            f"torchrun has started {world_size()} processes on {hosts()} hosts, and {here} of them on this one;"
            " give each host the same --nproc-per-node"
        )
    listed = isinstance(settings.devices, list)
    if (len(settings.devices) != here) if listed else (settings.devices not in (1, "auto", here)):
        raise InputError(
            f"trainer.devices={settings.devices}, but torchrun runs {here} processes on each host;"
            " leave trainer.devices out"
        )
    if settings.num_nodes not in (1, hosts()):
        raise InputError(
            f"trainer.num_nodes={settings.num_nodes}, but torchrun runs {hosts()} hosts; leave trainer.num_nodes out"
        )
    return dataclasses.replace(
        settings,
        devices=settings.devices if listed else here,
        num_nodes=hosts(),
        strategy="ddp" if settings.strategy == "auto" else settings.strategy,
    )


def max_of_all(trainer: pl.Trainer, *mine: int) -> list[int]:
    """The largest of each number over all processes that train together."""
    if trainer.world_size == 1:
        return list(mine)
    theirs = torch.tensor(mine, device=trainer.strategy.root_device)
    # Not Strategy.reduce: it lets them wait for each other first, which takes as long again, at each step.
    torch.distributed.all_reduce(theirs, op=torch.distributed.ReduceOp.MAX)
    found: list[int] = theirs.tolist()
    return found
