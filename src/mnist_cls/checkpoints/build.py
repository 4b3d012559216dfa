"""Weights in files: found by a path or a name, read without running any code, checked against their network."""

import inspect
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..errors import InputError, shortened
from ..images import CLASSES, SIZE
from ..models.average import Average
from ..models.registry import create_model, list_models, register_file
from .find import Checkpoint, each
from .weights import Weights, read_weights


def load_model(checkpoint: Checkpoint = None, shifts: int = 0) -> nn.Module:
    """Build the network of a checkpoint, with its weights, ready to predict.

    Args:
        checkpoint: see `find_checkpoint`; left out, the weights that the package carries. Of several the probabilities
            are averaged.
        shifts: average, too, over the image moved by up to so many pixels in each direction, see `Average`.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        InputError: a checkpoint cannot be read, its weights do not fit its network, or what is to be averaged gives
            no logits.
    """
    return build_all([read_weights(one) for one in each(checkpoint)], shifts)


def build_all(weights: Sequence[Weights], shifts: int = 0) -> nn.Module:
    """Build the network that `weights` are of, or the average of several, see `load_model`."""
    networks = [build(one) for one in weights]
    if len(networks) == 1 and not shifts:
        return networks[0]
    for one, network in zip(weights, networks, strict=True):
        with torch.no_grad():
            given = network(torch.zeros(2, 1, SIZE, SIZE))
        if not isinstance(given, Tensor) or given.shape != (2, CLASSES):
            raise InputError(f"{one.path}: gives no ten logits for each image, so no probabilities to be averaged")
    try:
        return Average(networks, shifts).eval()
    except ValueError as error:
        raise InputError(f"checkpoint and shifts: {error}") from error


def load_user_models(file: str | Path | None) -> list[str]:
    """Make the networks in a Python file of the user's own known by their names, and return these; None does nothing.

    Raises:
        InputError: the file is not there, fails, or registers no network.
    """
    try:
        return [] if file is None else register_file(file)
    except ValueError as error:
        raise InputError(f"model_file={error}") from error


def named_model(model: Mapping[str, Any], file: str | Path | None) -> dict[str, Any]:
    """The name and options of a network as the config has them, with the file's own network where no name is given.

    Raises:
        InputError: see `load_user_models`; or there is no name, and the file does not register exactly one network.
    """
    own = load_user_models(file)
    if model["name"] is not None:
        return dict(model)
    if len(own) != 1:
        found = f"{file} registers {', '.join(own)}" if own else "there is no model_file=FILE.py"
        raise InputError(f"model.name is missing: {found}; name the network with model.name=NAME")
    return {**model, "name": own[0]}


def build(weights: Weights) -> nn.Module:
    """Build the network that `weights` are of, see `load_model`."""
    check_fit(weights, build_on_meta(weights).state_dict())
    model = create_model(**weights.model)
    model.load_state_dict(weights.state)
    return model.eval()


class _TooManyError(Exception):
    """No ValueError, to which `create_model` would add all the options."""


def build_on_meta(weights: Weights) -> nn.Module:
    """The network that `weights` are of, on the meta device: it costs no memory, whatever sizes the file asks for.

    Raises:
        InputError: there is no such network, it does not take these options, or it has far more layers than the file.
    """
    check_known(weights)
    builder, most, count = threading.get_ident(), 10 * len(weights.state) + 100, 0

    def limit(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += threading.get_ident() == builder
        if count > most:
            raise _TooManyError(f"its options make more than {most} parameters, the file has {len(weights.state)}")

    watching = register_module_parameter_registration_hook(limit)
    try:
        with torch.device("meta"):
            return create_model(**weights.model)
    except Exception as error:  # whatever a network does with options that nobody checked
        raise InputError(f"{weights.path}: {shortened(error, 500)}") from error
    finally:
        watching.remove()


def forward_options(network: nn.Module, early_exit: bool) -> dict[str, bool]:
    """The further arguments that a network's `forward` gets.

    Raises:
        InputError: an early exit is wanted of a network that has none.
    """
    if early_exit and "early_exit" not in inspect.signature(network.forward).parameters:
        name = type(network).__name__
        raise InputError(f"early_exit=true: {name} has no early exit; model=conditional has one")
    return {"early_exit": True} if early_exit else {}


def check_known(weights: Weights) -> None:
    """Check that the network of a checkpoint has a name that is known here.

    Raises:
        InputError: it has not.
    """
    name = weights.model.get("name")
    if name not in list_models():
        raise InputError(
            f"{weights.path}: no model is called {shortened(repr(name))}; if it is a network of your own, name the file"
            f" that registers it: model_file=FILE.py; known models: {', '.join(list_models())}"
        )


def check_fit(weights: Weights, wanted: Mapping[str, Tensor]) -> None:
    """Check that each of the network's tensors is in the file, with its shape, and none besides.

    Raises:
        InputError: one is not; the line names the first.
    """
    name = weights.model.get("name")
    for key, tensor in wanted.items():
        if key not in weights.state:
            raise InputError(f"{weights.path}: does not fit the network {name!r}: {key} is missing")
        if weights.state[key].shape != tensor.shape:
            found, expected = tuple(weights.state[key].shape), tuple(tensor.shape)
            raise InputError(
                f"{weights.path}: does not fit the network {name!r}: {key} is {found}, expected {expected}"
            )
    if extra := sorted(set(weights.state) - set(wanted)):
        raise InputError(f"{weights.path}: does not fit the network {name!r}, which has no {shortened(extra[0])}")
