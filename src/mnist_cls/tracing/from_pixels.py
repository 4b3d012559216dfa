"""Trace a network from pixels to probabilities, as a prediction runs it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..data.normalization import normalize
from ..models.shapes import ShapeError
from .outputs import heads
from .recorder import recording, unchanged
from .records import Trace


def trace_from_pixels(
    model: nn.Module, images: Tensor, mode: str = "eval", options: Mapping[str, bool] | None = None
) -> tuple[Trace, Exception | None]:
    """Trace a network, with the normalization before it and the softmax after it.

    Args:
        model: any network for normalized images (B, 1, 28, 28).
        images: uint8 or float from 0 to 255, (B, 28, 28).
        mode: "eval" or "train". The network stays in this mode.
        options: keyword arguments for the network's `forward`.

    Returns:
        The trace, and None. If the network fails, the operations before that, and the error.
    """
    model.train(mode == "train")
    with torch.no_grad(), unchanged(model), recording(model, images) as trace:
        try:
            trace.output = model(normalize(images), **(options or {}))
        except Exception as error:  # any defect in a user's network: the operations before it help to find it
            return trace, error
        for logits in heads(trace.output).values():
            logits.softmax(1).argmax(1)
    return trace, None


def reason(error: Exception) -> str:
    """Return why a network failed, in one line."""
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, ShapeError) else f"{type(error).__name__}: {text}"
