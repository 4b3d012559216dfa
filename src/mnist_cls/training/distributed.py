"""Training in several processes: how many torchrun has started, and what they exchange."""

import dataclasses
import os
from typing import TextIO

import lightning.pytorch as pl
import torch
from torch import distributed

from ..cli.settings import TrainerSettings
from ..cli.torchrun import hosts, is_first, world_size
from ..errors import InputError


def as_launched(settings: TrainerSettings) -> TrainerSettings:
    """Fill in devices, hosts and strategy from torchrun's environment.

    Returns:
        The settings unchanged if torchrun has not started this process.

    Raises:
        InputError: If the settings contradict torchrun.
    """
    if world_size() == 1:
        return settings
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    if local * hosts() != world_size():
        raise InputError(
            f"torchrun has started {world_size()} processes on {hosts()} hosts, {local} of them on this one;"
            " give each host the same --nproc-per-node"
        )
    listed = isinstance(settings.devices, list)
    if (len(settings.devices) != local) if listed else (settings.devices not in (1, "auto", local)):
        raise InputError(
            f"trainer.devices={settings.devices}, but torchrun runs {local} processes on each host;"
            " leave trainer.devices out"
        )
    if settings.num_nodes not in (1, hosts()):
        raise InputError(
            f"trainer.num_nodes={settings.num_nodes}, but torchrun runs {hosts()} hosts; leave trainer.num_nodes out"
        )
    return dataclasses.replace(
        settings,
        devices=settings.devices if listed else local,
        num_nodes=hosts(),
        strategy="ddp" if settings.strategy == "auto" else settings.strategy,
    )


def max_of_all(trainer: pl.Trainer, *values: int) -> list[int]:
    """Return the largest of each value over all processes of the training."""
    if trainer.world_size == 1:
        return list(values)
    tensor = torch.tensor(values, device=trainer.strategy.root_device)
    # Strategy.reduce would first wait at a barrier, which doubles the cost of each step.
    distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
    largest: list[int] = tensor.tolist()
    return largest


def lost(error: BaseException) -> bool:
    """Return whether an exception means that another process is gone or cannot be reached."""
    # Gloo raises a plain RuntimeError; only its text names its transport.
    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)


def print_once(text: str, file: TextIO | None = None) -> None:
    """Print a line in the first of the processes that train together."""
    if is_first():
        print(text, file=file)
