"""A row of digits, such as a postcode or an amount, cut into its digits."""

import math
from collections.abc import Iterable
from itertools import chain, pairwise

import numpy as np
from scipy import ndimage

from ..errors import InputError
from .components import (
    SOFT,
    Box,
    Component,
    bounding_box,
    cut_out,
    find_components,
    group_into_digits,
    ink_box,
    mask_of,
)

# All lengths are fractions of the height of the row's tallest component.

# Ink whose longer side is shorter than this is no digit, but a comma or a point.
_SHORTEST = 0.45

# Ink lower than this is no digit, but a dash.
_LOWEST = 0.25

# Ink that consists of components shorter than this is no digit, but a colon.
_SHORTEST_COMPONENT = 0.35

# Ink lower than this is a fragment: it belongs to a digit nearby, if there is one.
_FRAGMENT = 0.6

# The largest distance between a fragment and the digit that it belongs to.
_NEARBY = 0.15

# A single digit is hardly wider than this; wider ink consists of several that touch.
_WIDEST = 1.05

# The mean width of digits that touch.
_TOUCHING_WIDTH = 0.8


def cut_row(ink: np.ndarray) -> list[tuple[np.ndarray, Box]]:
    """Cut a row of digits.

    Ink that is connected, or one above the other, is one digit. If it is too wide, it is cut where there is least ink.

    Args:
        ink: float32 (H, W), 0 to 1, cleaned.

    Returns:
        For each digit from left to right its ink, cropped and without that of others, and its box.

    Raises:
        InputError: If there are several rows, or lines around or through the digits.
    """
    labels, components = find_components(ink)
    components = _without_underlines(components)
    tallest = max(component.box.height for component in components)
    groups = _attach_fragments(group_into_digits(components), labels, tallest)
    groups = [group for group in groups if _is_digit(group, tallest)]
    if sum(map(are_stacked, groups)) > len(groups) / 2 or _has_steps(groups, tallest):
        raise InputError("several rows of digits; expected one")
    digits = []
    for group in groups:
        mask = mask_of(group, labels)
        group_ink, box = cut_out(ink, mask, (labels > 0) & ~mask)
        for start, stop in _cuts(group_ink, tallest):
            soft = group_ink[:, start:stop] >= SOFT
            if soft.any():
                _, top, _, bottom = ink_box(soft)
                digit_box = Box(box.left + start, box.top + top, box.left + stop, box.top + bottom)
                digits.append((group_ink[top:bottom, start:stop], digit_box))
    return digits


def are_stacked(group: list[Component]) -> bool:
    """Whether components, each high enough for a digit, stand further above one another than broken strokes do."""
    box = bounding_box(group)
    # A single digit is hardly that slim and broken.
    gap = (0.06 if box.height > 1.7 * box.width else 0.12) * box.height
    boxes = sorted(_high_boxes(group, 0.35 * box.height), key=lambda box: box.top)
    return any(below.top - above.bottom > gap for above, below in pairwise(boxes))


def _high_boxes(components: Iterable[Component], least: float) -> list[Box]:
    """Return the boxes of the components with a height of at least `least` pixels."""
    return [component.box for component in components if component.box.height >= least]


def _without_underlines(components: list[Component]) -> list[Component]:
    """Leave out long flat components; refuse components that extend around several others, such as cells of a form."""
    tallest = max(component.box.height for component in components)
    long = 1.5 * float(np.median([box.width for box in _high_boxes(components, 0.5 * tallest)]))
    rest = [
        component for component in components if component.box.height > 0.15 * tallest or component.box.width < long
    ]
    high = _high_boxes(rest, 0.4 * tallest)
    for left, _, right, _ in (component.box for component in rest):
        if sum(left < box.left and box.right < right for box in high) > 1:
            raise InputError("lines around or through the digits; expected a row of digits on plain paper")
    return rest


def _has_steps(groups: list[list[Component]], tallest: int) -> bool:
    """Whether one of two neighbours, both high enough for digits, lies entirely above the other."""
    boxes = sorted(_high_boxes(chain.from_iterable(groups), 0.6 * tallest), key=lambda box: box.left)
    return any(max(one.top, other.top) > min(one.bottom, other.bottom) for one, other in pairwise(boxes))


def _attach_fragments(groups: list[list[Component]], labels: np.ndarray, tallest: int) -> list[list[Component]]:
    """Merge ink too low for a digit with the nearest ink, if both fit into one digit.

    Pens skip, and the bar of a 5 often stands apart.
    """
    low = [group for group in groups if bounding_box(group).height < _FRAGMENT * tallest]
    for component, *_ in sorted(low, key=lambda group: bounding_box(group).height):
        fragment = next(group for group in groups if component in group)  # lower ones may have been merged with it
        for group in _nearby(fragment, groups, labels, _NEARBY * tallest):
            merged = group + fragment
            if bounding_box(merged).longer_side <= _WIDEST * tallest:
                groups = [merged if one is group else one for one in groups if one is not fragment]
                break
    return groups


def _nearby(
    fragment: list[Component], groups: list[list[Component]], labels: np.ndarray, reach: float
) -> list[list[Component]]:
    """Return the other groups within `reach` pixels of a fragment, the nearest first."""
    left, top, right, bottom = bounding_box(fragment)
    margin = math.ceil(reach)
    around = labels[max(top - margin, 0) : bottom + margin, max(left - margin, 0) : right + margin]
    distance = ndimage.distance_transform_edt(~mask_of(fragment, around))
    distances = [distance[mask_of(group, around)].min(initial=math.inf) for group in groups]
    order = np.argsort(distances, kind="stable")
    return [groups[index] for index in order if groups[index] is not fragment and distances[index] <= reach]


def _is_digit(group: list[Component], tallest: int) -> bool:
    box = bounding_box(group)
    longest = max(component.box.longer_side for component in group)
    return (
        box.height >= _LOWEST * tallest
        and box.longer_side >= _SHORTEST * tallest
        and longest >= _SHORTEST_COMPONENT * tallest
    )


def _cuts(ink: np.ndarray, tallest: int) -> list[tuple[int, int]]:
    """Return the first column of each digit in connected ink, and the one past its last."""
    width = ink.shape[1]
    if width <= _WIDEST * tallest:
        return [(0, width)]
    count = max(2, round(width / (_TOUCHING_WIDTH * tallest)))
    profile = ink.sum(0)
    edges = [0]
    for number in range(1, count):
        middle, reach = width * number / count, 0.3 * width / count
        first, last = int(middle - reach), int(middle + reach) + 1
        # Cuts near the border between digits of equal width are preferred, but a stroke's width of ink outweighs that.
        offset = np.abs(np.arange(first, last) - middle) / reach
        edges.append(first + int((profile[first:last] + 0.05 * tallest * offset).argmin()))
    return list(pairwise([*edges, width]))
