"""Memory: freed memory kept for the next batch; and when it runs out, how to tell, and how large a batch fits."""

from collections.abc import Callable

from ..memory import out_of_memory


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
