"""Ink that may be one digit or several that touch: cut in all likely ways, for the network to choose.

After the classic scheme for handwritten digit strings: over-segment, classify every piece, and take the best path (see
Casey and Lecolinet 1996, https://doi.org/10.1109/34.506792).
"""

from typing import NamedTuple

import numpy as np
import scipy

from .components import INKED, NEIGHBOURS, SOFT, Box, ink_box
from .pieces import log_likelihoods

# All lengths are fractions of the height of the row's tallest digit.

# Ink is one digit if it is narrower than `_NARROW`, or if its log-likelihood of being one is above `_SURE`.
_NARROW, _SURE = 0.4, -0.02

# Pieces with a smaller log-likelihood are left out.
_UNLIKELY = -6.0

# Cuts are at least this far apart, and as far from the ends.
_APART, _FROM_ENDS = 0.1, 0.12

# A piece that is narrower, wider or lower than this is no digit.
_NARROWEST, _WIDEST, _LOWEST = 0.12, 1.15, 0.5

# Only this many cuts are tried, the best ones.
_MOST_CUTS = 10

# Cuts are searched for at a resolution of about this many pixels for the height of the tallest digit.
_SEARCH_HEIGHT = 36

# A cut crosses ink on at most this fraction of its way.
_MOST_INK = 0.5

# The cost of a cut for each pixel on its way, where a pixel of ink costs 1, and for each step to the side.
_LENGTH_COST, _SIDE_COST = 0.05, 0.3

# Log-likelihoods. Of each cut, so that the reading with fewer digits is taken if two are equally good; and of the ink
# that a cut crosses, for an amount as long as the height.
_CUT, _CROSSED = -0.2, -0.5

# A digit is seldom wider than `_WIDE`. Its log-likelihood falls with the square of the excess, in units of `_EXCESS`.
# Two digits that touch are wider, but a network reads them as one with high confidence.
_WIDE, _EXCESS = 0.95, 0.1

# Components with less than this fraction of the piece's pixels are remnants of a neighbour beside the cut.
_REMNANT = 0.08


class Segment(NamedTuple):
    """A piece of a row that may be a digit.

    Attributes:
        ink: float32 (H, W), 0 to 1, cropped.
        box: its bounding box.
        start: number of the cut on its left. The cuts of a row are numbered from left to right; 0 is its start.
        end: number of the cut on its right.
        prior: log-likelihood of its shape and of its right cut, up to a constant.
    """

    ink: np.ndarray
    box: Box
    start: int
    end: int
    prior: float = 0.0

    def moved(self, left: int, top: int, first: int) -> "Segment":
        """Return the segment with its box moved by `left` and `top` pixels, and `first` added to its cuts' numbers."""
        x, y, right, bottom = self.box
        box = Box(x + left, y + top, right + left, bottom + top)
        return Segment(self.ink, box, self.start + first, self.end + first, self.prior)


def segments(ink: np.ndarray, height: float) -> list[Segment]:
    """Return connected ink as a segment; if it may be several digits, followed by its pieces, cut in all likely ways.

    Args:
        ink: float32 (H, W), 0 to 1, cropped.
        height: of the row's tallest digit, in pixels.
    """
    rows, width = ink.shape
    whole = ink, Box(0, 0, width, rows)
    likelihood = float(log_likelihoods(ink, [whole], height)[0])
    if likelihood > _SURE or width < _NARROW * height:
        return [Segment(*whole, 0, 1, likelihood)]
    found = candidates(ink, height)
    likelihoods = log_likelihoods(ink, [(one.ink, one.box) for one in found], height).tolist()
    likely = [one._replace(prior=one.prior + more) for one, more in zip(found, likelihoods, strict=True)]
    return [one for one in likely if one is likely[0] or one.prior > _UNLIKELY]


def candidates(ink: np.ndarray, height: float) -> list[Segment]:
    """Cut connected ink in all ways that leave pieces of the size of digits; the first segment is the whole."""
    rows, width = ink.shape
    columns = np.arange(width)
    edges = [np.zeros(rows, int), *_cuts(ink, height), np.full(rows, width)]
    last = len(edges) - 1
    found = [Segment(ink, Box(0, 0, width, rows), 0, last, _by_width(width / height))]
    for start in range(last):
        for end in range(start + 1, last + (start > 0)):
            inside = (columns >= edges[start][:, None]) & (columns < edges[end][:, None])
            piece = _without_remnants(np.where(inside, ink, 0))
            soft = piece >= SOFT
            if not soft.any():
                continue
            left, top, right, bottom = box = ink_box(soft)
            if _NARROWEST * height <= box.width <= _WIDEST * height and box.height >= _LOWEST * height:
                crossed = 0.0 if end == last else float(ink[np.arange(rows), edges[end]].sum()) / height
                prior = _by_width(box.width / height) + (end < last) * _CUT + crossed * _CROSSED
                found.append(Segment(piece[top:bottom, left:right], box, start, end, prior))
    return found


