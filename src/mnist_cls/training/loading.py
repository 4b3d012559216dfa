"""`load_from_checkpoint` as in Lightning, but without executing or importing anything that a checkpoint names."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor

from ..checkpoints.build import build_on_meta, check_fit
from ..checkpoints.weights import NETWORK_PREFIX, Weights, read_checkpoint
from ..errors import InputError, shortened

if TYPE_CHECKING:
    from .datamodule import MNISTDataModule
    from .module import MNISTModule

Module = TypeVar("Module", bound="MNISTModule")
DataModule = TypeVar("DataModule", bound="MNISTDataModule")


def load_module(
    kind: type[Module],
    checkpoint: object,
    arguments: Mapping[str, Any],
    map_location: object = None,
    hparams_file: object = None,
    strict: bool | None = None,
) -> Module:
    """Create a module with the hyperparameters and the weights of a checkpoint.

    Args:
        kind: the module's class.
        checkpoint: a path or a name that `find_checkpoint` finds.
        arguments: arguments that replace those in the checkpoint.
        map_location: device of the module; None: the CPU.
        hparams_file: not supported; must be None.
        strict: whether the checkpoint must have exactly the module's weights; None: as the module's `strict_loading`.

    Raises:
        InputError: If the file cannot be read, is damaged, could run code, or does not fit; or if the saved module got
            its network as an object, and `arguments` has no `model`.
    """
    weights, content = _read(checkpoint, hparams_file)
    saved = _saved_arguments(kind, content, kind.CHECKPOINT_HYPER_PARAMS_KEY, weights)
    takes_model = "model" in inspect.signature(kind).parameters
    if takes_model and not weights.model and "model" not in arguments:
        raise InputError(
            f"{weights.path}: its network was passed as an object, which is not in the checkpoint; pass it again:"
            " load_from_checkpoint(..., model=NETWORK)"
        )
    if (takes_model or "model" in saved) and "model" not in arguments:
        check_fit(weights, build_on_meta(weights).state_dict())  # before forged options can allocate memory
        saved["model"] = weights.model
    module = kind(**{**saved, **arguments})
    state = content.get("state_dict") or {NETWORK_PREFIX + name: value for name, value in weights.state.items()}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    try:
        module.load_state_dict(tensors, strict=module.strict_loading if strict is None else strict)
    except RuntimeError as error:
        raise InputError(f"{weights.path}: does not fit: {shortened(' '.join(str(error).split()), 300)}") from error
    return module.to(map_location) if isinstance(map_location, (str, torch.device)) else module


def load_datamodule(
    kind: type[DataModule], checkpoint: object, arguments: Mapping[str, Any], hparams_file: object = None
) -> DataModule:
    """Create a DataModule with the arguments saved in a checkpoint, of which `arguments` replace some.

    Raises:
        InputError: If the file cannot be read, is damaged, could run code, or has no arguments of a DataModule.
    """
    weights, content = _read(checkpoint, hparams_file)
    key = kind.CHECKPOINT_HYPER_PARAMS_KEY
    if key not in content:
        raise InputError(f"{weights.path}: holds no {key}; expected a .ckpt of a training with a DataModule")
    return kind(**{**_saved_arguments(kind, content, key, weights), **arguments})


def refuse_on_instances(loaded: object) -> None:
    """Make `load_from_checkpoint()` fail on this instance, as in Lightning: it would return a new object instead."""
    vars(loaded)["load_from_checkpoint"] = _refuse


def _refuse(*args: object, **kwargs: object) -> NoReturn:
    raise InputError("load_from_checkpoint returns a new object: call it on the class, and use what it returns")


def _read(checkpoint: object, hparams_file: object) -> tuple[Weights, dict[str, Any]]:
    if not isinstance(checkpoint, (str, Path)):
        raise InputError(f"load_from_checkpoint: the checkpoint is a {type(checkpoint).__name__}; expected its path")
    if hparams_file is not None:
        raise InputError("load_from_checkpoint: hparams_file is not supported; pass hyperparameters as arguments")
    return read_checkpoint(checkpoint)


def _saved_arguments(kind: type, content: Mapping[str, Any], key: str, weights: Weights) -> dict[str, Any]:
    """Return the hyperparameters in a checkpoint that a class takes as arguments."""
    saved = content.get(key) or {}
    if not isinstance(saved, dict):
        raise InputError(f"{weights.path}: its {key} is a {type(saved).__name__}; expected a dict of names and values")
    # Nothing else is read: Lightning would import what a hyperparameter called `_instantiator` names.
    parameters = inspect.signature(kind).parameters
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return {name: value for name, value in saved.items() if takes_all or name in parameters}
