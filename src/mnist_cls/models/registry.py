"""Networks by name: a checkpoint holds a name and plain options, never code.

The names and the idea are those of timm's `create_model`, `list_models` and `register_model`.
"""

import difflib
import inspect
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from .image_classifier import ImageClassifier
from .mlp import MLP

Network = TypeVar("Network", bound=type[nn.Module])

_MODELS: dict[str, type[nn.Module]] = {"image_classifier": ImageClassifier, "mlp": MLP}


def register_model(name: str) -> Callable[[Network], Network]:
    """Make a network of your own known under `name`, for configs, checkpoints and `create_model`.

    Example::

        @register_model("my_network")
        class MyNetwork(nn.Module): ...

    Raises:
        ValueError: another network has that name already.
    """

    def register(network: Network) -> Network:
        known = _MODELS.setdefault(name, network)
        # The same class defined again (a notebook cell run twice) replaces itself.
        if (known.__module__, known.__qualname__) != (network.__module__, network.__qualname__):
            raise ValueError(f"the model name {name!r} is taken by {known.__module__}.{known.__qualname__}")
        _MODELS[name] = network
        return network

    return register


def list_models() -> list[str]:
    """The names that `create_model` knows, sorted."""
    return sorted(_MODELS)


def create_model(name: str, **options: object) -> nn.Module:
    """Build the network `name` with fresh random weights.

    Args:
        name: one of `list_models()`.
        **options: the network's own options, such as `dropout=0.1` or `widths=(3, 4, 1)`.

    Returns:
        The network, in training mode, on the CPU, float32.

    Raises:
        ValueError: no network has that name, or it does not take those options.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(str(name), _MODELS, n=1, cutoff=0.4)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no model is called {name!r}; {meant}known models: {', '.join(list_models())}")
    network = _MODELS[name]
    parameters = inspect.signature(network).parameters
    known = list(parameters)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not takes_any and (unknown := sorted(set(options) - set(known))):
        raise ValueError(f"model {name!r} has no option {unknown[0]!r}; its options: {', '.join(known)}")
    try:
        return network(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model {name!r} with {options}: {error}") from error
