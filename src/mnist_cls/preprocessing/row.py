"""A row of digits, such as a postcode or an amount, cut into its digits."""

from itertools import pairwise

import numpy as np

from ..errors import InputError
from .parts import Part, columns, find_parts

# Smaller than this share of the tallest digit's height is no digit: a comma, a point; and lower than this, a dash.
_SMALLEST, _LOWEST = 0.45, 0.25
# A digit's largest piece is hardly smaller than this, in heights of the tallest; the two points of a colon are.
_PIECE = 0.35
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
    labels, parts = find_parts(ink)
    parts = _without_underlines(parts)
    groups = columns(parts)
    tall = max(part.height for part in parts)
    groups = [group for group in _with_bars(groups, tall) if _is_digit(group, tall)]
    if sum(stacked(group) for group in groups) > len(groups) / 2 or _apart(groups, tall):
        raise InputError("several rows of digits; expected one")
    digits = []
    for group in groups:
        left, top = (min(part.box[side] for part in group) for side in (0, 1))
        right, bottom = (max(part.box[side] for part in group) for side in (2, 3))
        # The soft edge around its own ink belongs to no part; another's ink does.
        strange = ~np.isin(labels[top:bottom, left:right], [0, *(part.number for part in group)])
        own = np.where(strange, 0, ink[top:bottom, left:right]).astype(np.float32)
        for start, stop in _cuts(own, tall):
            rows = np.flatnonzero((own[:, start:stop] >= 0.5).any(1))
            if len(rows):
                box = left + start, top + int(rows[0]), left + stop, top + int(rows[-1]) + 1
                digits.append((own[rows[0] : rows[-1] + 1, start:stop], box))
    return digits


def _without_underlines(parts: list[Part]) -> list[Part]:
    """Leave out long flat parts, and refuse what goes round several others: cells of forms look like ones."""
    tall = max(part.height for part in parts)
    usual = float(np.median([part.width for part in parts if part.height >= 0.5 * tall]))
    rest = [part for part in parts if part.height > 0.15 * tall or part.width < 1.5 * usual]
    for part in rest:
        within = [other for other in rest if part.box[0] < other.box[0] and other.box[2] < part.box[2]]
        if sum(other.height >= 0.4 * part.height for other in within) > 1:
            raise InputError("lines around or through the digits; expected a row of digits on plain paper")
    return rest


def stacked(group: list[Part]) -> bool:
    """Whether parts stand above one another, each high enough for a digit and further apart than a broken one's."""
    width, height = _extent(group, 0), _extent(group, 1)
    least = 0.06 * height if height > 1.7 * width else 0.12 * height  # one digit is hardly that slim and broken
    high = sorted((part for part in group if part.height >= 0.35 * height), key=lambda part: part.box[1])
    return any(below.box[1] - above.box[3] > least for above, below in pairwise(high))


def _apart(groups: list[list[Part]], tall: int) -> bool:
    """Whether neighbours, both high enough, have no height in common."""
    high = [part for group in groups for part in group if part.height >= 0.6 * tall]
    pairs = pairwise(sorted(high, key=lambda part: part.box[0]))
    return any(max(one.box[1], other.box[1]) > min(one.box[3], other.box[3]) for one, other in pairs)


def _with_bars(groups: list[list[Part]], tall: int) -> list[list[Part]]:
    """Put low pieces to the digit close to their left: the bar of a 5 often stands apart."""
    joined: list[list[Part]] = []
    for group in groups:
        left = min(part.box[0] for part in group)
        gap = left - max(part.box[2] for part in joined[-1]) if joined else tall
        if _extent(group, 1) < 0.45 * tall and gap < 0.12 * tall:
            joined[-1] = joined[-1] + group
        else:
            joined.append(group)
    return joined


def _is_digit(group: list[Part], tall: int) -> bool:
    width, height = _extent(group, 0), _extent(group, 1)
    # A colon is high, but its parts are not.
    largest = max(max(part.width, part.height) for part in group)
    return height >= _LOWEST * tall and max(width, height) >= _SMALLEST * tall and largest >= _PIECE * tall


def _extent(group: list[Part], axis: int) -> int:
    return max(part.box[axis + 2] for part in group) - min(part.box[axis] for part in group)


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
