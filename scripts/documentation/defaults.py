"""Show a default such as `PredictOptions.shifts` as its value, in the signatures of the Python API.

An extension of griffe, with which mkdocstrings reads the code.
"""

from operator import attrgetter
from typing import Any

import griffe

from mnist_cls.checkpoints import find
from mnist_cls.cli import settings
from mnist_cls.inference import options

HOMES = {"BATCH_SIZE": settings, "DataSettings": settings, "DEFAULT_WEIGHTS": find, "PredictOptions": options}


class Defaults(griffe.Extension):
    """Replaces defaults that name a constant or a field in `HOMES` with its value."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Replace the defaults of a function's parameters."""
        for parameter in func.parameters:
            stated = str(parameter.default)
            if home := HOMES.get(stated.partition(".")[0]):
                parameter.default = repr(attrgetter(stated)(home))
