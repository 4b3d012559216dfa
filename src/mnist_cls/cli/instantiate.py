"""Objects from configs."""

from collections.abc import Mapping
from typing import Any

import hydra.utils


def instantiate(config: Mapping[str, Any], **kwargs: Any) -> Any:
    """Call the `_target_` of a config with its other keys and `kwargs` as arguments, as `hydra.utils.instantiate` does.

    Args:
        config: with the dotted path of a class or a function under `_target_`.
        kwargs: override the config's keys; `_partial_=True` returns a `functools.partial` instead of calling.

    Raises:
        hydra.errors.InstantiationException: If the target does not exist or refuses its arguments.
    """
    return hydra.utils.instantiate(config, **kwargs)
