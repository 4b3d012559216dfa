"""Which operation computed a tensor: the edges of a forward pass."""

import weakref

from torch import Tensor

from .tensors import Region, region


class Dataflow:
    """Steps of a forward pass by the tensors that they computed.

    It keeps no tensor alive.
    """

    def __init__(self) -> None:
        self._steps: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._writes: dict[int, list[tuple[Region, int]]] = {}

    def computed(self, tensor: Tensor, step: int, new: bool = False) -> None:
        """Note the step that returned a tensor; `new` if the step allocated its memory."""
        self._steps[id(tensor)] = weakref.ref(tensor), step
        if new:  # memory of a tensor that is gone
            self._writes.pop(region(tensor).storage, None)

    def written(self, where: Region, step: int) -> None:
        """Note the step that changed values in place. Other views of the same values show the change."""
        self._writes.setdefault(where.storage, []).append((where, step))

    def step_of(self, tensor: Tensor) -> int | None:
        """Return the last step that computed or changed a tensor; None for tensors from outside the pass."""
        reference, step = self._steps.get(id(tensor), (None, None))
        steps = [] if step is None or reference is None or reference() is not tensor else [step]
        where = region(tensor)
        steps += [step for written, step in self._writes.get(where.storage, []) if written.overlaps(where)]
        return max(steps, default=None)
