"""Memory: reuse freed memory for the next batch, recognize out-of-memory errors, import without collecting garbage."""

import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Options of glibc's mallopt(3): the number in malloc.h, our value in bytes, and the environment variable that sets it.
_GLIBC = (
    (-3, 1 << 25, "MALLOC_MMAP_THRESHOLD_"),  # M_MMAP_THRESHOLD: larger blocks are not kept
    (-1, 1 << 28, "MALLOC_TRIM_THRESHOLD_"),  # M_TRIM_THRESHOLD: more freed memory than this is not kept
)


def keep_freed_memory() -> None:
    """Let glibc keep up to 256 MiB of freed memory for the next allocations of this process. Do nothing elsewhere.

    By default glibc returns each larger block to the kernel and requests it again for the next batch; the kernel then
    fills every page with zeros. For small networks that can take as long as the computation (docs/benchmarks.md).
    The user's own `GLIBC_TUNABLES`, `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_` take precedence.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl, for one, has none
    for option, value, variable in _GLIBC:
        if mallopt is not None and variable not in os.environ:
            mallopt(option, value)


@contextmanager
def importing() -> Iterator[None]:
    """Exclude everything that the block imports from garbage collection, now and later.

    Imported modules live until the process ends. Scanning them for garbage takes a third of the time that a command
    needs to import PyTorch and Lightning and exit.
    """
    if gc.get_freeze_count():  # frozen by an earlier job of a sweep, whose trainer would never be freed
        gc.unfreeze()
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def out_of_memory(error: BaseException) -> str | None:
    """Return the size of the allocation that failed, such as "2.00 GiB", or None if the error has another cause."""
    message = str(error)
    torch = sys.modules.get("torch")  # not imported here: without PyTorch, none of its errors can occur
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    # PyTorch has no type of its own for the CPU's memory.
    if not isinstance(error, kinds) and "can't allocate memory" not in message:
        return None
    size = re.search(r"allocate ([\d.]+) (\w+)", message)
    if size is None:
        return "more than there is"
    return f"{int(size[1]) / 2**30:.2f} GiB" if size[2] == "bytes" else f"{size[1]} {size[2]}"
