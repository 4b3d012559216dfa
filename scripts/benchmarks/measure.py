"""How measurements are taken, in fresh processes and in turns, and how they are printed."""

import gc
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
Key = TypeVar("Key")
Result = TypeVar("Result")


def fresh(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a new process, free of the memory, threads and compiled code of other measurements."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_without_imports_in_the_way, function, *arguments).result()


def _without_imports_in_the_way(function: Callable[..., Result], *arguments: Any) -> Result:
    # The garbage collector would traverse everything that this process has imported, which differs between variants: a
    # plain loop over a DataLoader takes a third longer with Lightning imported.
    gc.freeze()
    return function(*arguments)


def in_turns(variants: Mapping[Key, Callable[[], Result]], rounds: int) -> dict[Key, list[Result]]:
    """Run each variant once per round, so that a temporary slowdown of the machine affects all of them.

    Returns:
        The results of each variant, one per round.
    """
    results: dict[Key, list[Result]] = {name: [] for name in variants}
    for number in range(rounds):
        for name, run in variants.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            results[name].append(run())
    return results


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """Return the result of a call, and its seconds."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def median_seconds(function: Callable[[], object], calls: int, warm_up: int = 3) -> float:
    """Median time of a call, after some calls that are not counted."""
    return statistics.median([timed(function)[1] for _ in range(warm_up + calls)][warm_up:])


def median(values: Sequence[float], digits: int = 2) -> float:
    """The median, rounded for a table."""
    return round(statistics.median(values), digits)


def peak_memory() -> float:
    """Peak resident memory of this process or of its largest child, in MB."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # On Linux, getrusage() includes the parent's memory from before exec; VmHWM does not.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    own = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
    return max(own, children) / (1e6 if sys.platform == "darwin" else 1e3)


def print_table(rows: list[Row], title: str | None = None) -> None:
    """Print rows under the columns that any of them has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(*columns, box=None, pad_edge=False, title=title, title_justify="left")
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        table.add_row(*(f"{cell:,}" if isinstance(cell, (int, float)) else cell for cell in cells))
    Console(width=160).print(table)
