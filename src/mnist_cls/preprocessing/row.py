"""A row of digits, such as a postcode or an amount, cut into its digits."""

import math
from itertools import pairwise

import numpy as np
from scipy import ndimage

from ..errors import InputError
from .components import SOFT, Component, columns, cut_out, find_components

# Smaller than this share of the tallest digit's height is no digit: a comma, a point; and lower than this, a dash.
_SMALLEST, _LOWEST = 0.45, 0.25


# A digit's largest piece is hardly smaller than this, in heights of the tallest; the two points of a colon are.
_PIECE = 0.35


# What is lower than this is a piece of a digit that has ink within the second, both in heights of the tallest.
_LOW, _REACH = 0.6, 0.15


# A digit is hardly wider than so many times the height of the tallest in its row.
_WIDEST = 1.05


# How wide a digit is where several touch, as a share of their height.
_USUAL = 0.8


def cut_row(ink: np.ndarray) -> list[tuple[np.ndarray, tuple[int, int, int, int]]]:
    """Cut a row of digits.

    Ink that is connected, or one above the other, is a digit; what is too wide for one is cut where there is the
    least ink.

    Args:
        ink: float32 (H, W), 0 to 1, cleaned.

    Returns:
        For each digit from left to right its ink, cropped, with no other's in it, and its box: left, top, right,
        bottom in pixels, the last two exclusive.

    Raises:
        InputError: there are several rows.
    """
    labels, components = find_components(ink)
    components = _without_underlines(components)
    groups = columns(components)
    tall = max(component.height for component in components)
    groups = [group for group in _joined(groups, labels, tall) if _is_digit(group, tall)]
    if sum(stacked(group) for group in groups) > len(groups) / 2 or _apart(groups, tall):
        raise InputError("several rows of digits; expected one")
    digits = []
    for group in groups:
        inked = _inked(labels, group)
        own, (left, top, *_) = cut_out(ink, inked, (labels > 0) & ~inked)
        for start, stop in _cuts(own, tall):
            rows = np.flatnonzero((own[:, start:stop] >= SOFT).any(1))
            if len(rows):
                box = left + start, top + int(rows[0]), left + stop, top + int(rows[-1]) + 1
                digits.append((own[rows[0] : rows[-1] + 1, start:stop], box))
    return digits


def _without_underlines(components: list[Component]) -> list[Component]:
    """Leave out long flat components, and refuse what goes round several others: cells of forms look like ones."""
    tall = max(component.height for component in components)
    usual = float(np.median([component.width for component in components if component.height >= 0.5 * tall]))
    rest = [component for component in components if component.height > 0.15 * tall or component.width < 1.5 * usual]
    for component in rest:
        within = [other for other in rest if component.box[0] < other.box[0] and other.box[2] < component.box[2]]
        if sum(other.height >= 0.4 * tall for other in within) > 1:
            raise InputError("lines around or through the digits; expected a row of digits on plain paper")
    return rest


def stacked(group: list[Component]) -> bool:
    """Whether components stand above one another, each as high as a digit and further apart than a broken one's."""
    width, height = _extent(group, 0), _extent(group, 1)
    least = 0.06 * height if height > 1.7 * width else 0.12 * height  # one digit is hardly that slim and broken
    high = sorted(
        (component for component in group if component.height >= 0.35 * height), key=lambda component: component.box[1]
    )
    return any(below.box[1] - above.box[3] > least for above, below in pairwise(high))


def _apart(groups: list[list[Component]], tall: int) -> bool:
    """Whether neighbours, both high enough, have no height in common."""
    high = [component for group in groups for component in group if component.height >= 0.6 * tall]
    pairs = pairwise(sorted(high, key=lambda component: component.box[0]))
    return any(max(one.box[1], other.box[1]) > min(one.box[3], other.box[3]) for one, other in pairs)


def _joined(groups: list[list[Component]], labels: np.ndarray, tall: int) -> list[list[Component]]:
    """Put pieces that are too low for a digit to the nearest one that they may belong to.

    Pens skip, and the bar of a 5 often stands apart.
    """
    low = sorted((group for group in groups if _extent(group, 1) < _LOW * tall), key=lambda group: _extent(group, 1))
    for component, *_ in low:
        piece = next(group for group in groups if component in group)  # lower ones may have come to it
        for group in _near(piece, groups, labels, _REACH * tall):
            both = group + piece
            if max(_extent(both, 0), _extent(both, 1)) <= _WIDEST * tall:
                groups = [both if one is group else one for one in groups if one is not piece]
                break
    return groups


def _near(
    piece: list[Component], groups: list[list[Component]], labels: np.ndarray, reach: float
) -> list[list[Component]]:
    """The groups whose ink is no further from the piece's than that, the nearest first."""
    left, top, right, bottom = _box(piece)
    margin = math.ceil(reach)
    around = labels[max(top - margin, 0) : bottom + margin, max(left - margin, 0) : right + margin]
    away = ndimage.distance_transform_edt(~_inked(around, piece))
    distances = [away[_inked(around, group)].min(initial=math.inf) for group in groups]
    order = np.argsort(distances, kind="stable")
    return [groups[place] for place in order if groups[place] is not piece and distances[place] <= reach]


def _inked(labels: np.ndarray, group: list[Component]) -> np.ndarray:
    inked: np.ndarray = np.isin(labels, [component.number for component in group])
    return inked


def _is_digit(group: list[Component], tall: int) -> bool:
    width, height = _extent(group, 0), _extent(group, 1)
    # A colon is high, but its components are not.
    largest = max(max(component.width, component.height) for component in group)
    return height >= _LOWEST * tall and max(width, height) >= _SMALLEST * tall and largest >= _PIECE * tall


def _extent(group: list[Component], axis: int) -> int:
    box = _box(group)
    return box[axis + 2] - box[axis]


def _box(group: list[Component]) -> tuple[int, int, int, int]:
    lefts, tops, rights, bottoms = zip(*(component.box for component in group), strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _cuts(ink: np.ndarray, tall: int) -> list[tuple[int, int]]:
    """The columns of each digit in ink that is connected: first and past the last."""
    width = ink.shape[1]
    if width <= _WIDEST * tall:
        return [(0, width)]
    count = max(2, round(width / (_USUAL * tall)))
    profile = ink.sum(0)
    edges = [0]
    for number in range(1, count):
        middle, reach = width * number / count, 0.3 * width / count
        first, last = int(middle - reach), int(middle + reach) + 1
        # The nearer to where digits of one width would meet, the better; a stroke's width of ink outweighs that.
        away = np.abs(np.arange(first, last) - middle) / reach
        edges.append(first + int((profile[first:last] + 0.05 * tall * away).argmin()))
    return list(zip(edges, [*edges[1:], width], strict=True))
