"""The digits of a page: a single one, or a row of them."""

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..images import SIZE, in_mnist_form
from .cleaning import clean
from .components import INKED, SOFT, Box, Component, bounding_box, cut_out, find_components, ink_box
from .decode import Page, enlarge
from .ink import find_ink
from .mnist_form import centre, scale_and_centre
from .row import cut_row
from .touching import best_way

# Resolution at which pages are analysed: pixels of the longer side, if the file has as many. Rows need more.
SIDE, ROW_SIDE = 240, 960

# A digit with a longer side of fewer pixels is analysed again at four times the resolution, if the file has it.
_SMALL = 32

# Pages that are enlarged at least this many times, because their shorter side has at most 21 pixels, are coarse: a
# pixel is as wide as a stroke, so its grey is the fraction of it that is ink, and stroke widths cannot be measured.
_COARSE_ZOOM = 4

# On coarse pages, the least ink of a pixel at the edge of a digit; see SOFT.
_COARSE_SOFT = 0.2

# Pixels with at least this much ink connect components.
_FAINT = 0.15

# Gaps in the strokes of a digit are at most this fraction of its height.
_BROKEN = 0.07

# Components with a longer side of at least this fraction of the largest one's are digits, or large parts of one. Two
# parts of one digit share columns: only five of 10,000 training images have two that do not.
_DIGIT_PART = 0.35

# Ink more than this many times as wide as high is several digits: only one of 10,000 training images is as wide.
_WIDEST = 2.0

# Maximum number of components that are compared with one another. More are several digits anyway.
_MANY = 40


class Digits(NamedTuple):
    """The digits of one image.

    Attributes:
        images: uint8 (K, 28, 28), in MNIST's form, from left to right.
        boxes: int32 (K, 4), the bounding box of each digit in the original image, in its pixels: left, top, right,
            bottom (the last two exclusive). For an image that is in MNIST's form already, the whole image.
        spans: int32 (K, 2), for each digit the numbers of the cuts on its left and on its right, from 0. Where digits
            of a row may touch, there can be images for all likely ways of cutting them.
        priors: float32 (K,), log-likelihoods of these cuts.
    """

    images: np.ndarray
    boxes: np.ndarray
    spans: np.ndarray = np.array([[0, 1]], np.int32)
    priors: np.ndarray = np.zeros(1, np.float32)

    def most_likely(self) -> "Digits":
        """Choose among the ways of cutting a row by the likelihoods of the cuts alone."""
        chosen = best_way(self.spans, self.priors)
        return Digits(self.images[chosen], self.boxes[chosen], self.spans[chosen], self.priors[chosen])


def find_digit(page: Page, read: Callable[[int], Page]) -> Digits:
    """Find the single digit of a page, which can have a reduced resolution.

    `read` returns the page again, with a longer side of at least the given number of pixels if the file has them.

    Raises:
        InputError: If there is no digit, or more than one.
    """
    if page.scale > 1:
        try:
            digits = _find_digit(page)
            left, top, right, bottom = digits.boxes[0]
            if max(right - left, bottom - top) >= _SMALL * page.scale:
                return digits
        except InputError:
            pass  # it may be too small for this resolution
        page = read(4 * SIDE)
    return _find_digit(page)


def find_row(page: Page) -> Digits:
    """Find the digits of a page that shows one row of them. Where they may touch, return all likely ways to cut them.

    Raises:
        InputError: If there are none, or several rows.
    """
    grey, zoom = enlarge(page.grey)
    segments = cut_row(find_ink(grey))
    images = np.stack([scale_and_centre(one.ink) for one in segments])
    boxes = np.array([one.box for one in segments], np.float64) * (page.scale / zoom)
    spans = np.array([(one.start, one.end) for one in segments], np.int32)
    priors = np.array([one.prior for one in segments], np.float32)
    return Digits(images, boxes.round().astype(np.int32), spans, priors)


