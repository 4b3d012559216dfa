"""Separate ink from paper: dark or light ink, in uneven light, in shadows, on paper with grain."""

from typing import NamedTuple

import numpy as np
import scipy
from PIL import Image

from ..errors import InputError
from .components import INKED, Box, Component, find_components, ink_box
from .mnist_form import stroke_width
from .paper import NOT_PAPER, WIDEST_STROKE, fit_local_paper, fit_paper, reduce_locally, solid_thickness

# The least difference between ink and paper, in grey levels of 255. Anything fainter is no writing.
_LEAST_CONTRAST = 16

# A shadow, or paper on lighter paper, has less than this fraction of the contrast of the strokes within it.
_PAPER_CONTRAST = 0.7

# A picture that was pasted onto a canvas has at least this many pixels on each side.
_SMALLEST_PAPER = 16

# Ink is an area, not a stroke, if its thickness is more than `_ROUND` of its longer side; or more than `_STRIP` of it,
# and the ink fills more than `_FILLED` of its box.
_ROUND = 0.4
_STRIP, _FILLED = 0.15, 0.6

# Medians and percentiles are computed on at least this many pixels, if there are as many. On all of them, they would
# take longer than everything else.
_SAMPLES = 5000


def find_ink(grey: np.ndarray, coarse: bool = False) -> np.ndarray:
    """Compute for each pixel of a page how much of it is covered by ink.

    The paper's brightness is fitted by a polynomial of degree two, so light can fall from one side. Ink is what differs
    from the paper by more than its grain: darker or lighter, whichever there is more of.

    An area too thick for a stroke may be a shadow, an object on the page, or the paper itself on a background of
    another colour. If there are strokes within or beside it, they alone are ink.

    Args:
        grey: uint8 (H, W).
        coarse: whether the page was enlarged from pixels as wide as strokes. Then the grey of a pixel is the fraction
            of it that is ink, as in MNIST's own images. Otherwise most grey pixels are the blurred edges of strokes,
            and dark grey ones are ink.

    Returns:
        float32 (H, W), from 0, paper, to 1, ink.

    Raises:
        InputError: If nothing stands out from the paper, or only an area that reaches the edge of the page does.
    """
    fitted = fit_paper(grey)
    try:
        ink = _coverage(_difference(grey, fitted), coarse)
    except InputError:
        if (strokes := _find_strokes(grey)) is None:
            raise
        return strokes.ink
    if (box := _paper_box(ink)) and (pasted := _ink_within(grey, box)) is not None:
        return pasted
    if thickness := solid_thickness(ink):
        found = _find_strokes(grey)
        strokes = _without_parts(found, grey, fitted, ink) if found else None
        if strokes and 2 * strokes.width <= thickness:
            return strokes.ink
        if not strokes and _is_area(ink):
            raise InputError(
                "no digit found: a dark or light area reaches the edge of the page, such as a shadow or an object, and"
                " no digit stands out from it; light the page evenly"
            )
    return ink


def _paper_box(ink: np.ndarray) -> Box | None:
    """Return the bounding box of all ink if it is a filled rectangle: a picture of paper, pasted onto a canvas."""
    mask = ink >= NOT_PAPER
    if not mask.any():
        return None
    box = ink_box(mask)
    inset = box.longer_side // 40 + 1
    filled = mask[box.top + inset : box.bottom - inset, box.left + inset : box.right - inset]
    if min(filled.shape) < _SMALLEST_PAPER:
        return None
    sides = filled[0], filled[-1], filled[:, 0], filled[:, -1]
    is_paper = filled.mean() > 0.5 and min(side.mean() for side in sides) > 0.8 and np.mean(np.concatenate(sides)) > 0.9
    return box if is_paper else None


