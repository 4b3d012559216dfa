"""Errors for wrong shapes: they name the layer, the shape it got, the shape it expects, and the usual cause."""

import functools
from collections.abc import Callable
from traceback import walk_tb
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# By the number of spatial dimensions.
_SPATIAL = ("", "L", "H, W", "D, H, W")


class ShapeError(ValueError):
    """A layer got a tensor of the wrong shape."""


class _Explaining(nn.Module):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except ShapeError:  # of a network inside this one
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            message = _explain(self, x, error.__traceback__)
            if message is None:
                raise
            raise ShapeError(message) from error

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # pickle cannot import the subclass made below, so it gets the network's own class.
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *state = reduced
        args = (type(self).__bases__[-1] if value is type(self) else value for value in args)
        return _remake, (make, *args), *state


def explain_shapes(network: nn.Module) -> nn.Module:
    """Make a network raise a `ShapeError` if its input has a shape that does not fit one of its layers; return it.

    The network object gets a subclass of its class, as in `torch.nn.utils.parametrize`. The class itself and `forward`
    are unchanged, so that `torch.jit.script`, `torch.compile` and `torch.export` work as usual.
    """
    own: Any = type(network)
    if not isinstance(network, (_Explaining, torch.jit.ScriptModule)):
        network.__class__ = _explaining(own)
    return network


@functools.cache
def _explaining(network: type[nn.Module]) -> type[nn.Module]:
    names = {name: getattr(network, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(network.__name__, (_Explaining, network), names)


def _remake(make: Callable[..., nn.Module], *args: Any) -> nn.Module:
    return explain_shapes(make(*args))


def _explain(network: nn.Module, x: Tensor | None, traceback: TracebackType | None) -> str | None:
    """Explain why a shape does not fit the layer in which `traceback` ends; return None if it fits."""
    names = {id(layer): name for name, layer in network.named_modules()}
    found: tuple[nn.Module, Tensor] | None = None
    for frame, _ in walk_tb(traceback):
        # A layer's `forward`: its first two arguments are the layer and a tensor.
        match [frame.f_locals.get(name) for name in frame.f_code.co_varnames[:2]]:
            case [nn.Module() as layer, Tensor() as got] if names.get(id(layer)):
                found = layer, got
    if found is None:
        if x is None or x.ndim >= 2:
            return None
        return f"{type(network).__name__} got {tuple(x.shape)}, which has no batch dimension; use x.unsqueeze(0)"
    layer, got = found
    expected = _expected(layer, got)
    if expected is None:
        return None
    name = f"{type(network).__name__}: {names[id(layer)]} ({type(layer).__name__})"
    return f"{name} got {tuple(got.shape)}, expected {expected}: {_cause(layer, got, x)}"


def _expected(layer: nn.Module, got: Tensor) -> str | None:
    """Return the shape that a layer expects; None if `got` has it, or if this kind of layer is not known."""
    if isinstance(layer, nn.Linear):
        return None if got.shape[-1:] == (layer.in_features,) else f"(B, {layer.in_features})"
    if isinstance(layer, _CONVOLUTIONS):
        channels, spatial = layer.in_channels, len(layer.kernel_size)
    elif isinstance(layer, _NORMS):
        spatial = next(number for number, norm in enumerate(_NORMS, 1) if isinstance(layer, norm))
        channels = layer.num_features
    else:
        return None
    vectors = isinstance(layer, nn.BatchNorm1d)  # or sequences of them
    if got.shape[1:2] == (channels,) and (got.ndim == spatial + 2 or (vectors and got.ndim == 2)):
        return None
    return f"{f'(B, {channels}) or ' if vectors else ''}(B, {channels}, {_SPATIAL[spatial]})"


def _cause(layer: nn.Module, got: Tensor, x: Tensor | None) -> str:
    if isinstance(layer, nn.Linear) and got.ndim > 1 and got[:1].numel() == layer.in_features:
        return "it was not flattened; use x.flatten(1)"
    shape = () if x is None else tuple(x.shape)
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
        return f"{start} has three colour channels; use x.mean(1, keepdim=True)"
    if shape[1:] == (784,):
        return f"{start} is flattened; use x.view(-1, 1, 28, 28)"
    if len(shape) == 4 and shape[1] == 1 and not images:
        return f"{start} has images of {shape[-2]}x{shape[-1]} pixels; scale them to 28x28"
    if len(shape) == 4 and shape[1] == 1:
        return f"{start} is correct; the layer before this one outputs another shape"
    return f"{start} does not fit; the networks take grey images (B, 1, 28, 28)"
