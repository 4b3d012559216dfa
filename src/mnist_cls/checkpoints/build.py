"""Build the network of a checkpoint."""

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
    """Load the network of a checkpoint, ready to predict.

    Args:
        checkpoint: One or several, see `find_checkpoint`; by default the packaged weights. The probabilities of several
            are averaged.
        shifts: Also average over each image moved by up to this many pixels, see `Average`.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        InputError: If a checkpoint cannot be read, if its weights do not fit its network, or if a network to average
            does not return logits.
    """
    return build_all([read_weights(one) for one in each(checkpoint)], shifts)


def build_all(weights: Sequence[Weights], shifts: int = 0) -> nn.Module:
    """Build a network with its weights, or the average of several, see `load_model`."""
    networks = [build(one) for one in weights]
    if len(networks) == 1 and not shifts:
        return networks[0]
    for one, network in zip(weights, networks, strict=True):
        if not computes_logits(network):
            raise InputError(f"{one.path}: its network does not return logits (B, 10), so it cannot be averaged")
    try:
        return Average(networks, shifts).eval()
    except ValueError as error:
        raise InputError(f"checkpoint and shifts: {error}") from error


@torch.no_grad()
def computes_logits(network: nn.Module) -> bool:
    """Return whether a network computes logits (B, 10), by running a forward pass."""
    logits = network(torch.zeros(2, 1, SIZE, SIZE))
    return isinstance(logits, Tensor) and logits.shape == (2, CLASSES)


def build(weights: Weights) -> nn.Module:
    """Build a network with its weights, see `load_model`."""
    check_fit(weights, build_on_meta(weights).state_dict())
    model = create_model(**weights.model)
    model.load_state_dict(weights.state)
    return model.eval()


def build_on_meta(weights: Weights) -> nn.Module:
    """Build a network on the meta device, where its tensors take no memory, whatever sizes the file asks for.

    Raises:
        InputError: If there is no such network, if it does not take these options, or if it has far more parameter
            tensors than the file.
    """
    check_known(weights)
    thread, most, count = threading.get_ident(), 10 * len(weights.state) + 100, 0

    # Each module takes memory and time, even on the meta device, and a forged file could ask for millions.
    def limit(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > most:
            raise RuntimeError(f"its options ask for more than {most} tensors, but the file has {len(weights.state)}")

    hook = register_module_parameter_registration_hook(limit)
    try:
        with torch.device("meta"):
            return create_model(**weights.model)
    except Exception as error:  # a network may raise anything when its options come from a forged file
        raise InputError(f"{weights.path}: {shortened(error, 500)}") from error
    finally:
        hook.remove()


def check_known(weights: Weights) -> None:
    """Raise an `InputError` if the network of a checkpoint is not registered."""
    name = weights.model.get("name")
    if name not in list_models():
        raise InputError(
            f"{weights.path}: no model is called {shortened(repr(name))}; for a network of your own, name the file that"
            f" registers it: model_file=FILE.py; known models: {', '.join(list_models())}"
        )


def check_fit(weights: Weights, expected: Mapping[str, Tensor]) -> None:
    """Raise an `InputError` at the first difference between the names and shapes of a checkpoint and of its network."""
    start = f"{weights.path}: does not fit the network {weights.model.get('name')!r}"
    for key, tensor in expected.items():
        if key not in weights.state:
            raise InputError(f"{start}: {key} is missing")
        if weights.state[key].shape != tensor.shape:
            shapes = f"{tuple(weights.state[key].shape)}, expected {tuple(tensor.shape)}"
            raise InputError(f"{start}: {key} is {shapes}")
    if extra := sorted(weights.state.keys() - expected.keys()):
        raise InputError(f"{start}, which has no {shortened(extra[0])}")


def forward_options(network: nn.Module, early_exit: bool) -> dict[str, bool]:
    """Return the options for a network's `forward`; raise an `InputError` if it has no early exit to switch on."""
    if early_exit and "early_exit" not in inspect.signature(network.forward).parameters:
        name = type(network).__name__
        raise InputError(f"early_exit=true: {name} has no early exit; model=conditional has one")
    return {"early_exit": True} if early_exit else {}


def load_user_models(file: str | Path | None) -> list[str]:
    """Register the networks in a user's Python file, if there is one, and return their names.

    Raises:
        InputError: If the file does not exist, raises an exception, or registers no network.
    """
    try:
        return [] if file is None else register_file(file)
    except ValueError as error:
        raise InputError(f"model_file={error}") from error


def named_model(model: Mapping[str, Any], file: str | Path | None) -> dict[str, Any]:
    """Return a network's name and options. If the name is None, it is taken from the user's file.

    Args:
        model: The network's name, or None, and its options, as `create_model(**model)` takes them.
        file: A Python file that registers one network; None if there is none.

    Raises:
        InputError: See `load_user_models`; or if the name is None, and the file does not register exactly one network.
    """
    own = load_user_models(file)
    if model["name"] is not None:
        return dict(model)
    if len(own) != 1:
        found = f"{file} registers {', '.join(own)}" if own else "there is no model_file=FILE.py"
        raise InputError(f"model.name is missing: {found}; name the network with model.name=NAME")
    return {**model, "name": own[0]}