def _ink_within(grey: np.ndarray, box: Box) -> np.ndarray | None:
    """Return the ink of the picture within a box; None if there is none but the rounded ends of a thick stroke."""
    inset = box.longer_side // 40 + 1
    inside = slice(box.top + inset, box.bottom - inset), slice(box.left + inset, box.right - inset)
    try:
        pasted = _coverage(_difference(grey[inside], fit_paper(grey[inside])))
    except InputError:
        return None
    height, width = pasted.shape
    if all(
        (one.box.left == 0 or one.box.right == width) and (one.box.top == 0 or one.box.bottom == height)
        for one in find_components(pasted)[1]
    ):
        return None
    result = np.zeros(grey.shape, np.float32)
    result[inside] = pasted
    return result


def _difference(grey: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """Subtract the page from its paper: positive where the page is darker, and there scaled to white paper."""
    darker = paper - grey
    # Ink on darker paper has less contrast, but the same contrast relative to the paper's brightness.
    difference: np.ndarray = np.where(darker > 0, darker * (255 / np.maximum(paper, 32)), darker)
    return difference


def _coverage(difference: np.ndarray, coarse: bool = False, sign: int = 0) -> np.ndarray:
    """Compute the ink from `_difference`: dark ink if `sign` is 1, light if -1, whichever there is more of if 0."""
    grain = _noise(difference)
    if grain > 2:
        difference = scipy.ndimage.gaussian_filter(difference, min(1.0, max(difference.shape) / 64))
        grain = _noise(difference)
    threshold = max(_LEAST_CONTRAST / 2, 4 * grain)
    if not sign:
        dark, light = (np.clip(side - threshold, 0, None).sum() for side in (difference, -difference))
        sign = 1 if dark >= light else -1
    ink = sign * difference
    contrast = _percentile(ink[ink > threshold], 85)
    if contrast < max(_LEAST_CONTRAST, 5 * grain):
        raise InputError(
            f"no digit found: the page looks empty, with a contrast of {max(contrast, 0):.0f} of 255 grey levels and"
            f" noise of {grain:.0f}; colours count by their brightness alone"
        )
    if coarse:
        black, white = 0.96 * _percentile(ink[ink > threshold], 90), 3 * grain
    else:
        black, white = 0.92 * contrast, max(3 * grain, 0.15 * contrast)
    white = min(white, 0.4 * contrast)
    coverage: np.ndarray = np.clip((ink - white) / (black - white), 0, 1).astype(np.float32)
    return coverage


class _Strokes(NamedTuple):
    """Ink that is darker than its surroundings, or lighter.

    Attributes:
        ink: float32 (H, W).
        labels: int32 (H, W), for each pixel the label of its component.
        components: the components.
        kept: bool (K + 1,), which of them are strokes, by label.
        contrasts: float64 (K + 1,), how much darker or lighter they are than the paper, in grey levels.
    """

    ink: np.ndarray
    labels: np.ndarray
    components: list[Component]
    kept: np.ndarray
    contrasts: np.ndarray

    @property
    def width(self) -> float:
        """Mean width of the strokes, in pixels."""
        return stroke_width(self.ink >= INKED)

    def only(self, kept: np.ndarray) -> "_Strokes | None":
        """Keep only some components, given as bool (K + 1,) by label; return None if no stroke is left."""
        kept = kept.copy()
        kept[0] = False
        mask = kept[self.labels]
        soft = scipy.ndimage.maximum_filter(mask, 2 * max(1, round(stroke_width(mask) / 2)) + 1) & (self.labels == 0)
        rest = self._replace(ink=np.where(mask | soft, self.ink, 0).astype(np.float32), kept=kept)
        longest = max((one.box.longer_side for one in self.components if kept[one.label]), default=0)
        return rest if longest >= max(WIDEST_STROKE * min(self.ink.shape) / 4, 2 * rest.width, 1) else None


def _find_strokes(grey: np.ndarray) -> _Strokes | None:
    """Find the strokes that stand out from their surroundings; None if there are none."""
    paper, sign = fit_local_paper(grey)
    try:
        ink = _coverage(_difference(grey, paper), sign=sign)
    except InputError:
        return None
    labels, components = find_components(ink)
    if not components:
        return None
    numbers = [component.label for component in components]
    levels, paper_levels = (np.append(0, scipy.ndimage.median(page, labels, numbers)) for page in (grey, paper))
    contrasts = sign * (paper_levels - levels)
    # The corners of an object are as narrow as strokes, but the pixels next to them are as dark.
    rim = scipy.ndimage.maximum_filter(labels, 5) * (labels == 0)
    as_dark = np.append(0, scipy.ndimage.mean(sign * (paper_levels[rim] - grey) > 0.75 * contrasts[rim], rim, numbers))
    kept = (as_dark < 0.15) & (contrasts > _LEAST_CONTRAST)
    return _Strokes(ink, labels, components, kept, contrasts).only(kept)


def _without_parts(strokes: _Strokes, grey: np.ndarray, paper: np.ndarray, ink: np.ndarray) -> _Strokes | None:
    """Remove strokes that are joined to a solid area as dark as they are, or as light as the paper around them.

    Return None if no stroke is left, nothing is solid, or the solid ink is a thick digit, away from the page's edge.
    """
    found, components = find_components((ink >= NOT_PAPER).astype(np.float32))
    flat = ((found > 0) & (strokes.labels == 0)).astype(np.float32)
    inner = scipy.ndimage.minimum_filter(reduce_locally(flat) >= 0.6, 3)  # without soft edges
    size = grey.shape[1], grey.shape[0]
    solid = np.asarray(Image.fromarray(inner).resize(size, Image.Resampling.NEAREST)) & (flat > 0)
    contrast = np.abs(paper - grey)
    is_part = np.zeros(len(components) + 1, bool)
    least = (WIDEST_STROKE * min(grey.shape)) ** 2 / 2
    thick = [one for one, area in zip(components, _areas(found, solid), strict=True) if area >= least]
    for component in thick:
        pixels = found == component.label
        within = pixels & strokes.kept[strokes.labels]
        darkest = np.median(contrast[within]) if within.any() else 0.0
        if np.median(contrast[pixels & solid]) > _PAPER_CONTRAST * darkest:
            if not _touches_edge(component.box, grey.shape):
                return None
            is_part[component.label] = True
    numbers = np.arange(1, len(strokes.kept))
    joined = np.append(0, scipy.ndimage.maximum(found, strokes.labels, numbers))
    as_paper = np.append(0, scipy.ndimage.mean(contrast, strokes.labels, numbers)) < np.maximum(
        _LEAST_CONTRAST, strokes.contrasts / 4
    )
    return strokes.only(strokes.kept & ~is_part[joined] & ~as_paper) if thick else None


def _touches_edge(box: Box, page: tuple[int, ...]) -> bool:
    return box.left == 0 or box.top == 0 or box.right == page[1] or box.bottom == page[0]


def _is_area(ink: np.ndarray) -> bool:
    """Whether the largest component reaches the edge of the page and is no stroke: round, a polygon, or a strip."""
    labels, components = find_components(ink)
    largest = max(components, key=lambda component: component.area)
    box = largest.box
    if not _touches_edge(box, ink.shape):
        return False
    mask = np.pad(labels[box.top : box.bottom, box.left : box.right] == largest.label, 1)
    thickness = 2 * float(scipy.ndimage.distance_transform_edt(mask).max()) / box.longer_side
    filled = largest.area / (box.width * box.height)
    return thickness > _ROUND or (thickness > _STRIP and filled > _FILLED)


def _areas(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Count the pixels of each component that are set in a mask."""
    return np.bincount(labels[mask], minlength=labels.max() + 1)[1:]


def _noise(difference: np.ndarray) -> float:
    """Estimate the standard deviation of the paper's grain by the median of deviations small enough to be grain."""
    deviations = np.abs(difference.ravel()[:: difference.size // _SAMPLES * 2 + 1])
    small = deviations[deviations <= 48]
    return float(1.4826 * np.median(small)) if len(small) else 0.0


def _percentile(values: np.ndarray, percent: float) -> float:
    return float(np.percentile(values[:: len(values) // _SAMPLES * 2 + 1], percent)) if len(values) else 0.0