def _find_digit(page: Page) -> Digits:
    if page.scale == 1 and (digits := _moved_mnist_digit(page.grey)):
        return digits
    grey, zoom = enlarge(page.grey)
    coarse = zoom >= _COARSE_ZOOM
    found = find_ink(grey)
    ink = clean(found)
    _check_single(ink)
    mask = ink >= INKED
    if coarse:
        removed = (ink == 0) & (found > 0)
        ink = np.where(removed, 0, find_ink(grey, coarse=True)).astype(np.float32)
    digit, box = cut_out(ink, mask, soft=_COARSE_SOFT if coarse else SOFT)
    boxes = np.multiply([box], page.scale / zoom)
    return Digits(scale_and_centre(digit, adjust_strokes=not coarse)[None], boxes.round().astype(np.int32))


def _moved_mnist_digit(grey: np.ndarray) -> Digits | None:
    """Return a digit of MNIST's that was pasted onto a larger page, or moved: only its position changes. Else None."""
    for candidate in (grey, 255 - grey):
        if not candidate.any():
            return None
        box = ink_box(candidate > 0)
        if box.longer_side <= SIZE:
            image = centre(candidate[box.top : box.bottom, box.left : box.right])
            if in_mnist_form(image[None])[0]:
                return Digits(image[None], np.array([box], np.int32))
    return None


def _check_single(ink: np.ndarray) -> None:
    """Refuse ink that consists of several digits: beside one another, above one another, or joined by a line."""
    # Where a pen was light, its ink can be faint. Faint ink joins parts of one digit, but alone it is no digit.
    joined = np.where(ink >= _FAINT, 1, 0).astype(np.float32)
    components = _inked(*find_components(joined), ink)
    largest = max(component.box.longer_side for component in components)
    if len(components) > 1:
        # A broken digit is hardly more than twice as high as its largest part. Several rows of digits are.
        height = min(bounding_box(components).height, 2 * largest)
        components = _inked(*find_components(joined, _BROKEN * height / largest), ink)
        largest = max(component.box.longer_side for component in components)
    candidates = [component for component in components if component.box.longer_side >= _DIGIT_PART * largest]
    heights = [component.box.height for component in candidates]
    box = bounding_box(candidates)
    pairs = list(combinations(candidates[:_MANY], 2))
    beside = any(max(one.box.left, other.box.left) > min(one.box.right, other.box.right) for one, other in pairs)
    stacked = any(_are_stacked(one.box, other.box) for one, other in pairs)
    tall = [component for component in candidates[:_MANY] if component.box.height >= 0.6 * max(heights)]
    if beside and any(_are_stacked(one.box, other.box) for one, other in combinations(tall, 2)):
        raise InputError(
            "several rows of digits in one image; expected one digit (if it is one row, split=true of predict reads it)"
        )
    if beside or box.width > _WIDEST * box.height:
        raise InputError("several digits in one image; expected one (split=true of predict reads rows)")
    if stacked:
        raise InputError("digits above one another; expected one digit")


def _inked(labels: np.ndarray, components: list[Component], ink: np.ndarray) -> list[Component]:
    """Return the components that are not faint throughout."""
    inked = set(np.unique(labels[ink >= INKED]).tolist())
    return [component for component in components if component.label in inked]


def _are_stacked(one: Box, other: Box) -> bool:
    """Whether two components, each high enough for a digit, have a larger vertical gap than broken strokes have."""
    low, high = sorted((one.height, other.height))
    top, bottom = min(one.top, other.top), max(one.bottom, other.bottom)
    width = max(one.right, other.right) - min(one.left, other.left)
    # A single digit is hardly that slim and broken.
    gap = (0.06 if bottom - top > 1.7 * width else 0.12) * (bottom - top)
    return low >= _DIGIT_PART * high and max(one.top, other.top) - min(one.bottom, other.bottom) > gap
