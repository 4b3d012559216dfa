"""Create objects from configs. Nothing outside `cli` imports Hydra, so others call this."""

from typing import Any

import hydra.utils
from hydra.errors import InstantiationException

from ..errors import InputError
from . import hydra_versions


def instantiate(key: str, config: Any) -> Any:
    """Return the class named by `_target_` with its arguments, as a `functools.partial`.

    Args:
        key: the config's key, for error messages.
        config: the class in `_target_`, and its arguments. Arguments with a `_target_` of their own are created.

    Raises:
        InputError: If there is no such class, or one of its arguments cannot be created.
    """
    try:
        return hydra.utils.instantiate(config, _partial_=True, _convert_="all", **hydra_versions.INSTANTIATE)
    except Exception as error:  # Hydra 1.4 does not wrap what the class of an argument raises
        cause = error.__cause__ if isinstance(error, InstantiationException) else None
        reason = " ".join(str(cause or error).split())
        raise InputError(f"{key}._target_={config['_target_']}: {reason}") from error
