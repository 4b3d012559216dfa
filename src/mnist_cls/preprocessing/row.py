"""A row of digits, such as a postcode, cut into its digits."""

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import scipy

from ..errors import InputError
from .components import (
    Box,
    Component,
    bounding_box,
    cut_out,
    find_components,
    group_into_digits,
    mask_of,
    typical_height,
)
from .faint import check_nothing_faint, find_faint, strengthened
from .lines import without_lines
from .touching import Segment, segments

# All lengths are fractions of the typical height of the row's components.

# Ink whose longer side is at least `_DIGIT` is a digit, unless it is lower than `_FLAT`: then it is a dash.
_DIGIT = 0.45
_FLAT = 0.25

# Ink with a longer side below `_MARK` is a speck. Below `_POINT`, it is a point if it is less than twice as long as
# wide and fills `_SOLID` of its bounding box.
_MARK = 0.25
_POINT = 0.33
_SOLID = 0.6

# A digit that consists of two components has one with a longer side of at least this.
_PIECE = 0.35

# Ink of a size between these: it is a comma, an apostrophe or of another row if it is beside the nearest digit over
# less than `_BESIDE`; else a small digit if its longer side is at least `_SMALL_DIGIT` and it is wider than `_WIDE` of
# its own height. Anything else is an error.
_SMALL_DIGIT = 0.33
_WIDE = 0.5
_BESIDE = 0.2

# Ink lower than this is a fragment: it belongs to a digit nearby, if there is one.
_FRAGMENT = 0.6

# The largest distance between a fragment and the digit that it belongs to.
_NEARBY = 0.15

# The largest vertical distance between two parts of a digit that are no fragments.
_STACKED = 0.3

# The longer side of a digit, with its fragments, is at most this.
_WIDEST = 1.05

# Ink at the edge of the page that is more than this many times as thick as strokes is an object, or a shadow.
_THICK = 4.0

_SEVERAL_ROWS = "several rows of digits, or a row that lies on its side; expected one upright row"


def cut_row(ink: np.ndarray) -> list[Segment]:
    """Cut a row of digits.

    Args:
        ink: float32 (H, W), 0 to 1.

    Returns:
        The digits from left to right, without the ink of others. Those that may touch are cut in all likely ways.

    Raises:
        InputError: If there are no digits, several rows, lines around or through digits, or ink that may be a digit.
    """
    groups = find_groups(ink)
    tallest = max(box.height for _, box in groups)
    found = list[Segment]()
    for group_ink, box in groups:
        first = max((one.end for one in found), default=0)
        found += [one.moved(box.left, box.top, first) for one in segments(group_ink, tallest)]
    return found


def find_groups(ink: np.ndarray) -> list[tuple[np.ndarray, Box]]:
    """Group the ink of a row: what is connected, or one above the other, is one digit, or several that touch.

    Ink that is clearly smaller than a digit, above or below the row, a line, or a dark edge is left out.

    Args:
        ink: float32 (H, W), 0 to 1.

    Returns:
        For each group, from left to right, its ink, cropped and without its neighbours', and its box.

    Raises:
        InputError: See `cut_row`.
    """
    labels, components = find_components(ink)
    if components:
        height = typical_height(components)
        faint = find_faint(ink, height)
        strong = strengthened(ink, faint)
        if strong is not ink:
            labels, components = find_components(strong)
        cleaned = without_lines(strong, labels, components)
        if cleaned is not strong:
            labels, components = find_components(cleaned)
        components = _without_dark_edges(components, labels)
    if not components:
        raise InputError("no digit found: nothing but lines, or dark areas along the edges of the page")
    height = typical_height(components)
    components = _without_underlines(components, height)
    groups = _attach_fragments(_group(components, height), labels, height)
    digits = _choose_digits(groups, height)
    _check_one_row(digits, height)
    check_nothing_faint(faint, [bounding_box(group) for group in digits], _DIGIT * height)
    return [_cut_out(cleaned, group, labels) for group in digits]


def _cut_out(ink: np.ndarray, group: list[Component], labels: np.ndarray) -> tuple[np.ndarray, Box]:
    """Return a group's ink, cropped and without its neighbours', and its box."""
    box = bounding_box(group)
    margin = box.longer_side  # more than `cut_out` looks at
    left, top = max(box.left - margin, 0), max(box.top - margin, 0)
    around = slice(top, box.bottom + margin), slice(left, box.right + margin)
    mask = mask_of(group, labels[around])
    group_ink, inner = cut_out(ink[around], mask, (labels[around] > 0) & ~mask)
    return group_ink, Box(left + inner.left, top + inner.top, left + inner.right, top + inner.bottom)


def are_stacked(group: list[Component]) -> bool:
    """Whether two components, each high enough for a digit, have a larger vertical gap than broken strokes have."""
    box = bounding_box(group)
    # A single digit is hardly that slim and broken.
    gap = (0.06 if box.height > 1.7 * box.width else 0.12) * box.height
    boxes = sorted(_high_boxes(group, 0.35 * box.height), key=lambda box: box.top)
    return any(below.top - above.bottom > gap for above, below in pairwise(boxes))


def _high_boxes(components: Iterable[Component], least: float) -> list[Box]:
    """Return the boxes of the components with a height of at least `least` pixels."""
    return [component.box for component in components if component.box.height >= least]


