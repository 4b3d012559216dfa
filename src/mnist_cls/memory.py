"""Memory: freed memory kept for the next batch; and when it runs out, how to tell, and how large a batch fits."""

import ctypes
import os
import re
import sys

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
