"""The loss that training minimizes: the cross-entropy, or the network's own loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.normalization import normalize
from ..errors import InputError, first_line
from ..images import CLASSES, SIZE


def compute_loss(
    network: nn.Module, outputs: Any, images: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Compute the network's own loss if it has a method `loss(outputs, x, labels)`, and the cross-entropy otherwise.

    Args:
        network: the network that returned the outputs.
        outputs: what its forward pass returned for the normalized images.
        images: (B, 28, 28), values 0 to 255.
        labels: int64 (B,).
        label_smoothing: fraction of the target spread over all classes, 0 to below 1; applies to the cross-entropy, in
            training mode only.

    Returns:
        The mean over the batch, a scalar.
    """
    own: Callable[..., Tensor] | None = getattr(network, "loss", None)
    if own is not None:
        return own(outputs, normalize(images), labels)
    return F.cross_entropy(outputs, labels, label_smoothing=label_smoothing if network.training else 0.0)


def is_classifier(network: nn.Module, name: object) -> bool:
    """Return whether a network returns logits (B, 10) in evaluation mode.

    Args:
        network: a network on the CPU; it is in training mode afterwards.
        name: name of the network in messages.

    Raises:
        InputError: If the network does not take images (B, 1, 28, 28), or neither returns logits (B, 10) nor has a loss
            of its own.
    """
    network.eval()
    try:
        with torch.no_grad():
            outputs = network(torch.zeros(2, 1, SIZE, SIZE))
    except Exception as error:  # a user's own network may fail in any way
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise InputError(f"model={name}: does not take images (B, 1, 28, 28): {kind}{first_line(error)}") from error
    finally:
        network.train()
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
    if shape != (2, CLASSES) and not hasattr(network, "loss"):
        found = shape or type(outputs).__name__
        raise InputError(
            f"model={name}: returns {found} for 2 images; expected 10 logits each, (2, 10),"
            " or a network with a loss of its own, loss(outputs, x, labels)"
        )
    return shape == (2, CLASSES)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits among a classifier's outputs: in training mode they can be the first of several tensors."""
    logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
    return logits
