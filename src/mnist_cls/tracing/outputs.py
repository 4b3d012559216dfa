"""The logits in a network's output, and the pixels that they depend on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .recorder import unchanged


def heads(output: Any) -> dict[str, Tensor]:
    """Return the logits (B, 10) in a network's output, by name.

    The output can be a tensor, a (named) tuple, a list or a dict. Values of other shapes are left out.
    """
    if isinstance(output, Tensor):
        output = {"logits": output}
    elif hasattr(output, "_asdict"):
        output = output._asdict()
    elif isinstance(output, (tuple, list)):
        output = {f"output {number}": value for number, value in enumerate(output)}
    named = output.items() if isinstance(output, Mapping) else ()
    return {name: value for name, value in named if isinstance(value, Tensor) and value.shape[1:] == (10,)}


def saliency(model: nn.Module, x: Tensor, label: int, head: str = "logits", **options: Any) -> Tensor:
    """Compute how strongly the logit of a label depends on each pixel (Simonyan et al. 2013,
    https://arxiv.org/abs/1312.6034).

    The gradients stored in the network do not change.

    Args:
        model: a network with logits (1, 10), or several, see `heads`.
        x: one normalized image (1, 1, 28, 28).
        label: 0 to 9.
        head: name of the logits, see `heads`.
        **options: keyword arguments for the network's `forward`.

    Returns:
        Magnitude of the gradient, float32 (28, 28), at least 0.
    """
    with torch.enable_grad(), unchanged(model):
        x = x.detach().requires_grad_()
        logits = heads(model(x, **options))[head]
        gradient = torch.autograd.grad(logits[0, label], x)[0]
    return gradient[0, 0].abs()
