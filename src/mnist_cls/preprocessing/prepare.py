"""From any image of one digit, or of a row of them, to MNIST's form."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from PIL import Image

from ..errors import InputError
from ..images import SIZE, in_mnist_form
from .decode import FilePage, Page, decode, read_image, reduce, to_grey
from .digit import ROW_SIDE, SIDE, Digits, find_digit, find_row

# What `prepare` takes: the contents of an image file, a page of it, an array, or a Pillow image.
ImageLike = bytes | FilePage | np.ndarray | Image.Image


def to_mnist_form(image: Image.Image | np.ndarray) -> np.ndarray:
    """Convert an image of one digit to MNIST's form, step by step as MNIST's makers did (LeCun et al. 1998).

    Convert to grey, with paper behind transparent parts; find the ink, dark or light, under uneven light; remove
    rulings, frames and specks; crop to the digit; scale it to 20x20 with its aspect ratio kept, and strokes much
    thinner or thicker than MNIST's to a usual width; centre it in 28x28 by its mass. An image in MNIST's form is
    returned unchanged, and an inverted one is only inverted back.

    Args:
        image: of any mode and size; an array is uint8 (H, W), (H, W, 3) or (H, W, 4).

    Returns:
        uint8 (28, 28), bright ink on black.

    Raises:
        InputError: If there is no digit, or more than one.
    """
    form: np.ndarray = prepare(image).images[0]
    return form


def prepare(image: ImageLike, preprocess: str = "auto", split: bool = False) -> Digits:
    """Find the digit of an image, or the digits of a row, and convert each to MNIST's form.

    Args:
        image: the contents of an image file, or a page of it; an array, uint8 (H, W), (H, W, 3) or (H, W, 4); or a
            Pillow image.
        preprocess: "auto", see `to_mnist_form`; or "none" to take images of 28x28 pixels as they are, and no others.
        split: look for a row of digits instead of a single one.

    Raises:
        InputError: If it is no image, or shows no digit, or shows several without `split`; with "none", if it has
            another size.
    """
    [result] = prepare_all([image], preprocess, split)
    if isinstance(result, InputError):
        raise result
    return result


def prepare_all(
    images: Iterable[ImageLike | InputError],
    preprocess: str = "auto",
    split: bool = False,
    all_cuts: bool = False,
) -> list[Digits | InputError]:
    """Prepare many images, see `prepare`, and return an error in place of each that fails.

    Errors among `images` are passed on. Images of 28x28 pixels are checked for MNIST's form all at once, which takes a
    fraction of the time. With `all_cuts`, rows of digits that may touch are cut in all likely ways, among which a
    network can choose, see `Digits.spans`.
    """
    results = [_digits_or_small_page(image, preprocess, split) for image in images]
    pages = {index: result for index, result in enumerate(results) if isinstance(result, Page)}
    if pages:
        greys = np.stack([page.grey for page in pages.values()])
        in_form = in_mnist_form(greys) | (preprocess == "none")
        inverted = in_mnist_form(255 - greys)
        for (index, page), is_in_form, is_inverted in zip(pages.items(), in_form, inverted, strict=True):
            if is_in_form or is_inverted:
                image = page.grey if is_in_form else 255 - page.grey
                results[index] = Digits(image[None], np.array([[0, 0, SIZE, SIZE]], np.int32))
            else:
                results[index] = _find(page, partial(reduce, page.grey), split)
    found = [result for result in results if not isinstance(result, Page)]
    return found if all_cuts else [one.most_likely() if isinstance(one, Digits) else one for one in found]


def _digits_or_small_page(image: ImageLike | InputError, preprocess: str, split: bool) -> Digits | InputError | Page:
    """Return the digits of an image, or the page if it has 28x28 pixels."""
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


def _reader(image: ImageLike) -> Callable[[int], Page]:
    """Return a function that reads the page with a longer side of at least N pixels, if the image has as many."""
    if isinstance(image, (bytes, FilePage)):
        return partial(decode, image)
    return partial(reduce, read_image(image) if isinstance(image, Image.Image) else to_grey(Image.fromarray(image)))


def _find(page: Page, read: Callable[[int], Page], split: bool) -> Digits | InputError:
    try:
        return find_row(page) if split else find_digit(page, read)
    except InputError as error:
        return error
    except Exception as error:  # an image that breaks the analysis must not affect the others
        return InputError(f"cannot be analysed: {type(error).__name__}: {error}")
