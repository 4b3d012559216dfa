"""Hyperparameters: checked, and converted to the plain values that a checkpoint may hold."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError, shortened
from ..models.registry import create_model


def plain(name: str, value: object) -> Any:
    """Convert a value to what a checkpoint may hold: numbers, text, None, and lists, tuples and dicts of these.

    Raises:
        InputError: If the value is, or contains, anything else. The message calls it `name`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, Integral):  # NumPy's, too
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, Sequence):
        items = [plain(f"{name}[{index}]", item) for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise InputError(
        f"{name} is a {shortened(type(value).__name__)}: expected numbers, text, and lists or dicts of them,"
        " which a checkpoint can hold without code"
    )


def network_of(model: object) -> tuple[dict[str, Any], nn.Module]:
    """Return a network's name and options, and the network itself.

    Args:
        model: see `MNISTModule`. A network object is returned with an empty dict.

    Raises:
        InputError: If there is no such network, or its options are not plain values.
    """
    if isinstance(model, nn.Module):
        return {}, model
    if not isinstance(model, (str, Mapping)):
        found = model.__name__ if isinstance(model, type) else f"a {type(model).__name__}"
        raise InputError(f"model is {found}: expected a network, its name, or a dict of its name and options")
    config: dict[str, Any] = plain("model", {"name": model} if isinstance(model, str) else model)
    if "name" not in config:
        raise InputError(f"model={config}: expected a name, as in {{'name': 'mlp', ...}}")
    try:
        return config, create_model(**config)
    except ValueError as error:
        raise InputError(f"model: {error}") from error


def check_options(
    network: nn.Module, optimizer: object, scheduler: object, label_smoothing: object, compile: object, lr: object
) -> None:
    """Raise an `InputError` if an argument of `MNISTModule` has a wrong type or is out of range."""
    for name, factory in (("optimizer", optimizer), ("scheduler", scheduler)):
        if factory is not None and not callable(factory):
            example = "functools.partial(torch.optim.AdamW, lr=1e-3)"
            found = type(factory).__name__
            raise InputError(f"{name} is a {found}: expected a function that creates one, such as {example}")
    check_number("label_smoothing", label_smoothing, 0, 1)
    if label_smoothing and hasattr(network, "loss"):
        raise InputError(f"label_smoothing={label_smoothing}: {type(network).__name__} has a loss of its own")
    if lr is not None:
        check_number("lr", lr, 0)
    if not (compile is None or isinstance(compile, str)):
        raise InputError(f"compile={shortened(compile)}: expected a mode of torch.compile, such as 'default', or None")


def check_number(name: str, value: object, low: float, high: float = float("inf")) -> None:
    """Raise an `InputError` unless a value is a number, at least `low` and below `high`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) < high:
        upper = "" if high == float("inf") else f" and below {high:g}"
        raise InputError(f"{name}={shortened(value)}: expected a number, at least {low:g}{upper}")
