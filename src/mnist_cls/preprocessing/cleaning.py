"""Remove what is not a digit: rulings, frames, dark backgrounds, things along the edges, and specks."""

import numpy as np
import scipy

from ..errors import InputError
from .components import INKED, NEIGHBOURS, Box, Component, bounding_box, find_components, mask_of
from .mnist_form import stroke_width

# Strokes of a worn pen have gaps. Those of up to this fraction of the largest component's longer side are bridged.
_PEN_SKIP = 0.03

# Pixels with at least this much ink connect components where the pen was light.
_FAINT = 0.15

# Rulings are often fainter than ink. Pixels with at least this much of it may belong to one.
_FAINT_RULING = 0.3

# Components with less than this fraction of the largest one's pixels are specks.
_SPECK = 0.03

# Width of a border along the edges of the page, as a fraction of its shorter side. A component that touches an edge and
# has more than 85 % of its pixels in this border is no digit.
_BORDER = 0.12


def clean(ink: np.ndarray) -> np.ndarray:
    """Remove ink, float32 (H, W), that is no part of a digit, judging by its shape, size and position.

    Returns:
        The ink, zero where something was removed. It is empty only if it was before.

    Raises:
        InputError: If there is only a dark or light background along the sides of the page.
    """
    ink = _without_rulings(ink)
    labels, found = find_components(ink, _PEN_SKIP)
    if not found:
        return ink
    components = [component for component in found if not _is_background(component, labels.shape)]
    if not components:
        raise InputError("no digit found: nothing but a dark or light background along a side of the page")
    components = [component for component in components if not _is_frame(component, components, labels)]
    inner = [component for component in components if not _lies_along_edge(component, labels)]
    # In a tight crop the digit itself touches the edges, and the bar of a 5 lies along one.
    if inner and not any(_touches_edge(component.box, labels.shape) for component in inner):
        components = inner
    largest = max(component.area for component in components)
    kept = [component for component in components if component.area >= _SPECK * largest]
    if len(kept) < len(components):
        kept = _with_faintly_connected(kept, components, labels, ink)
    kept = [component for component in kept if not _is_stray(component, kept, largest)]
    return ink if len(kept) == len(found) else _only(kept, labels, ink)


