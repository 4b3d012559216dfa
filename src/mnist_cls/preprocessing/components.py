"""The connected components of a page's ink: which are the digit's, which dirt, rulings or the frame of a form."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..errors import InputError

_CONNECTED = np.ones((3, 3), bool)  # diagonal neighbours touch


# Ink is what is inked by half or more.
INKED = 0.5


# What is inked by less belongs to no edge of a stroke, and by less than the second it connects nothing.
SOFT, _FAINT = 0.3, 0.15


# Strokes of a thin pen break; gaps below this share of the longest piece are none.
BROKEN = 0.03


# Next to the largest component, dirt is smaller than this share of its pixels.
_SPECK = 0.03


# What lies within this share of the page from its edges, and reaches them, is no digit if something else is there.
_MARGIN = 0.12


class Component(NamedTuple):
    """Connected ink.

    Attributes:
        number: in the picture of labels.
        box: left, top, right, bottom in pixels; the last two exclusive.
        area: pixels.
    """

    number: int
    box: tuple[int, int, int, int]
    area: int

    @property
    def width(self) -> int:
        """In pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        """In pixels."""
        return self.box[3] - self.box[1]


def clean(ink: np.ndarray) -> np.ndarray:
    """Take away what is no writing: lines along the edges, frames, specks.

    Args:
        ink: float32 (H, W), 0 to 1.

    Returns:
        The same with zeros in their place. If nothing else would be left, they stay.

    Raises:
        InputError: there is nothing but a dark or light side of the page.
    """
    ink = _without_rulings(ink)
    labels, components = find_components(ink, BROKEN)
    if not components:
        return ink
    inside = [component for component in components if not _is_background(component, labels)]
    if not inside:
        raise InputError("no digit to see: nothing but a dark or light side of the page")
    inside = [component for component in inside if not _frames(component, inside, labels)]
    within = [component for component in inside if not _along_the_edge(component, labels)]
    # In a tight crop the digit itself reaches the edges, and the bar of a 5 lies along one.
    if within and not any(_at_the_edge(component, labels) for component in within):
        inside = within
    largest = max(component.area for component in inside)
    kept = [component for component in inside if component.area >= _SPECK * largest]
    if len(kept) < len(inside):
        kept = _with_connected(kept, inside, labels, ink)
    kept = [component for component in kept if not _stray(component, kept, largest)]
    if len(kept) == len(components):
        return ink
    allowed = np.zeros(len(components) + 1, bool)
    allowed[[component.number for component in kept]] = True
    # Around the digit its soft edge stays, which is inked by less than half.
    own, others = allowed[labels], (labels > 0) & ~allowed[labels]
    near = ndimage.maximum_filter(own, 2 * max(1, max(ink.shape) // 64) + 1)
    return np.where(near & (own | ~ndimage.maximum_filter(others, 3)), ink, 0).astype(np.float32)


def find_components(ink: np.ndarray, bridge: float = 0.0) -> tuple[np.ndarray, list[Component]]:
    """Label connected ink: a picture of numbers, int32 (H, W), 0 where there is none, and the components by number.

    Ink with no more between it than `bridge` of the longest component's longer side counts as connected.
    """
    inked = ink >= INKED
    labels, components = _label(inked, inked)
    reach = round(bridge * max((max(component.width, component.height) for component in components), default=0) / 2)
    return (
        _label(inked, ndimage.maximum_filter(inked, 2 * reach + 1))
        if reach and len(components) > 1
        else (labels, components)
    )


def _label(inked: np.ndarray, joined: np.ndarray) -> tuple[np.ndarray, list[Component]]:
    """The components of what is inked; what is connected where it is `joined` is one."""
    labels, count = ndimage.label(joined, _CONNECTED)
    labels *= inked
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    components = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        components.append(Component(number, (columns.start, rows.start, columns.stop, rows.stop), int(areas[number])))
    return labels, components


def ink_box(inked: np.ndarray) -> tuple[int, int, int, int]:
    """The box around what is inked, bool (H, W): left, top, right, bottom; the last two exclusive."""
    rows, columns = (np.flatnonzero(inked.any(axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def cut_out(
    ink: np.ndarray, own: np.ndarray, others: np.ndarray | None = None, soft: float = SOFT
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Cut a digit out, with what lies close around it and is inked a little: the edge of strokes in blurred pictures.

    Args:
        ink: float32 (H, W), 0 to 1.
        own: bool (H, W), the digit's ink.
        others: the same of its neighbours; what is nearer to them is theirs.
        soft: what is inked by less is no edge.

    Returns:
        The digit's ink, cropped, and its box.
    """
    left, top, right, bottom = ink_box(own)
    margin = max(1, max(right - left, bottom - top) // 12)
    if others is not None:
        # A neighbour's edge reaches as far as ours.
        wide = (
            slice(max(top - 2 * margin, 0), bottom + 2 * margin),
            slice(max(left - 2 * margin, 0), right + 2 * margin),
        )
        if others[wide].any():
            ours, theirs = (ndimage.distance_transform_edt(~inked[wide]) for inked in (own, others))
            ink = ink.copy()
            ink[wide][theirs < ours] = 0
    left, top = max(left - margin, 0), max(top - margin, 0)
    digit = ink[top : bottom + margin, left : right + margin]
    inner = ink_box(digit >= soft)
    box = left + inner[0], top + inner[1], left + inner[2], top + inner[3]
    return digit[inner[1] : inner[3], inner[0] : inner[2]], box


def columns(components: list[Component]) -> list[list[Component]]:
    """The components that make a digit each, left to right: those one above the other belong together."""
    groups: list[list[Component]] = []
    tall = max(component.height for component in components)
    for component in sorted(components, key=lambda component: component.box[0]):
        # Slanted digits reach over their neighbours; a digit's own strokes do so by more, or are lower.
        least = 0.6 if component.height > 0.6 * tall else 0.3
        if groups and _overlap(groups[-1], component) > least:
            groups[-1].append(component)
        else:
            groups.append([component])
    return groups


def _overlap(group: list[Component], component: Component) -> float:
    """How much of the narrower one's width lies in the other's."""
    left, right = min(other.box[0] for other in group), max(other.box[2] for other in group)
    shared = min(right, component.box[2]) - max(left, component.box[0])
    return shared / min(right - left, component.width)


def _without_rulings(ink: np.ndarray) -> np.ndarray:
    """Take away lines from edge to edge that run in the outer quarter and touch the digit.

    The top of a 7 in a tight crop is such a line, too. But then the rest of the ink reaches the edge where the line
    ends, and a digit that stands on a ruling does not.
    """
    for _ in range(2):
        ink = _without_rows(ink).T
    return ink


def _without_rows(ink: np.ndarray) -> np.ndarray:
    height, width = ink.shape
    inked = ink >= INKED
    full = inked[:, 0] & inked[:, -1] & (inked.mean(1) > 0.95)
    full[height // 4 : height - height // 4] = False
    # The bar of a 7 is thicker than a ruling.
    if not full.any() or full.sum() > 0.1 * height:
        return ink
    rest = ink.copy()
    rest[ndimage.binary_dilation(full)] = 0
    columns = (rest >= INKED).mean(0)
    reaching = (columns > 0) & (columns < 0.6)  # more is a ruling, too: the side of a frame
    margin = max(2, width // 8)
    return ink if not columns.any() or reaching[:margin].any() or reaching[-margin:].any() else rest


def _is_background(component: Component, labels: np.ndarray) -> bool:
    """Whether it is a solid area along a whole side of the page: a desk, a thick shadow, the edge of a scanner."""
    height, width = (int(side) for side in labels.shape)
    left, top, right, bottom = component.box
    across, down = width // 50 + 1, height // 50 + 1
    upright = component.height > height - 2 * down and (left < across or right > width - across)
    lying = component.width > width - 2 * across and (top < down or bottom > height - down)
    solid = component.area > 0.8 * component.width * component.height
    return (upright or lying) and solid and min(component.width, component.height) > 0.05 * min(height, width)


def _with_connected(
    kept: list[Component], components: list[Component], labels: np.ndarray, ink: np.ndarray
) -> list[Component]:
    """Those kept, and those that faint ink connects with them: there the pen was light, and it is no dirt."""
    connected, _ = ndimage.label(ink >= _FAINT, _CONNECTED)
    numbers = [np.unique(connected[labels == component.number]) for component in components]
    reached = np.unique(
        np.concatenate([found for component, found in zip(components, numbers, strict=True) if component in kept])
    )
    return [component for component, found in zip(components, numbers, strict=True) if np.isin(found, reached).any()]


def _frames(component: Component, components: list[Component], labels: np.ndarray) -> bool:
    """Whether a component goes all round the others, as a printed box or a circle does."""
    left, top, right, bottom = component.box
    high = [other for other in components if other is not component and other.height >= 0.25 * component.height]
    if not high or not all(
        left < other.box[0] and top < other.box[1] and right > other.box[2] and bottom > other.box[3] for other in high
    ):
        return False
    # Its own ink is all near its outline.
    across, down = component.width // 7, component.height // 7
    inner = labels[top + down : bottom - down, left + across : right - across]
    return bool((inner == component.number).sum() < 0.15 * component.area)


def _along_the_edge(component: Component, labels: np.ndarray) -> bool:
    if not _at_the_edge(component, labels):
        return False
    height, width = labels.shape
    left, top, right, bottom = component.box
    margin = max(1, round(_MARGIN * min(labels.shape)))
    middle = labels[max(top, margin) : min(bottom, height - margin), max(left, margin) : min(right, width - margin)]
    return bool((middle == component.number).sum() < 0.15 * component.area)


def _at_the_edge(component: Component, labels: np.ndarray) -> bool:
    height, width = (int(side) for side in labels.shape)
    left, top, right, bottom = component.box
    margin = max(1, min(height, width) // 25)
    return left <= margin or top <= margin or right >= width - margin or bottom >= height - margin


def _stray(component: Component, components: list[Component], largest: int) -> bool:
    """Whether a small component lies so far from the larger ones that it would make the digit much smaller."""
    if component.area >= 0.1 * largest:
        return False
    others = [other.box for other in components if other.area > component.area]
    left, top = (min(box[side] for box in others) for side in (0, 1))
    right, bottom = (max(box[side] for box in others) for side in (2, 3))
    side = max(right - left, bottom - top)
    wider = max(
        max(right, component.box[2]) - min(left, component.box[0]),
        max(bottom, component.box[3]) - min(top, component.box[1]),
    )
    return wider > 1.2 * side
