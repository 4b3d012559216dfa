"""From a digit's ink to MNIST's form: 20 pixels high or wide, strokes as thick, in the middle of 28x28."""

import math

import numpy as np
from PIL import Image
from scipy import ndimage

from ..images import SIZE

_INK_BOX = 20  # MNIST's makers scaled each digit into 20x20 before they placed it in 28x28.


# Nearly all of MNIST's digits have strokes between these, in pixels of the 20x20 (mean 3.0; see `stroke_width`).
THINNEST, THICKEST = 2.1, 5.2


_FINE = 4  # Strokes are measured, and made thinner or thicker, in a picture so many times finer.


def place(ink: np.ndarray, usual_strokes: bool = True) -> np.ndarray:
    """Scale a digit's ink into 20x20 with its aspect kept, and place it in 28x28 by its centre of mass.

    That is what MNIST's makers did (LeCun et al. 1998).

    Args:
        ink: float32 (H, W), 0 to 1, cropped to the digit.
        usual_strokes: bring strokes much thinner or thicker than MNIST's near to its.

    Returns:
        uint8 (28, 28), bright ink on black.
    """
    return centre(_scale(_with_usual_strokes(ink) if usual_strokes else ink))


def stroke_width(inked: np.ndarray) -> float:
    """The mean width of strokes in pixels: in a long stroke, the mean distance to its edge is a quarter of it.

    Args:
        inked: bool (H, W).
    """
    distances = ndimage.distance_transform_edt(np.pad(inked, 1))
    # Distances are from a pixel's centre to the next one outside, half a pixel too much.
    return float(4 * (distances[distances > 0] - 0.5).mean()) if inked.any() else 0.0


def _with_usual_strokes(ink: np.ndarray) -> np.ndarray:
    """The same digit with strokes between `THINNEST` and `THICKEST`; itself if they are."""
    height, width = ink.shape
    fine = _FINE * _INK_BOX
    ratio = fine / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    large = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BILINEAR))
    inked = large >= 0.5
    found = stroke_width(inked) / _FINE
    if not inked.any() or THINNEST <= found <= THICKEST:
        return ink
    wanted = THINNEST if found < THINNEST else THICKEST
    grow = (wanted - found) / 2 * _FINE
    room = math.ceil(max(grow, 0)) + 1
    padded = np.pad(inked, room)
    outside, inside = ndimage.distance_transform_edt(~padded), ndimage.distance_transform_edt(padded)
    # The edge is moved by `grow`, and half a pixel to each side of it is neither ink nor paper.
    moved: np.ndarray = np.clip(inside - outside + grow + 0.5, 0, 1).astype(np.float32)
    rows, columns = (np.flatnonzero((moved >= 0.5).any(axis)) for axis in (1, 0))
    # Where thinning would leave little, the digit was a blot; better thick than in pieces.
    if len(rows) < 0.7 * size[1]:
        return ink
    return moved[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _scale(ink: np.ndarray) -> np.ndarray:
    height, width = ink.shape
    ratio = _INK_BOX / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    scaled = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.HAMMING))
    digit: np.ndarray = np.clip(scaled * (255 / max(scaled.max(), 1e-6)), 0, 255).round().astype(np.uint8)
    return digit


def centre(digit: np.ndarray) -> np.ndarray:
    """Put ink, uint8 of at most 28x28, into 28x28, its centre of mass in the middle."""
    mass = digit.astype(np.float64)
    total = mass.sum()
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    corner = []
    for axis, length in enumerate(digit.shape):
        centre = (mass.sum(1 - axis) * np.arange(length)).sum() / total
        # MNIST's centres of mass lie within half a pixel of row 14 and column 14, counted from 0.
        corner.append(min(max(math.floor(SIZE / 2 + 0.5 - centre), 0), SIZE - length))
    top, left = corner
    canvas[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return canvas
