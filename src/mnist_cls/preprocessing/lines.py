"""Remove printed lines from a row of digits: rulings, underlines, boxes and the cells of a form."""

import numpy as np
import scipy

from .components import NEIGHBOURS, Component, thickness_of, typical_height

# Rulings are often fainter than ink. Pixels with at least this much of it may belong to one.
_FAINT = 0.25

# All lengths are fractions of the typical height of the components.

# A line is at least this long. The bars of digits are shorter.
_LONG = 2.2

# A line consists of straight pieces at least this long. Shorter pieces are in digits, too; longer ones of a slanted
# line would leave the pixel rows in which they are searched for.
_PIECE = 0.7

# The side of a box around a digit is at least this long.
_BOX_SIDE = 0.3


def without_lines(ink: np.ndarray, labels: np.ndarray, components: list[Component]) -> np.ndarray:
    """Remove long straight lines from a page's ink, float32 (H, W), and keep the strokes that cross them.

    Lines are horizontal lines longer than digits are wide, the four sides of boxes, and the walls of cells in boxes.
    `labels` and `components` are those of the ink. If there are no lines, the array `ink` itself is returned.
    """
    height = typical_height(components)
    boxes = {component: sides for component in components if (sides := _sides(component, labels, height)) is not None}
    wide = any(component.box.width >= 0.5 * _LONG * height for component in components)
    if not boxes and not wide:
        return ink
    stroke = max(thickness_of(labels > 0), 1.0)
    removed = np.zeros(ink.shape, bool)
    for (label, (left, top, right, bottom), _), sides in boxes.items():
        around = slice(top, bottom), slice(left, right)
        inside = (labels[around] == label) & ~sides
        wall = 0.8 * len(inside)
        removed[around] |= sides | _find_lines(inside.T, stroke, round(wall), wall).T
    if wide:
        removed |= _find_lines((ink >= _FAINT) & ~removed, stroke, round(_PIECE * height), _LONG * height)
    if not removed.any():
        return ink
    kept = (labels > 0) & ~removed
    soft = scipy.ndimage.binary_dilation(removed, NEIGHBOURS, 3) & ~scipy.ndimage.binary_dilation(kept, NEIGHBOURS)
    return np.where(removed | soft, 0, ink).astype(np.float32)


def _find_lines(mask: np.ndarray, stroke: float, piece: int, least: float) -> np.ndarray:
    """Find the pixels of horizontal lines, bool (H, W), without those of strokes that cross them.

    Args:
        mask: bool (H, W), the ink.
        stroke: the mean width of strokes, in pixels.
        piece: the length of the horizontal pieces that a line consists of, in pixels.
        least: the length of the shortest line, in pixels.
    """
    found = np.zeros(mask.shape, bool)
    margin = round(stroke / 2) + 1
    pieces = _runs(scipy.ndimage.maximum_filter1d(mask.view(np.uint8), 2 * margin + 1, axis=0), piece, axis=1)
    labels, _ = scipy.ndimage.label(pieces, NEIGHBOURS)
    thin = pieces & mask & ~_runs(mask.view(np.uint8), round(2 * stroke) + 3, axis=0)
    for number, around in enumerate(scipy.ndimage.find_objects(labels), 1):
        if around[1].stop - around[1].start >= least:
            line = _near_straight_line(labels[around] == number, thin[around], stroke)
            if np.count_nonzero(line.any(0)) >= least:
                line &= thin[around]
                thickness = line.sum(0)
                # Where a stroke runs along the line, the line seems thicker than elsewhere.
                found[around] |= line & (thickness <= 1.5 * np.median(thickness[thickness > 0]) + 1)
    found &= ~_crossings(mask & ~found, stroke)
    return found


def _runs(mask: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Keep runs of at least `length` pixels along an axis; uint8 to bool (H, W)."""
    size = max(length, 1)
    inside = scipy.ndimage.minimum_filter1d(mask, size, axis=axis, mode="constant", cval=1)
    # Filters of even length are off centre. This origin shifts the second one back.
    runs: np.ndarray = scipy.ndimage.maximum_filter1d(inside, size, axis=axis, origin=size % 2 - 1) > 0
    return runs


def _near_straight_line(pixels: np.ndarray, thin: np.ndarray, stroke: float) -> np.ndarray:
    """Keep the pixels, bool (H, W), that are near the straight line through most of the thin ones."""
    rows, columns = np.nonzero(pixels & thin)
    if len(rows) < 2:
        return np.zeros_like(pixels)
    slope, start = 0.0, float(np.median(rows))
    for reach in (max(pixels.shape[0] / 2, 2 * stroke), 2 * stroke + 1, stroke + 1):
        near = np.abs(rows - start - slope * columns) <= reach
        if np.count_nonzero(near) < pixels.shape[1] / 4:
            return np.zeros_like(pixels)
        slope, start = np.polyfit(columns[near], rows[near], 1)
    y, x = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    line: np.ndarray = pixels & (np.abs(y - start - slope * x) <= stroke + 2)
    return line


def _crossings(rest: np.ndarray, stroke: float) -> np.ndarray:
    """Return the pixels between ink above and below, where a stroke crosses a line at an angle; bool (H, W)."""
    wide = scipy.ndimage.maximum_filter1d(rest.view(np.uint8), 2 * round(stroke / 4) + 1, axis=1)
    size = 2 * round(stroke) + 3
    closed: np.ndarray = (
        scipy.ndimage.minimum_filter1d(scipy.ndimage.maximum_filter1d(wide, size, axis=0), size, axis=0) > 0
    )
    return closed


def _sides(component: Component, labels: np.ndarray, height: float) -> np.ndarray | None:
    """Return the pixels of a component along all four sides of its box, bool; None if it is no rectangle."""
    label, (left, top, right, bottom), _ = component
    if min(right - left, bottom - top) < _BOX_SIDE * height:
        return None
    pixels = labels[top:bottom, left:right] == label
    found: np.ndarray = np.zeros_like(pixels)
    for turn in range(4):
        side = np.rot90(pixels, turn)  # the side at the top
        first = side.argmax(0)
        # Boxes can be a little askew.
        if np.mean(side.any(0) & (first <= 0.06 * max(side.shape) + 2)) < 0.95:
            return None
        depth = np.arange(len(side))[:, None] - first
        thickness = np.median(np.where(side | (depth < 0), len(side), depth).min(0))  # of the line at the top
        if thickness > 0.15 * len(side):
            return None
        np.rot90(found, turn)[:] |= side & (depth <= thickness)
    return found
