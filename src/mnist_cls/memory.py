"""Memory: freed memory kept for the next batch; and when it runs out, how to tell, and how large a batch fits."""

import ctypes
import os
import re
import sys
from collections.abc import Callable

import torch

# mallopt(3): the number of an option in glibc's malloc.h, the value that we set, and the variable that sets it.
_GLIBC = (
    (-3, 1 << 25, "MALLOC_MMAP_THRESHOLD_"),  # M_MMAP_THRESHOLD: larger blocks are not kept
    (-1, 1 << 28, "MALLOC_TRIM_THRESHOLD_"),  # M_TRIM_THRESHOLD
)


def keep_freed_memory() -> None:
    """Let glibc keep some 256 MiB of freed memory for what is allocated next, in this process; elsewhere do nothing.

    By default glibc gives each larger block back to the kernel, and takes it from there again for the next batch; the
    kernel then fills every page with zeros at its first touch. For networks as small as ours that can take as long as
    computing (docs/benchmarks.md). Whoever has set glibc's own variables, `GLIBC_TUNABLES`, `MALLOC_TRIM_THRESHOLD_` or
    `MALLOC_MMAP_THRESHOLD_`, is left alone.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl, for one, has none
    for option, value, variable in _GLIBC:
        if mallopt is not None and variable not in os.environ:
            mallopt(option, value)


def out_of_memory(error: BaseException) -> str | None:
    """What was asked for when memory ran out, such as "2.00 GiB"; None if the error is another one."""
    text = str(error)
    # On the CPU PyTorch has no type of its own for it.
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in text:
        return None
    asked = re.search(r"ried to allocate ([\d.]+) (\w+)", text)
    if asked is None:
        return "more than there is"
    return f"{int(asked[1]) / 2**30:.2f} GiB" if asked[2] == "bytes" else f"{asked[1]} {asked[2]}"


def largest_batch(try_batch: Callable[[int], None], most: int) -> int | None:
    """The largest batch that fits into memory and divides `most`, so that whole batches add up to it.

    Args:
        try_batch: does with a batch of that size what shall be possible; what it raises when memory runs out is caught.
        most: the largest that is wanted, at least 1.

    Returns:
        None if not even one image fits.
    """
    sizes = [size for size in range(1, most + 1) if most % size == 0]
    fitting, failing = -1, len(sizes)
    place = len(sizes) - 1  # as a rule all of it fits, and one trial is enough
    while failing - fitting > 1:
        try:
            try_batch(sizes[place])
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error) is None:
                raise
            failing = place
        else:
            fitting = place
        place = (fitting + failing) // 2
    return sizes[fitting] if fitting >= 0 else None
