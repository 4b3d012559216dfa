"""MNIST's form: a digit 20 pixels high or wide, with strokes of the usual width, centred in 28x28 by its mass."""

import math

import numpy as np
import scipy
from PIL import Image

from ..images import SIZE
from .components import ink_box

# MNIST's makers scaled each digit to 20x20 pixels before they centred it in 28x28.
_DIGIT_SIZE = 20

# Nearly all of MNIST's digits have a stroke width between these, in pixels of the 20x20. The mean is 3.0.
THINNEST, THICKEST = 2.1, 5.2

# Strokes are measured and adjusted at this many times the resolution.
_OVERSAMPLING = 4

# Strokes were lost at that resolution if less than the fraction `_LOST` of the ink is left, and the rest is at most
# `_THIN` pixels wide. Ink that consists of dots, as after dithering, is wider.
_LOST, _THIN = 0.8, 3.0

# In that case, pixels with at least this much ink are part of a stroke.
_FAINTEST = 0.25


def scale_and_centre(ink: np.ndarray, adjust_strokes: bool = True) -> np.ndarray:
    """Scale a digit to 20x20 with its aspect ratio kept, and centre it in 28x28 by its mass, as in LeCun et al. 1998.

    Args:
        ink: float32 (H, W), 0 to 1, cropped to the digit.
        adjust_strokes: change the width of strokes that are much thinner or thicker than MNIST's to the nearest usual.

    Returns:
        uint8 (28, 28), bright ink on black.
    """
    if adjust_strokes:
        ink = _with_usual_strokes(ink)
    scaled = _resize(ink, _DIGIT_SIZE, Image.Resampling.HAMMING)
    return centre(np.clip(scaled * (255 / max(scaled.max(), 1e-6)), 0, 255).round().astype(np.uint8))


def centre(digit: np.ndarray) -> np.ndarray:
    """Paste a digit, uint8 of at most 28x28, into 28x28 so that its centre of mass is in the middle."""
    mass = digit.astype(np.float64)
    total = mass.sum()
    corner = []
    for axis, length in enumerate(digit.shape):
        centre_of_mass = (mass.sum(1 - axis) * np.arange(length)).sum() / total
        # MNIST's centres of mass are within half a pixel of row 14 and column 14, counted from 0.
        corner.append(min(max(math.floor(SIZE / 2 + 0.5 - centre_of_mass), 0), SIZE - length))
    top, left = corner
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return image


def stroke_width(mask: np.ndarray) -> float:
    """Return the mean width of strokes, bool (H, W), in pixels: four times their pixels' mean distance to the edge."""
    distances = scipy.ndimage.distance_transform_edt(np.pad(mask, 1))
    # Distances reach to the centre of the nearest pixel outside, which is half a pixel beyond the edge.
    return float(4 * (distances[distances > 0] - 0.5).mean()) if mask.any() else 0.0


def _with_usual_strokes(ink: np.ndarray) -> np.ndarray:
    """Return the digit with a stroke width between `THINNEST` and `THICKEST`; unchanged if it has one already."""
    mask = _reduced_mask(ink, _OVERSAMPLING * _DIGIT_SIZE)
    width = stroke_width(mask) / _OVERSAMPLING
    if not mask.any() or THINNEST <= width <= THICKEST:
        return ink
    grow = ((THINNEST if width < THINNEST else THICKEST) - width) / 2 * _OVERSAMPLING
    padded = np.pad(mask, math.ceil(max(grow, 0)) + 1)
    to_ink, to_paper = scipy.ndimage.distance_transform_edt(~padded), scipy.ndimage.distance_transform_edt(padded)
    # The edge moves outwards by `grow`; from full ink to paper it is one pixel wide.
    moved: np.ndarray = np.clip(to_paper - to_ink + grow + 0.5, 0, 1).astype(np.float32)
    moved_mask = moved >= 0.5
    # Where thinning would leave little, the digit was a blot: better thick than in pieces.
    if np.count_nonzero(moved_mask.any(1)) < 0.7 * mask.shape[0]:
        return ink
    box = ink_box(moved_mask)
    return moved[box.top : box.bottom, box.left : box.right]


def _reduced_mask(ink: np.ndarray, longer_side: int) -> np.ndarray:
    """Scale a digit to the given longer side, as a mask, and keep strokes that are thinner than a pixel."""
    mask: np.ndarray = _resize(ink, longer_side, Image.Resampling.BILINEAR) >= 0.5
    ratio = max(ink.shape) / longer_side
    if mask.sum() * ratio**2 >= _LOST * ink.sum() or stroke_width(mask) > _THIN:
        return mask
    # A line on the border between two pixels is faint in both. Widened, it fills at least one.
    widened = scipy.ndimage.maximum_filter(ink, math.ceil(2 * ratio))
    kept: np.ndarray = _resize(widened, longer_side, Image.Resampling.BILINEAR) >= _FAINTEST
    return kept


def _resize(ink: np.ndarray, longer_side: int, resampling: Image.Resampling) -> np.ndarray:
    height, width = ink.shape
    ratio = longer_side / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return np.asarray(Image.fromarray(ink).resize(size, resampling))