def _without_dark_edges(components: list[Component], labels: np.ndarray) -> list[Component]:
    """Leave out components at the edges of the page that are much thicker than strokes, or as long as a whole side."""
    height, width = labels.shape
    if len(components) < 2:
        return components
    mask = labels > 0
    edges = mask & (scipy.ndimage.minimum_filter(mask.view(np.uint8), 3, mode="nearest") == 0)
    perimeters = np.bincount(labels[edges], minlength=labels.max() + 1)
    thickness = {component: 2 * component.area / max(perimeters[component.label], 1) for component in components}
    strokes = [thickness[component] for component in components if component.box.longer_side >= max(height, width) / 60]
    typical = float(np.median(strokes or list(thickness.values())))
    rest = []
    for component in components:
        left, top, right, bottom = box = component.box
        at_edge = left <= 1 or top <= 1 or right >= width - 1 or bottom >= height - 1
        whole_side = box.width >= 0.9 * width or box.height >= 0.9 * height
        if at_edge and (thickness[component] > _THICK * typical or whole_side):
            continue
        rest.append(component)
    return rest


def _without_underlines(components: list[Component], height: float) -> list[Component]:
    """Leave out long flat components; refuse components that extend around several others, such as cells of a form."""
    long = 1.5 * float(np.median([box.width for box in _high_boxes(components, 0.5 * height)]))
    rest = [component for component in components if component.box.height > 0.15 * height or component.box.width < long]
    high = _high_boxes(rest, 0.4 * height)
    for left, top, right, bottom in (component.box for component in rest):
        within = [box for box in high if left < box.left and box.right < right]
        if len(within) > 1:
            if all(box.bottom < top or box.top > bottom for box in within):
                raise InputError(_SEVERAL_ROWS)
            raise InputError("lines around or through the digits; expected a row of digits on plain paper")
    return rest


def _group(components: list[Component], height: float) -> list[list[Component]]:
    """Group components into digits, from left to right; one that is far above or below the others is its own group."""
    groups = []
    for group in group_into_digits(components):
        main = max(group, key=lambda component: component.box.height)
        near: list[Component] = []
        far: list[Component] = []
        for component in group:
            gap = max(component.box.top - main.box.bottom, main.box.top - component.box.bottom)
            reach = _NEARBY if component.box.longer_side < _FRAGMENT * height else _STACKED
            (far if gap > reach * height else near).append(component)
        groups += [near, *([component] for component in far)]
    return groups


def _choose_digits(groups: list[list[Component]], height: float) -> list[list[Component]]:
    """Return the groups that are digits, from left to right.

    Raises:
        InputError: If there are no digits, several rows, or a group too small for a digit and too large for a mark.
    """
    boxes = [bounding_box(group) for group in groups]
    certain = [box for box in boxes if box.longer_side >= _DIGIT * height and box.height >= _FLAT * height]
    if not certain:
        raise InputError("no digit found: nothing but flat strokes")
    digits, elsewhere = [], 0
    for group, box in sorted(zip(groups, boxes, strict=True), key=lambda pair: pair[1].left):
        longest = max(component.box.longer_side for component in group)
        if box in certain and (longest >= _PIECE * height or (len(group) > 2 and box.height >= _FRAGMENT * height)):
            digits.append(group)
            continue
        is_mark = box.longer_side < _MARK * height or box.height < _FLAT * height
        if is_mark or all(_is_point(component, height) for component in group):
            continue
        wide = box.width > _WIDE * box.height and box.longer_side >= _SMALL_DIGIT * height
        row = min(certain, key=lambda other: abs(other.left + other.right - box.left - box.right))
        if min(box.bottom, row.bottom) - max(box.top, row.top) < _BESIDE * height:
            elsewhere += wide
        elif wide and longest >= _SMALL_DIGIT * height:
            digits.append(group)
        else:
            raise InputError(
                f"cannot tell whether the ink after digit {len(digits)} is a digit:"
                f" its size is {box.longer_side / height:.2f} of the others'"
            )
    if elsewhere > 1:
        raise InputError(_SEVERAL_ROWS)
    if not digits:
        raise InputError("no digit found: nothing but short strokes and points")
    return digits


def _is_point(component: Component, height: float) -> bool:
    box = component.box
    round_ = box.longer_side < 2 * min(box.width, box.height)
    return round_ and box.longer_side < _POINT * height and component.area >= _SOLID * box.width * box.height


def _check_one_row(digits: list[list[Component]], height: float) -> None:
    boxes = sorted(map(bounding_box, digits), key=lambda box: box.left)
    steps = any(max(one.top, other.top) > min(one.bottom, other.bottom) for one, other in pairwise(boxes))
    high = [group for group in digits if bounding_box(group).height > 1.6 * height]
    if steps or any(map(are_stacked, high)) or sum(map(are_stacked, digits)) > len(digits) / 2:
        raise InputError(_SEVERAL_ROWS)


def _attach_fragments(groups: list[list[Component]], labels: np.ndarray, height: float) -> list[list[Component]]:
    """Merge ink too low for a digit with the nearest ink, if both fit into one digit.

    Pens skip, and the bar of a 5 is often apart from the rest.
    """
    low = [group for group in groups if bounding_box(group).height < _FRAGMENT * height]
    for component, *_ in sorted(low, key=lambda group: bounding_box(group).height):
        fragment = next(group for group in groups if component in group)  # lower ones may have been merged with it
        for group in _nearby(fragment, groups, labels, _NEARBY * height):
            merged = group + fragment
            if bounding_box(merged).longer_side <= _WIDEST * height:
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
    distance = scipy.ndimage.distance_transform_edt(~mask_of(fragment, around))
    distances = [distance[mask_of(group, around)].min(initial=math.inf) for group in groups]
    order = np.argsort(distances, kind="stable")
    return [groups[index] for index in order if groups[index] is not fragment and distances[index] <= reach]
