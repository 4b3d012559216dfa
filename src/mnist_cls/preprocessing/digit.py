"""The digits of a page: one, or those of a row."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..images import SIZE, in_mnist_form
from .components import INKED, SOFT, clean, columns, cut_out, find_components, ink_box
from .decode import Page, enlarge
from .mnist_form import centre, place
from .paper import find_ink
from .row import cut_row, stacked

# Pages are looked at with a longer side of this many pixels at least, if they have as many; a row has several digits.
SIDE, ROW_SIDE = 240, 960


# A digit that is smaller there is looked at again with more pixels, if there are any.
_SMALL = 32


# Pages that have to be enlarged so many times, with 21 pixels or fewer, have pixels as wide as strokes. What is inked
# less than the second is not taken for the digit's edge there.
_COARSE, _COARSE_SOFT = 4, 0.2


class Digits(NamedTuple):
    """The digits of one image.

    Attributes:
        images: uint8 (K, 28, 28), in MNIST's form, left to right.
        boxes: int32 (K, 4), where each was in the image, in its pixels: left, top, right, bottom (the last two
            exclusive). Of an image that is in MNIST's form it is the whole.
    """

    images: np.ndarray
    boxes: np.ndarray


def find_one(page: Page, read: Callable[[int], Page]) -> Digits:
    """Find the one digit of a page.

    Args:
        page: the page, perhaps smaller than it is.
        read: gives the page with a longer side of at least so many pixels, if it has as many.

    Raises:
        InputError: there is none, or more than one.
    """
    if page.scale > 1:
        try:
            digits = _one(page)
            left, top, right, bottom = digits.boxes[0]
            if max(right - left, bottom - top) >= _SMALL * page.scale:
                return digits
        except InputError:
            pass  # with so few pixels it may have vanished
        page = read(4 * SIDE)
    return _one(page)


def _one(page: Page) -> Digits:
    if page.scale == 1 and (moved := _moved(page.grey)):
        return moved
    grey, zoom = enlarge(page.grey)
    found = find_ink(grey)
    ink = clean(found)
    _check_one(ink)
    own, coarse = ink >= INKED, zoom >= _COARSE
    if coarse:
        ink = np.where((ink > 0) | (found == 0), find_ink(grey, coarse), 0).astype(np.float32)
    digit, box = cut_out(ink, own, soft=_COARSE_SOFT if coarse else SOFT)
    boxes = np.multiply([box], page.scale / zoom)
    # How thick strokes are cannot be told where a pixel is as wide as they.
    return Digits(place(digit, usual_strokes=not coarse)[None], boxes.round().astype(np.int32))


def _moved(grey: np.ndarray) -> Digits | None:
    """A digit of MNIST's on another page, or in another place: it is put back, and nothing of it changes."""
    for plain in (grey, 255 - grey):
        if not plain.any():
            return None
        left, top, right, bottom = box = ink_box(plain > 0)
        if max(right - left, bottom - top) <= SIZE:
            form = centre(plain[top:bottom, left:right])
            if in_mnist_form(form[None])[0]:
                return Digits(form[None], np.array([box], np.int32))
    return None


def _check_one(ink: np.ndarray) -> None:
    # Strokes that break are one digit's; two digits are further apart, and nearly of one height.
    _, components = find_components(ink, bridge=0.07)
    groups = columns(components)
    heights = [
        max(component.box[3] for component in group) - min(component.box[1] for component in group) for group in groups
    ]
    several = sum(height >= 0.7 * max(heights) for height in heights)
    if several > 1:
        raise InputError("several digits in one image; expected one, split=true reads rows")
    if stacked(components):
        raise InputError("digits above one another; expected one digit, or with split=true one row")


def find_row(page: Page) -> Digits:
    """Find the digits of a page that shows a row of them.

    Raises:
        InputError: there are none, or several rows.
    """
    grey, zoom = enlarge(page.grey)
    digits = cut_row(clean(find_ink(grey)))
    boxes = np.array([box for _, box in digits], np.float64) * (page.scale / zoom)
    return Digits(np.stack([place(ink) for ink, _ in digits]), boxes.round().astype(np.int32))
