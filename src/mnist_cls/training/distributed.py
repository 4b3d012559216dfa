"""Training in several processes: the settings that follow from torchrun, and what the processes exchange."""

import atexit
import dataclasses
import os
from typing import Any, TextIO

import lightning.pytorch as pl
import torch
from torch import distributed

from ..cli.settings import TrainerSettings
from ..cli.torchrun import hosts, is_first, world_size
from ..errors import InputError


def as_launched(settings: TrainerSettings) -> TrainerSettings:
    """Fill in devices, hosts and strategy from torchrun's environment, if it has started this process.

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
    if hosts() > 1 and _agent_store() and int(os.environ["TORCHELASTIC_MAX_RESTARTS"]) > 0:
        raise InputError(
            "--max-restarts on several hosts needs --rdzv-backend=c10d, and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in"
            " torchrun's environment; without these, restarted processes wait for those from before the restart"
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


def connect(device: torch.device) -> None:
    """Connect the processes that torchrun has started, under a different name after each restart.

    Lightning would use one name for all attempts. Under that name, torchrun's store still holds the addresses of the
    processes from before a restart, and the restarted processes can wait for these forever (PyTorch 2.14).
    """
    if world_size() == 1 or not _agent_store() or distributed.is_initialized():  # by an earlier job of a sweep
        return
    stores: Any = distributed  # the stores have no types
    store = stores.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    attempt = stores.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=attempt, rank=int(os.environ["RANK"]), world_size=world_size())
    atexit.register(distributed.destroy_process_group)  # without it, PyTorch can abort when the process exits


def _agent_store() -> bool:
    """Return whether torchrun itself runs the store through which its processes find each other."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


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
    # Gloo raises a plain RuntimeError, which only its text gives away.
    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)


def print_once(text: str, file: TextIO | None = None) -> None:
    """Print a line in the first of the processes that train together."""
    if is_first():
        print(text, file=file, flush=True)
