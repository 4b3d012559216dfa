"""What a wrong shape looks like: which layer it stopped at, what came, what that layer wants, and the usual cause."""

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor, nn

Result = TypeVar("Result")

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS: dict[type[nn.Module], int] = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}
_SIDES = ("", "L", "H, W", "D, H, W")


class ShapeError(ValueError):
    """A tensor of the wrong shape came to a layer."""


def explain_shapes(forward: Callable[..., Result]) -> Callable[..., Result]:
    """Make a network's `forward` say what is wrong where the shape of its input does not fit its layers.

    While nothing fails it does nothing.

    Args:
        forward: the method, of a class.
    """

    @functools.wraps(forward)
    def explained(network: nn.Module, *args: Any, **kwargs: Any) -> Result:
        try:
            return forward(network, *args, **kwargs)
        except ShapeError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            message = _explain(network, given, error.__traceback__)
            if message is None:
                raise
            raise ShapeError(message) from error

    return explained


def _explain(network: nn.Module, given: Tensor | None, traceback: TracebackType | None) -> str | None:
    """One line about the layer at which `traceback` ends, or None if the shape that came to it was all right."""
    names = {id(layer): name for name, layer in network.named_modules()}
    found = None
    while traceback is not None:
        variables = traceback.tb_frame.f_locals
        arguments = traceback.tb_frame.f_code.co_varnames[:2]
        layer, came = (variables.get(name) for name in arguments) if len(arguments) == 2 else (None, None)
        if isinstance(layer, nn.Module) and names.get(id(layer)) and isinstance(came, Tensor):
            found = layer, came
        traceback = traceback.tb_next
    if found is None:
        if given is not None and given.ndim < 2:
            return (
                f"{type(network).__name__} got {tuple(given.shape)}, which has no batch dimension; use x.unsqueeze(0)"
            )
        return None
    layer, came = found
    wanted = _wanted(layer)
    if wanted is None or _fits(layer, came):
        return None
    name, kind, cause = names[id(layer)], type(layer).__name__, _cause(layer, came, given)
    return f"{type(network).__name__}: {name} ({kind}) got {tuple(came.shape)}, it wants {wanted}: {cause}"


def _wanted(layer: nn.Module) -> str | None:
    if isinstance(layer, nn.Linear):
        return f"(B, {layer.in_features})"
    if isinstance(layer, _CONVOLUTIONS):
        return f"(B, {layer.in_channels}, {_SIDES[len(layer.kernel_size)]})"
    if isinstance(layer, nn.BatchNorm1d):
        return f"(B, {layer.num_features}) or (B, {layer.num_features}, L)"
    if type(layer) in _NORMS:
        return f"(B, {layer.num_features}, {_SIDES[_NORMS[type(layer)]]})"
    return None


def _fits(layer: nn.Module, came: Tensor) -> bool:
    if isinstance(layer, nn.Linear):
        return came.ndim > 0 and came.shape[-1] == layer.in_features
    sides = len(layer.kernel_size) if isinstance(layer, _CONVOLUTIONS) else _NORMS[type(layer)]
    channels = layer.in_channels if isinstance(layer, _CONVOLUTIONS) else layer.num_features
    flat = isinstance(layer, nn.BatchNorm1d) and came.ndim == 2
    return (came.ndim == sides + 2 or flat) and came.shape[1] == channels


def _cause(layer: nn.Module, came: Tensor, given: Tensor | None) -> str:
    if isinstance(layer, nn.Linear) and came.ndim > 1 and came[:1].numel() == layer.in_features:
        return "it was not flattened; use x.flatten(1)"
    shape = () if given is None else tuple(given.shape)
    start = f"the input {shape}"
    images = shape[-2:] == (28, 28)
    if images and len(shape) == 2:
        return f"{start} has neither batch nor channel dimension; use x[None, None]"
    if images and len(shape) == 3 and shape[0] == 1:
        return f"{start} has no batch dimension; use x.unsqueeze(0)"
    if images and len(shape) == 3:
        return f"{start} has no channel dimension; use x.unsqueeze(1)"
    if len(shape) == 4 and shape[1:3] == (28, 28):
        return f"{start} has its channels last; use x.permute(0, 3, 1, 2)"
    if images and len(shape) == 4 and shape[1] == 3:
        return f"{start} has three colours; use x.mean(1, keepdim=True)"
    if shape[1:] == (784,):
        return f"{start} is flattened; use x.view(-1, 1, 28, 28)"
    if len(shape) == 4 and shape[1] == 1 and not images:
        return f"{start} has images of {shape[-2]}x{shape[-1]} pixels, not 28x28; scale them"
    if len(shape) == 4 and shape[1] == 1:
        return f"{start} is right; the layer before gives another shape than this one takes"
    return f"{start} is not what the networks here take: grey images (B, 1, 28, 28)"
