"""Hyperparameters: checked, kept in checkpoints as plain values under Lightning's keys, and read without imports."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from ..errors import InputError, shortened
from ..models.registry import create_model


def plain(name: str, value: object) -> Any:
    """Convert a value to what a checkpoint may hold: numbers, text, None, and lists, tuples and dicts of these.

    Raises:
        InputError: If it is, or holds, anything else; it is called `name`.
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
    """Return a network's name and options, and the network; a network that was given has neither.

    Raises:
        InputError: If there is no such network, or its options are no plain values.
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


def check_options(optimizer: object, scheduler: object, label_smoothing: object, compile: object, lr: object) -> None:
    """Raise an `InputError` if an argument of the module is of a wrong type, or out of range."""
    for name, factory in (("optimizer", optimizer), ("scheduler", scheduler)):
        if factory is not None and not callable(factory):
            example = "functools.partial(torch.optim.AdamW, lr=1e-3)"
            raise InputError(f"{name} is a {type(factory).__name__}: expected what creates one, such as {example}")
    check_number("label_smoothing", label_smoothing, 0, 1)
    if lr is not None:
        check_number("lr", lr, 0)
    if not (compile is None or isinstance(compile, str)):
        raise InputError(f"compile={shortened(compile)}: expected a mode of torch.compile, such as 'default', or None")


def check_number(name: str, value: object, low: float, high: float = float("inf")) -> None:
    """Raise an `InputError` if a value is no number from `low` to below `high`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) < high:
        upper = "" if high == float("inf") else f" and below {high:g}"
        raise InputError(f"{name}={shortened(value)}: expected a number, at least {low:g}{upper}")


def described(factory: Any) -> str:
    """Describe a function with its options, for a logger: `AdamW(lr=0.001)`."""
    if not isinstance(factory, functools.partial):
        return str(getattr(factory, "__name__", type(factory).__name__))
    options = ", ".join([*map(str, factory.args), *(f"{key}={value}" for key, value in factory.keywords.items())])
    return f"{described(factory.func)}({options})"


def refuse_on_instances(loaded: object) -> None:
    """Let `loaded.load_from_checkpoint()` fail, as Lightning does: it would return another object, and change none."""
    vars(loaded)["load_from_checkpoint"] = _refuse


def _refuse(*args: object, **kwargs: object) -> NoReturn:
    raise InputError("load_from_checkpoint returns a new object: call it on the class, and keep what it returns")


def saved_arguments(kind: type, content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    """Return those of a checkpoint's hyperparameters that a class takes as arguments.

    Nothing else is looked at: Lightning would import what a hyperparameter called `_instantiator` names.

    Args:
        kind: the LightningModule or LightningDataModule.
        content: of the checkpoint, as `read_ckpt` returns it.
        key: the hyperparameters' key, which is Lightning's.
        path: the file, for messages.

    Raises:
        InputError: If they are not names with values.
    """
    saved = content.get(key) or {}
    if not isinstance(saved, dict):
        raise InputError(f"{path}: its {key} is a {type(saved).__name__}; expected names with values")
    known = argument_names(kind)
    return {name: value for name, value in saved.items() if name in known}


def argument_names(kind: type) -> set[str]:
    """Return the names of a constructor's arguments, and of those it passes on as `**kwargs`."""
    names: set[str] = set()
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return names - {"self"}