def best_way(spans: np.ndarray, scores: np.ndarray) -> list[int]:
    """Find the path from a row's first cut to its last with the highest sum of scores; return its segments in order.

    Args:
        spans: int (K, 2), the numbers of the cuts on the left and right of each segment; at least one path must lead
            from 0 to the last.
        scores: float (K,), log-likelihoods.
    """
    if len(spans) == spans.max(initial=0) and (np.diff(spans) == 1).all():  # nothing to choose
        return list(range(len(spans)))
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    # In this order, all segments that end at a cut come before those that start there.
    for index in np.argsort(spans[:, 0], kind="stable").tolist():
        start, end = spans[index].tolist()
        if start in best:
            score = best[start][0] + float(scores[index])
            if end not in best or score > best[end][0]:
                best[end] = score, [*best[start][1], index]
    return best[int(spans.max())][1]


def _by_width(width: float) -> float:
    return -((max(0.0, width - _WIDE) / _EXCESS) ** 2) / 2


def _cuts(ink: np.ndarray, height: float) -> list[np.ndarray]:
    """Find the paths from top to bottom that cross the least ink, from left to right; int (H,) each, columns by row.

    Paths can slant, as digits do: dynamic programming finds the best path through each pixel of the middle row.
    """
    step = max(1, round(height / _SEARCH_HEIGHT))
    small = ink[step // 2 :: step, step // 2 :: step]
    rows, width = small.shape
    if rows < 3 or width < 3:
        return []
    middle = rows // 2
    above, from_above = _best_paths(small[: middle + 1])
    below, from_below = _best_paths(small[middle:][::-1])
    cost = above + below - small[middle]
    margin, apart = max(1, round(_FROM_ENDS * height / step)), _APART * height / step
    chosen = list[int]()
    for column in np.argsort(cost, kind="stable").tolist():
        if cost[column] - rows * _LENGTH_COST > _MOST_INK * rows:
            break
        if margin <= column < width - margin and all(abs(column - other) >= apart for other in chosen):
            chosen.append(column)
            if len(chosen) == _MOST_CUTS:
                break
    paths = []
    for column in sorted(chosen):
        up, down = _follow(from_above, column), _follow(from_below, column)
        path = np.concatenate([up[::-1], down[1:]])
        paths.append((path * step + step // 2).repeat(step)[: len(ink)])
    # Where the height is no multiple of the step, the last pixel row follows the one before.
    return [np.pad(path, (0, len(ink) - len(path)), mode="edge") for path in paths]


def _best_paths(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cost of the best path from the first row to each pixel of the last one, and each pixel's step back."""
    rows, width = ink.shape
    steps = np.zeros((rows, width), int)
    cost = ink[0] + _LENGTH_COST
    for row in range(1, rows):
        sides = np.pad(cost, 1, constant_values=np.inf) + _SIDE_COST
        options = np.stack([cost, sides[:-2], sides[2:]])
        best = options.argmin(0)
        steps[row] = np.array([0, -1, 1])[best]
        cost = options.min(0) + ink[row] + _LENGTH_COST
    return cost, steps


def _follow(steps: np.ndarray, column: int) -> np.ndarray:
    """Return the columns of the best path that ends in a column of the last row, from there to the first row."""
    path = [column]
    for row in range(len(steps) - 1, 0, -1):
        column += int(steps[row, column])
        path.append(column)
    return np.array(path)


def _without_remnants(ink: np.ndarray) -> np.ndarray:
    mask = ink >= INKED
    labels, count = scipy.ndimage.label(mask, NEIGHBOURS)
    if count < 2:
        return ink
    areas = np.bincount(labels.ravel())
    small = areas < _REMNANT * areas[1:].sum()
    removed = mask & small[labels]
    kept = mask & ~small[labels]
    near = scipy.ndimage.binary_dilation(removed, iterations=2) & ~kept
    return np.where(near, 0, ink)
