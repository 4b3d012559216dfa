"""From any image of one digit, or of a row of them, to MNIST's form."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from PIL import Image

from ..errors import InputError
from ..images import SIZE, in_mnist_form
from .decode import Page, decode, reduce, to_grey
from .digit import ROW_SIDE, SIDE, Digits, find_one, find_row

__all__ = ["Digits", "prepare", "prepare_all", "to_mnist_form"]


def to_mnist_form(image: Image.Image | np.ndarray) -> np.ndarray:
    """Bring an image of one digit into MNIST's form, step by step as MNIST's makers did (LeCun et al. 1998).

    Transparent parts are taken away and colours become grey; ink and paper are told apart, whichever is darker, under
    uneven light; rulings and frames at the edges and specks are removed; the ink is cropped, scaled to fit 20x20 with
    its aspect kept, strokes much thinner or thicker than MNIST's are brought near its width, and the digit is placed
    in 28x28 with its centre of mass in the middle. An image that is in MNIST's form stays as it is; if it is inverted,
    that is all that changes.

    Args:
        image: of any mode and size; as an array uint8 (H, W), (H, W, 3) or (H, W, 4).

    Returns:
        uint8 (28, 28), bright ink on black.

    Raises:
        InputError: there is no ink, nothing but ink, or more than one digit.
    """
    form: np.ndarray = prepare(image).images[0]
    return form


def prepare(image: bytes | np.ndarray | Image.Image, preprocess: str = "auto", split: bool = False) -> Digits:
    """Find the digit of an image, or the digits of its row, and bring each into MNIST's form.

    Args:
        image: the contents of an image file; its pixels, uint8 (H, W), (H, W, 3) or (H, W, 4); or an image.
        preprocess: "auto", see `to_mnist_form`; or "none" for images that are 28x28 and shall be taken as they are.
        split: look for a row of digits instead of one.

    Raises:
        InputError: it is no image, or shows no digit, or without `split` several.
    """
    [result] = prepare_all([image], preprocess, split)
    if isinstance(result, InputError):
        raise result
    return result


def prepare_all(
    images: Iterable[bytes | np.ndarray | Image.Image | InputError], preprocess: str = "auto", split: bool = False
) -> list[Digits | InputError]:
    """Do with each image what `prepare` does; in place of what it raises is the error, and errors stay as they are.

    Whether images of 28x28 pixels are in MNIST's form is told of all at once, in a fraction of the time.
    """
    found = [_look(image, preprocess, split) for image in images]
    small = {place: look for place, look in enumerate(found) if isinstance(look, Page)}
    if small:
        greys = np.stack([page.grey for page in small.values()])
        plain, inverted = in_mnist_form(greys), in_mnist_form(255 - greys)
        for number, (place, page) in enumerate(small.items()):
            as_it_is = preprocess == "none" or plain[number]
            if as_it_is or inverted[number]:
                found[place] = _whole(page.grey if as_it_is else 255 - page.grey)
            else:
                found[place] = _find(page, partial(reduce, page.grey), split)
    return [look for look in found if not isinstance(look, Page)]


def _look(
    image: bytes | np.ndarray | Image.Image | InputError, preprocess: str, split: bool
) -> Digits | InputError | Page:
    """The digits of an image; a page of 28x28 comes as it is."""
    if isinstance(image, InputError):
        return image
    try:
        read = _reader(image)
        page = read(ROW_SIDE if split else SIDE)
    except InputError as error:
        return error
    if page.grey.shape == (SIZE, SIZE):
        return page
    if preprocess == "none":
        height, width = (round(side * page.scale) for side in page.grey.shape)
        return InputError(f"{width} x {height} pixels; preprocess=none expects 28 x 28")
    return _find(page, read, split)


def _find(page: Page, read: Callable[[int], Page], split: bool) -> Digits | InputError:
    try:
        return find_row(page) if split else find_one(page, read)
    except InputError as error:
        return error
    # Whatever strangers' pixels are, the other images shall not suffer from it.
    except Exception as error:
        return InputError(f"no digit found: {type(error).__name__}: {error}")


def _whole(grey: np.ndarray) -> Digits:
    return Digits(grey[None], np.array([[0, 0, SIZE, SIZE]], np.int32))


def _reader(image: bytes | np.ndarray | Image.Image) -> Callable[[int], Page]:
    """A function that gives the page with a longer side of at least so many pixels, if it has as many."""
    if isinstance(image, bytes):
        return partial(decode, image)
    return partial(reduce, to_grey(image if isinstance(image, Image.Image) else Image.fromarray(image)))
