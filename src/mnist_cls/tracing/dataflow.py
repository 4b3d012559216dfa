"""Which operation computed a tensor: the edges of a forward pass."""

import weakref

from torch import Tensor

from .tensors import Region, region


class Dataflow:
    """Maps tensors to the steps of a forward pass that computed or changed them, without keeping them alive."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._writes: dict[int, list[tuple[Region, int]]] = {}

    def computed(self, tensor: Tensor, step: int, new: bool = False) -> None:
        """Record the step that returned a tensor; `new` if the step allocated its memory."""
        self._steps[id(tensor)] = weakref.ref(tensor), step
        if new:  # earlier writes there were to a tensor that has been freed
            self._writes.pop(region(tensor).storage, None)

    def written(self, where: Region, step: int) -> None:
        """Record the step that changed values in place, which changes all views of them."""
        self._writes.setdefault(where.storage, []).append((where, step))

    def step_of(self, tensor: Tensor) -> int | None:
        """Return the last step that computed or changed a tensor; None for tensors from outside the pass."""
        reference, step = self._steps.get(id(tensor), (None, None))
        steps = [] if step is None or reference is None or reference() is not tensor else [step]
        where = region(tensor)
        steps += [step for written, step in self._writes.get(where.storage, []) if written.overlaps(where)]
        return max(steps, default=None)
