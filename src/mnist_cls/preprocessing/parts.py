"""The connected parts of a page's ink: which are the digit's, which dirt, rulings or the frame of a form."""

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
# Next to the largest part, dirt is smaller than this share of its pixels.
_SPECK = 0.03
# What lies within this share of the page from its edges, and reaches them, is no digit if something else is there.
_MARGIN = 0.12


class Part(NamedTuple):
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
    labels, parts = find_parts(ink, BROKEN)
    if not parts:
        return ink
    inside = [part for part in parts if not _is_background(part, labels)]
    if not inside:
        raise InputError("no digit to see: nothing but a dark or light side of the page")
    inside = [part for part in inside if not _frames(part, inside, labels)]
    within = [part for part in inside if not _along_the_edge(part, labels)]
    # In a tight crop the digit itself reaches the edges, and the bar of a 5 lies along one.
    if within and not any(_at_the_edge(part, labels) for part in within):
        inside = within
    largest = max(part.area for part in inside)
    kept = [part for part in inside if part.area >= _SPECK * largest]
    if len(kept) < len(inside):
        kept = _with_connected(kept, inside, labels, ink)
    kept = [part for part in kept if not _stray(part, kept, largest)]
    if len(kept) == len(parts):
        return ink
    allowed = np.zeros(len(parts) + 1, bool)
    allowed[[part.number for part in kept]] = True
    # Around the digit its soft edge stays, which is inked by less than half.
    own, others = allowed[labels], (labels > 0) & ~allowed[labels]
    near = ndimage.maximum_filter(own, 2 * max(1, max(ink.shape) // 64) + 1)
    return np.where(near & (own | ~ndimage.maximum_filter(others, 3)), ink, 0).astype(np.float32)


def find_parts(ink: np.ndarray, bridge: float = 0.0) -> tuple[np.ndarray, list[Part]]:
    """Label connected ink: a picture of numbers, int32 (H, W), 0 where there is none, and the parts by number.

    Ink with no more between it than `bridge` of the longest part's longer side counts as connected.
    """
    inked = ink >= INKED
    labels, parts = _label(inked, inked)
    reach = round(bridge * max((max(part.width, part.height) for part in parts), default=0) / 2)
    return _label(inked, ndimage.maximum_filter(inked, 2 * reach + 1)) if reach and len(parts) > 1 else (labels, parts)


def _label(inked: np.ndarray, joined: np.ndarray) -> tuple[np.ndarray, list[Part]]:
    """The parts of what is inked; what is connected where it is `joined` is one."""
    labels, count = ndimage.label(joined, _CONNECTED)
    labels *= inked
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    parts = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        parts.append(Part(number, (columns.start, rows.start, columns.stop, rows.stop), int(areas[number])))
    return labels, parts


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


def columns(parts: list[Part]) -> list[list[Part]]:
    """The parts that make a digit each, left to right: those one above the other belong together."""
    groups: list[list[Part]] = []
    tall = max(part.height for part in parts)
    for part in sorted(parts, key=lambda part: part.box[0]):
        # Slanted digits reach over their neighbours; a digit's own strokes do so by more, or are lower.
        least = 0.6 if part.height > 0.6 * tall else 0.3
        if groups and _overlap(groups[-1], part) > least:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _overlap(group: list[Part], part: Part) -> float:
    """How much of the narrower one's width lies in the other's."""
    left, right = min(other.box[0] for other in group), max(other.box[2] for other in group)
    shared = min(right, part.box[2]) - max(left, part.box[0])
    return shared / min(right - left, part.width)


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


def _is_background(part: Part, labels: np.ndarray) -> bool:
    """Whether it is a solid area along a whole side of the page: a desk, a thick shadow, the edge of a scanner."""
    height, width = (int(side) for side in labels.shape)
    left, top, right, bottom = part.box
    across, down = width // 50 + 1, height // 50 + 1
    upright = part.height > height - 2 * down and (left < across or right > width - across)
    lying = part.width > width - 2 * across and (top < down or bottom > height - down)
    solid = part.area > 0.8 * part.width * part.height
    return (upright or lying) and solid and min(part.width, part.height) > 0.05 * min(height, width)


def _with_connected(kept: list[Part], parts: list[Part], labels: np.ndarray, ink: np.ndarray) -> list[Part]:
    """Those kept, and those that faint ink connects with them: there the pen was light, and it is no dirt."""
    connected, _ = ndimage.label(ink >= _FAINT, _CONNECTED)
    numbers = [np.unique(connected[labels == part.number]) for part in parts]
    reached = np.unique(np.concatenate([found for part, found in zip(parts, numbers, strict=True) if part in kept]))
    return [part for part, found in zip(parts, numbers, strict=True) if np.isin(found, reached).any()]


def _frames(part: Part, parts: list[Part], labels: np.ndarray) -> bool:
    """Whether a part goes all round the others, as a printed box or a circle does."""
    left, top, right, bottom = part.box
    high = [other for other in parts if other is not part and other.height >= 0.25 * part.height]
    if not high or not all(
        left < other.box[0] and top < other.box[1] and right > other.box[2] and bottom > other.box[3] for other in high
    ):
        return False
    # Its own ink is all near its outline.
    across, down = part.width // 7, part.height // 7
    inner = labels[top + down : bottom - down, left + across : right - across]
    return bool((inner == part.number).sum() < 0.15 * part.area)


def _along_the_edge(part: Part, labels: np.ndarray) -> bool:
    if not _at_the_edge(part, labels):
        return False
    height, width = labels.shape
    left, top, right, bottom = part.box
    margin = max(1, round(_MARGIN * min(labels.shape)))
    middle = labels[max(top, margin) : min(bottom, height - margin), max(left, margin) : min(right, width - margin)]
    return bool((middle == part.number).sum() < 0.15 * part.area)


def _at_the_edge(part: Part, labels: np.ndarray) -> bool:
    height, width = (int(side) for side in labels.shape)
    left, top, right, bottom = part.box
    margin = max(1, min(height, width) // 25)
    return left <= margin or top <= margin or right >= width - margin or bottom >= height - margin


def _stray(part: Part, parts: list[Part], largest: int) -> bool:
    """Whether a small part lies so far from the larger ones that it would make the digit much smaller."""
    if part.area >= 0.1 * largest:
        return False
    others = [other.box for other in parts if other.area > part.area]
    left, top = (min(box[side] for box in others) for side in (0, 1))
    right, bottom = (max(box[side] for box in others) for side in (2, 3))
    side = max(right - left, bottom - top)
    wider = max(max(right, part.box[2]) - min(left, part.box[0]), max(bottom, part.box[3]) - min(top, part.box[1]))
    return wider > 1.2 * side
