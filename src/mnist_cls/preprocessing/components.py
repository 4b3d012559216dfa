"""Connected components of a page's ink, their bounding boxes, and which of them make up a digit."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy

# Diagonal neighbours are connected.
NEIGHBOURS = np.ones((3, 3), bool)

# The threshold between ink and paper: a pixel that is half covered by ink.
INKED = 0.5

# The soft edge of a stroke consists of pixels with at least this much ink. Including fainter ones would make the digits
# of blurred pictures larger, and so thinner once they are scaled to 20 pixels.
SOFT = 0.3


class Box(NamedTuple):
    """A bounding box in pixels; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bottom - self.top

    @property
    def longer_side(self) -> int:
        """The larger of width and height, in pixels."""
        return max(self.width, self.height)


class Component(NamedTuple):
    """A connected component of the ink: its number in the array of labels, its bounding box, its area in pixels."""

    label: int
    box: Box
    area: int


def ink_box(mask: np.ndarray) -> Box:
    """Return the bounding box of the pixels that are set in a mask, bool (H, W); at least one must be."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def bounding_box(components: Iterable[Component]) -> Box:
    """Return the bounding box of one or more components."""
    lefts, tops, rights, bottoms = zip(*(component.box for component in components), strict=True)
    return Box(min(lefts), min(tops), max(rights), max(bottoms))


def find_components(ink: np.ndarray, gap: float = 0.0) -> tuple[np.ndarray, list[Component]]:
    """Find the connected components of the ink.

    Args:
        ink: float32 (H, W), 0 to 1.
        gap: strokes count as connected across gaps of up to this fraction of the largest component's longer side.

    Returns:
        labels: int32 (H, W), for each pixel the label of its component, 0 for paper.
        components: the components, ordered by label.
    """
    mask = ink >= INKED
    labels, components = _label(mask, mask)
    radius = round(gap * max((component.box.longer_side for component in components), default=0) / 2)
    if radius and len(components) > 1:
        return _label(mask, scipy.ndimage.maximum_filter(mask, 2 * radius + 1))
    return labels, components


def _label(mask: np.ndarray, connected: np.ndarray) -> tuple[np.ndarray, list[Component]]:
    """Label the pixels of `mask` by the components of `connected`, which contains it."""
    labels, count = scipy.ndimage.label(connected, NEIGHBOURS)
    labels *= mask
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    components = []
    for label, (rows, columns) in enumerate(scipy.ndimage.find_objects(labels), 1):
        box = Box(columns.start, rows.start, columns.stop, rows.stop)
        components.append(Component(label, box, int(areas[label])))
    return labels, components


def mask_of(components: Iterable[Component], labels: np.ndarray) -> np.ndarray:
    """Return the mask of some components' pixels, bool (H, W)."""
    mask: np.ndarray = np.isin(labels, [component.label for component in components])
    return mask


def typical_height(components: Iterable[Component]) -> float:
    """Return the median height of one or more components, without those less than half as high as the tallest."""
    heights = [component.box.height for component in components]
    tallest = max(heights)
    return float(np.median([height for height in heights if height >= 0.5 * tallest]))


def thickness_of(mask: np.ndarray) -> float:
    """Return the mean width of strokes, bool (H, W), in pixels, by the fraction of their pixels that is at an edge."""
    edges = mask & ~scipy.ndimage.minimum_filter(mask.view(np.uint8), 3).view(bool)
    return 2 * int(mask.sum()) / max(int(edges.sum()), 1)


def group_into_digits(components: list[Component]) -> list[list[Component]]:
    """Group components into digits, from left to right: components above one another belong to one digit."""
    groups: list[list[Component]] = []
    tallest = max(component.box.height for component in components)
    for component in sorted(components, key=lambda component: component.box.left):
        # Slanted digits overlap their neighbours a little. Strokes of one digit overlap more, unless one is low.
        required = 0.6 if component.box.height > 0.6 * tallest else 0.3
        if groups and _overlap(bounding_box(groups[-1]), component.box) > required:
            groups[-1].append(component)
        else:
            groups.append([component])
    return groups


def _overlap(one: Box, other: Box) -> float:
    """Return the fraction of the narrower box's width that lies within the other's."""
    return (min(one.right, other.right) - max(one.left, other.left)) / min(one.width, other.width)


def cut_out(
    ink: np.ndarray, digit: np.ndarray, others: np.ndarray | None = None, soft: float = SOFT
) -> tuple[np.ndarray, Box]:
    """Crop the ink to one digit, including the soft edge of its strokes.

    Args:
        ink: float32 (H, W), 0 to 1.
        digit: bool (H, W), the mask of the digit's components.
        others: bool (H, W), the mask of all other components. Pixels nearer to them are removed.
        soft: the least ink of a pixel at the edge.

    Returns:
        The digit's ink, and its box.
    """
    box = ink_box(digit)
    margin = max(1, box.longer_side // 12)
    if others is not None:
        # Soft edges of neighbours reach equally far, so each pixel belongs to the nearest one.
        around = (
            slice(max(box.top - 2 * margin, 0), box.bottom + 2 * margin),
            slice(max(box.left - 2 * margin, 0), box.right + 2 * margin),
        )
        if others[around].any():
            to_digit, to_others = (scipy.ndimage.distance_transform_edt(~mask[around]) for mask in (digit, others))
            ink = ink.copy()
            ink[around][to_others < to_digit] = 0
    left, top = max(box.left - margin, 0), max(box.top - margin, 0)
    cropped = ink[top : box.bottom + margin, left : box.right + margin]
    inner = ink_box(cropped >= soft)
    return (
        cropped[inner.top : inner.bottom, inner.left : inner.right],
        Box(left + inner.left, top + inner.top, left + inner.right, top + inner.bottom),
    )
