"""Lightning's `load_from_checkpoint`, which executes and imports nothing that a checkpoint names."""

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
        arguments: replace those in the checkpoint.
        map_location: device of the module; None: the CPU.
        hparams_file: not supported.
        strict: whether the names of all weights must be those of the module; None: its `strict_loading` decides.

    Raises:
        InputError: If the file cannot be read, is damaged, could run code, or does not fit; or if its network was given
            as an object, and is not among the arguments.
    """
    weights, content = _read(checkpoint, hparams_file)
    saved = _saved_arguments(kind, content, kind.CHECKPOINT_HYPER_PARAMS_KEY, weights)
    takes_model = "model" in inspect.signature(kind).parameters
    if takes_model and not weights.model and "model" not in arguments:
        raise InputError(
            f"{weights.path}: its network was given as an object, which is not in the checkpoint; give it again:"
            " load_from_checkpoint(..., model=NETWORK)"
        )
    if (takes_model or "model" in saved) and "model" not in arguments:
        check_fit(weights, build_on_meta(weights).state_dict())  # before its options can take any memory
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
    """Create a DataModule with the arguments of the one that a checkpoint's training had, or with others instead.

    Raises:
        InputError: If the file cannot be read, is damaged, could run code, or has no such arguments.
    """
    weights, content = _read(checkpoint, hparams_file)
    key = kind.CHECKPOINT_HYPER_PARAMS_KEY
    if key not in content:
        raise InputError(f"{weights.path}: holds no {key}; expected a .ckpt of a training with a DataModule")
    return kind(**{**_saved_arguments(kind, content, key, weights), **arguments})


def refuse_on_instances(loaded: object) -> None:
    """Let `loaded.load_from_checkpoint()` fail, as in Lightning: it would return another object, and change none."""
    vars(loaded)["load_from_checkpoint"] = _refuse


def _refuse(*args: object, **kwargs: object) -> NoReturn:
    raise InputError("load_from_checkpoint returns a new object: call it on the class, and keep what it returns")


def _read(checkpoint: object, hparams_file: object) -> tuple[Weights, dict[str, Any]]:
    if not isinstance(checkpoint, (str, Path)) or hparams_file is not None:
        raise InputError("load_from_checkpoint: expected a checkpoint's path, and hyperparameters as arguments")
    return read_checkpoint(checkpoint)


def _saved_arguments(kind: type, content: Mapping[str, Any], key: str, weights: Weights) -> dict[str, Any]:
    """Return those of a checkpoint's hyperparameters that a class takes as arguments."""
    saved = content.get(key) or {}
    if not isinstance(saved, dict):
        raise InputError(f"{weights.path}: its {key} is a {type(saved).__name__}; expected names with values")
    # Nothing else is looked at: Lightning would import what a hyperparameter called `_instantiator` names.
    parameters = inspect.signature(kind).parameters
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return {name: value for name, value in saved.items() if takes_all or name in parameters}
