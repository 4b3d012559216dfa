"""How something is measured: in a process of its own, in turns with what it is compared with."""

import multiprocessing
import resource
import statistics
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

Row = dict[str, float | str]
Key = TypeVar("Key")
Result = TypeVar("Result")


def fresh(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a new process: no memory, thread or compiled code of another measurement is there."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def in_turns(ways: Mapping[Key, Callable[[], Result]], rounds: int) -> dict[Key, list[Result]]:
    """Do each once a round, one after another, so that what slows the machine for a while slows all of them.

    Returns:
        For each way its results, one a round.
    """
    results: dict[Key, list[Result]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            results[name].append(way())
    return results


def median(values: list[float], digits: int = 2) -> float:
    """The median, rounded for a table."""
    return round(statistics.median(values), digits)


def peak_memory() -> float:
    """The most memory that this process has had, in MB, or the largest of its children, if that is more."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # Linux's own getrusage() counts what the parent had before this program began; its VmHWM does not.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    own = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
    return max(own, children) / (1e6 if sys.platform == "darwin" else 1e3)
