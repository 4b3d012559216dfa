"""The processes that train together: which of them this is, what they agree on, and how one is told to be gone."""

import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from ..errors import InputError

# How long a process waits for the others to come. A host may have to start Python from a slow disk.
PATIENCE = 300.0


# The store that torchrun's processes share, and what tells those of now apart; a store lives as long as its object.
_shared: dict[str, Any] = {}


def launched() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def world_size() -> int:
    """How many processes torchrun has started, over all hosts; 1 if it has not started this one."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def hosts() -> int:
    """On how many hosts it has."""
    return int(os.environ["GROUP_WORLD_SIZE"]) if launched() else 1


def is_first() -> bool:
    """Whether this process is the first of those that train together, or the only one."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0


def is_first_here() -> bool:
    """The same of those on this host."""
    return int(os.environ.get("LOCAL_RANK") or 0) == 0


class Agreed(NamedTuple):
    """A run's folder, and whether this process is the one of several that makes it."""

    path: str
    is_ours: bool


def agreed(choose: Callable[[], str]) -> Agreed:
    """Let the first of the processes that torchrun has started choose the folder for all of them.

    Args:
        choose: called in the first process only. If it leaves with an exception, all leave.

    Raises:
        InputError: the others, or the first, have not come in time.
        SystemExit: in the other processes, if the first has left. It has said why.
    """
    if world_size() == 1:
        return Agreed(choose(), True)
    from torch.distributed.rendezvous import rendezvous

    rank = int(os.environ["RANK"])
    try:
        store = next(rendezvous("env://", timeout=timedelta(seconds=PATIENCE)))[0]
        port, folder = _answer(store, choose) if rank == 0 else _ask(store, rank)
    except RuntimeError as error:
        if not lost(error):
            raise
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(
            f"process {rank} of {world_size()} cannot reach the others through {where} ({_brief(error)});"
            " see that torchrun runs on all hosts with the same --nnodes and --rdzv-endpoint"
        ) from error
    if not folder:
        raise SystemExit(0)
    _shared.update(store=store, name=port)
    # They must meet in a store of their own: in torchrun's they would find addresses of processes from before a restart
    # and wait for them.
    os.environ.update(MASTER_PORT=port, TORCHELASTIC_USE_AGENT_STORE="False")
    return Agreed(folder, rank == 0)


# After a restart torchrun's store still holds what was written by processes that are no more, and nothing tells them
# apart: each host counts restarts of its own. So each process asks under a new name, again and again, and the first
# forgets all that was asked before it came.
def _answer(store: Any, choose: Callable[[], str]) -> tuple[str, str]:
    """In the first process: open a store for the processes of now, choose, and answer all others."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    for other in range(1, world_size()):
        store.delete_key(f"mnist_cls/asks/{other}")
    own = TCPStore(os.environ["MASTER_ADDR"], 0, is_master=True, wait_for_workers=False, multi_tenant=True)
    _shared["own"] = own
    port, folder = str(own.port), ""
    try:
        folder = choose()
    finally:
        for other in range(1, world_size()):
            name = store.get(f"mnist_cls/asks/{other}").decode()
            store.set(f"mnist_cls/answers/{name}", f"{port}:{folder}")
    return port, folder


def _ask(store: Any, rank: int) -> tuple[str, str]:
    """In the others: ask for the port of that store and for the folder, until there is an answer."""
    name, deadline = uuid.uuid4().hex, time.monotonic() + PATIENCE
    while not store.check([f"mnist_cls/answers/{name}"]):
        if time.monotonic() > deadline:
            raise InputError(f"process 0 of {world_size()} has not come within {PATIENCE:.0f} s")
        store.set(f"mnist_cls/asks/{rank}", name)
        time.sleep(0.05)
    port, _, folder = store.get(f"mnist_cls/answers/{name}").decode().partition(":")
    return port, folder


def should_report_error() -> bool:
    """Whether it is for this process to say what has gone wrong: the first one that it went wrong for on its host.

    What is wrong for one is, as a rule, wrong for all, or they lose the one that it is wrong for.
    """
    if "name" not in _shared:
        return is_first_here() or not launched()
    key = f"mnist_cls/said/{_shared['name']}/{os.environ.get('GROUP_RANK', 0)}"
    try:
        return bool(_shared["store"].add(key, 1) == 1)
    except RuntimeError:  # the host that serves the store is gone
        return True


def lost(error: BaseException) -> bool:
    """Whether an exception says that another process cannot be reached, or not any more."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:100]
