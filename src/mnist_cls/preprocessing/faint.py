"""Faint ink in a row of digits, as of a pen that is running dry: strengthened, or an error, but never overlooked."""

from typing import NamedTuple

import numpy as np
import scipy

from ..errors import InputError
from .components import INKED, NEIGHBOURS, Box

# Faint ink is searched for at a resolution of this many pixels for the typical height of digits.
_HEIGHT = 30

# Pixels with at least this much ink may belong to a stroke that is too faint to read.
_FAINTEST = 0.02

# Faint strokes with at least this much ink on average can be read.
_READABLE = 0.12

# Faint ink may be a digit if its longer side is between these fractions of the typical height.
_SMALLEST, _LARGEST = 0.33, 2.0


class Faint(NamedTuple):
    """Ink as large as a digit that is faint throughout.

    Attributes:
        box: its bounding box.
        mask: bool, its pixels within the box.
        strength: the mean of its ink, 0 to 1.
    """

    box: Box
    mask: np.ndarray
    strength: float


def find_faint(ink: np.ndarray, height: float) -> list[Faint]:
    """Find faint ink as large as a digit; `height` is the typical height of the row's digits, in pixels."""
    step = max(1, round(height / _HEIGHT))
    small = ink[::step, ::step]
    faint = small >= _FAINTEST
    # Most pages have no faint ink but the soft edges of strokes.
    if not (faint & (scipy.ndimage.maximum_filter((small >= INKED).view(np.uint8), 5) == 0)).any():
        return []
    pieces = scipy.ndimage.maximum_filter(faint.view(np.uint8), 5)
    labels, count = scipy.ndimage.label(pieces, NEIGHBOURS)
    labels[~faint] = 0
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    inked = np.bincount(labels[small >= INKED], minlength=count + 1)
    found = []
    for label, (rows, columns) in enumerate(scipy.ndimage.find_objects(labels), 1):
        box = Box(*(step * edge for edge in (columns.start, rows.start, columns.stop, rows.stop)))
        # Grain and stains are smaller, shadows larger.
        if inked[label] < 0.3 * areas[label] and _SMALLEST * height <= box.longer_side <= _LARGEST * height:
            mask = labels[rows, columns] == label
            strength = float(small[rows, columns][mask].mean())
            found.append(Faint(box, mask.repeat(step, 0).repeat(step, 1), strength))
    return found


def strengthened(ink: np.ndarray, faint: list[Faint]) -> np.ndarray:
    """Return the ink, float32 (H, W), with readable faint strokes made as strong as others."""
    readable = [one for one in faint if one.strength >= _READABLE]
    if not readable:
        return ink
    ink = ink.copy()
    for box, mask, strength in readable:
        part = ink[box.top : box.bottom, box.left : box.right]
        part[mask[: part.shape[0], : part.shape[1]]] *= 0.8 / strength
    ink[ink > 1] = 1
    return ink


def check_nothing_faint(faint: list[Faint], boxes: list[Box], least: float) -> None:
    """Refuse a row with ink before, between or after its digits, at least `least` pixels high, that is too faint."""
    for box, _, strength in faint:
        nearest = min(boxes, key=lambda other: abs(other.left + other.right - box.left - box.right))
        beside = all(min(box.right, other.right) - max(box.left, other.left) < 0.3 * box.width for other in boxes)
        within = box.top < nearest.bottom and box.bottom > nearest.top
        if beside and within and box.height >= least:
            position = sum(other.left < box.left for other in boxes)
            raise InputError(f"the ink after digit {position} is too faint to read: {strength:.2f} of full ink")
