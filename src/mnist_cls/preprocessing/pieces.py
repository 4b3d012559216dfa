"""A perceptron that estimates how likely a piece of a row is one whole digit, from the piece and the ink around it.

A network that classifies digits is also sure of their parts: to it, half of an 8 is a 3, and the stem of a 4 is a 1.
`scripts/train_pieces.py` trains this perceptron on rows of MNIST's training images and of drawn digits.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from .components import Box

WEIGHTS = Path(__file__).with_suffix(".safetensors")

# Height and width of a view in pixels, around the middle of a piece. The row's tallest digit is `_DIGIT` of them high.
VIEW = 18, 22
_DIGIT = 14

# If the tallest digit has more pixels than this, ink is first reduced by skipping pixels, which is fast.
_FINE = 36


def log_likelihoods(ink: np.ndarray, pieces: Sequence[tuple[np.ndarray, Box]], height: float) -> np.ndarray:
    """Return the logarithm of the probability that each piece is one whole digit, float32 (N,).

    Args:
        ink: float32 (H, W), 0 to 1, cropped: the ink that the pieces are parts of.
        pieces: the ink of N pieces, and their boxes in `ink`.
        height: of the row's tallest digit, in pixels.
    """
    x = views(ink, pieces, height)
    layers = _layers()
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight.T + bias, 0)
    weight, bias = layers[-1]
    found: np.ndarray = -np.logaddexp(0, -(x @ weight.T + bias)[:, 0])
    return found.astype(np.float32)


def views(ink: np.ndarray, pieces: Sequence[tuple[np.ndarray, Box]], height: float) -> np.ndarray:
    """Return what the perceptron sees: each piece and the ink around it, float32 (N, 2 * 18 * 22), 0 to 1."""
    step = max(1, round(height / _FINE))
    scale = _DIGIT * step / height
    around = _reduced(ink[::step, ::step], scale)
    found = np.zeros((len(pieces), 2, *VIEW), np.float32)
    for view, (piece, box) in zip(found, pieces, strict=True):
        alone = np.zeros_like(ink)
        alone[box.top : box.bottom, box.left : box.right] = piece
        small = _reduced(alone[::step, ::step], scale)
        middle = (box.left + box.right) / 2 * _DIGIT / height
        _paste(small, view[0], middle)
        _paste(np.maximum(around - small, 0), view[1], middle)
    return found.reshape(len(pieces), -1)


def _reduced(ink: np.ndarray, scale: float) -> np.ndarray:
    size = (max(1, round(side * scale)) for side in ink.shape[::-1])
    return np.asarray(Image.fromarray(ink).resize((*size,), Image.Resampling.BOX))


def _paste(ink: np.ndarray, view: np.ndarray, middle: float) -> None:
    """Copy ink into a view, as far as it fits, with its column `middle` and its middle row in the view's middle."""
    top, left = round((VIEW[0] - ink.shape[0]) / 2), round(VIEW[1] / 2 - middle)
    part = ink[max(-top, 0) :, max(-left, 0) :][: VIEW[0] - max(top, 0), : VIEW[1] - max(left, 0)]
    view[max(top, 0) :, max(left, 0) :][: part.shape[0], : part.shape[1]] = part


@functools.cache
def _layers() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the weights (outputs, inputs) and biases of each layer, float32."""
    tensors = {name: tensor.astype(np.float32) for name, tensor in load_file(WEIGHTS).items()}
    numbers = sorted({name.partition(".")[0] for name in tensors})
    return [(tensors[f"{number}.weight"], tensors[f"{number}.bias"]) for number in numbers]