def _only(kept: list[Component], labels: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Remove all ink except the components in `kept` and the soft edges around them."""
    mask = mask_of(kept, labels)
    removed = (labels > 0) & ~mask
    near = scipy.ndimage.maximum_filter(mask, 2 * max(1, max(ink.shape) // 64) + 1)
    return np.where(near & (mask | ~scipy.ndimage.maximum_filter(removed, 3)), ink, 0).astype(np.float32)


def _without_rulings(ink: np.ndarray) -> np.ndarray:
    """Remove lines that run from edge to edge of the page, even where they touch or cross the digit.

    In a tight crop, the bar of a 7 is such a line, too. It is kept by two signs: the rest of the digit also reaches a
    side of the page on which the line ends, and the line is as thick as other strokes. Rulings are thinner, or there
    are several.
    """
    return _without_horizontal_rulings(_without_horizontal_rulings(ink).T).T


def _without_horizontal_rulings(ink: np.ndarray) -> np.ndarray:
    height, width = ink.shape
    mask = ink >= INKED
    faint = ink >= _FAINT_RULING
    ruled = (faint[:, 0] & faint[:, -1] & (faint.mean(1) > 0.95))[:, None]  # for each pixel row
    _, count = scipy.ndimage.label(ruled)
    # The bar of a 7 is thicker than a ruling.
    if not count or ruled.sum() > 0.1 * height * (1 if count == 1 else 3):
        return ink
    removed = scipy.ndimage.binary_dilation(ruled, np.ones((3, 1)))
    rest = np.where(removed, 0, ink).astype(np.float32)
    rest_mask = rest >= INKED
    # What covers most of a column is a vertical ruling, such as the side of a frame; its edges are soft.
    upright = scipy.ndimage.binary_dilation(rest_mask.mean(0) >= 0.6, iterations=2)
    rest_mask[:, upright] = False
    in_digit = np.asarray(rest_mask.any(0))
    margin = max(2, width // 8)
    if not in_digit.any():
        return ink
    if in_digit[:margin].any() or in_digit[-margin:].any():
        # It may be a crop, unless the lines are thinner than strokes, and there are several, or a quarter at a side is
        # empty.
        thin = ruled.sum() / count < 0.5 * stroke_width(rest_mask)
        if not (thin and (count > 1 or not in_digit[: width // 4].any() or not in_digit[-(width // 4) :].any())):
            return ink
    # A stroke crosses a line where there is ink on both sides.
    for rows, _ in scipy.ndimage.find_objects(scipy.ndimage.label(removed)[0]):
        above, below = (mask[row] & ~upright for row in (max(rows.start - 1, 0), min(rows.stop, height - 1)))
        reach = 2 * (rows.stop - rows.start) + 1
        crossed = scipy.ndimage.maximum_filter1d(above, reach) & scipy.ndimage.maximum_filter1d(below, reach)
        crossed &= scipy.ndimage.maximum_filter1d(above | below, reach // 2)
        rest[rows] = np.where(crossed | upright, ink[rows], 0)
    return rest


def _is_background(component: Component, page: tuple[int, ...]) -> bool:
    """Whether a component is a solid area along a whole side of the page: a desk, a shadow, the edge of a scanner."""
    height, width = page
    box = component.box
    across, down = width // 50 + 1, height // 50 + 1  # how far from an edge still counts as touching it
    upright = box.height > height - 2 * down and (box.left < across or box.right > width - across)
    lying = box.width > width - 2 * across and (box.top < down or box.bottom > height - down)
    solid = component.area > 0.8 * box.width * box.height
    thick = min(box.width, box.height) > 0.05 * min(height, width)  # else it is a ruling
    return (upright or lying) and solid and thick


def _is_frame(component: Component, components: list[Component], labels: np.ndarray) -> bool:
    """Whether a component surrounds all others, as a printed box or circle does."""
    left, top, right, bottom = box = component.box
    # A closed stroke of a digit can surround specks, but nothing a quarter as high.
    others = [other.box for other in components if other is not component and other.box.height >= 0.25 * box.height]
    if not others or not all(
        left < other.left and top < other.top and right > other.right and bottom > other.bottom for other in others
    ):
        return False
    # Its own pixels are all near its outline.
    across, down = box.width // 7, box.height // 7
    inside = labels[top + down : bottom - down, left + across : right - across]
    return bool((inside == component.label).sum() < 0.15 * component.area)


def _touches_edge(box: Box, page: tuple[int, ...]) -> bool:
    height, width = page
    margin = max(1, min(height, width) // 25)
    return box.left <= margin or box.top <= margin or box.right >= width - margin or box.bottom >= height - margin


def _lies_along_edge(component: Component, labels: np.ndarray) -> bool:
    if not _touches_edge(component.box, labels.shape):
        return False
    height, width = labels.shape
    left, top, right, bottom = component.box
    border = max(1, round(_BORDER * min(height, width)))
    inside = labels[max(top, border) : min(bottom, height - border), max(left, border) : min(right, width - border)]
    return bool((inside == component.label).sum() < 0.15 * component.area)


def _with_faintly_connected(
    kept: list[Component], components: list[Component], labels: np.ndarray, ink: np.ndarray
) -> list[Component]:
    """Add the components that faint ink connects to those in `kept`: they are no specks."""
    faint, count = scipy.ndimage.label(ink >= _FAINT, NEIGHBOURS)
    reached = np.zeros(count + 1, bool)
    reached[faint[mask_of(kept, labels)]] = True
    connected = set(np.unique(labels[reached[faint]]).tolist())
    return [component for component in components if component.label in connected]


def _is_stray(component: Component, components: list[Component], largest: int) -> bool:
    """Whether a component is small, and so far from all larger ones that it would make the digit a lot smaller."""
    if component.area >= 0.1 * largest:
        return False
    larger = [other for other in components if other.area > component.area]
    return bounding_box([*larger, component]).longer_side > 1.2 * bounding_box(larger).longer_side
