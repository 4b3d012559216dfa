"""The canonical image: 28x28, uint8, a bright digit on black; how anything becomes one, and how a network sees it."""

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

SIZE = 28


CLASSES = 10


# Mean and standard deviation of the training images' pixels, on the scale 0 to 1.
MEAN, STD = 0.1307, 0.3081


def in_mnist_form(images: np.ndarray) -> np.ndarray:
    """Which images are as MNIST's makers left theirs, as all of its 70,000 are.

    That is: ink up to 254 or 255, 19 or 20 pixels high or wide and no more than 20 in either direction, its centre of
    mass within half a pixel of the middle.

    Args:
        images: uint8 (N, 28, 28).

    Returns:
        bool (N,).
    """
    # All sums are whole numbers below 2**24, which float32 adds exactly.
    pixels = images.astype(np.float32)
    good: np.ndarray = images.reshape(len(images), SIZE * SIZE).max(1) >= 254
    longer = np.zeros(len(images), np.int64)
    ones, places = np.ones(SIZE, np.float32), np.arange(SIZE, dtype=np.float32)
    for sums in (pixels @ ones, ones @ pixels):  # of each row, of each column
        inked = sums > 0
        longer = np.maximum(longer, SIZE - inked.argmax(1) - inked[:, ::-1].argmax(1))
        with np.errstate(divide="ignore", invalid="ignore"):
            good &= np.abs(sums @ places / sums.sum(1) - SIZE / 2) <= 0.53
    return good & (longer >= 19) & (longer <= 20)


def images_from_array(array: np.ndarray | Tensor) -> tuple[np.ndarray, list[str | None]]:
    """Check an array of images that are in MNIST's form already, and bring it to uint8 (N, 28, 28).

    Args:
        array: (28, 28), (N, 28, 28), (N, 1, 28, 28), (N, 28, 28, 1) or (N, 784), and either of whole numbers
            0 to 255, of floats 0 to 1, or bool.

    Returns:
        The images, uint8 (N, 28, 28), without a copy where the array is uint8; and for each image None, or one
        line that says why it cannot be used (NaN, or values out of range). Such an image is all zeros.

    Raises:
        InputError: the shape or the dtype is none of those.
    """
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()  # NumPy has no bfloat16
    images = as_stack(np.asarray(array))
    errors: list[str | None] = [None] * len(images)
    if images.dtype == np.uint8:
        return images, errors
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * 255, errors
    floating = np.issubdtype(images.dtype, np.floating)
    top, scale = (1, 255) if floating else (255, 1)
    with np.errstate(invalid="ignore"):
        low, high = images.min((1, 2)), images.max((1, 2))
        good = (low >= 0) & (high <= top)  # False for NaN
    for index in np.flatnonzero(~good):
        if not np.isfinite(images[index]).all():
            errors[index] = "holds NaN or infinite values"
            continue
        advice = "; divide by 255" if floating and low[index] >= 0 and high[index] <= 255 else ""
        errors[index] = f"values from {low[index]:g} to {high[index]:g}, expected 0 to {top}{advice}"
    return (np.where(good[:, None, None], images, 0) * scale).round().astype(np.uint8), errors


def as_stack(array: np.ndarray) -> np.ndarray:
    """View an array of images as (N, 28, 28), without looking at its values or copying them.

    Args:
        array: see `images_from_array`.

    Raises:
        InputError: the shape or the dtype is none that it names.
    """
    if not any(np.issubdtype(array.dtype, kind) for kind in (np.bool_, np.integer, np.floating)):
        raise InputError(f"images of dtype {array.dtype}; expected uint8 0 to 255, or floats 0 to 1")
    shape = array.shape
    stacks = ((SIZE, SIZE), (1, SIZE, SIZE), (SIZE, SIZE, 1), (SIZE * SIZE,))
    if shape != (SIZE, SIZE) and shape[1:] not in stacks:
        raise InputError(
            f"an array of shape {shape}; expected (28, 28), (N, 28, 28), (N, 1, 28, 28), (N, 28, 28, 1) or (N, 784)"
        )
    return array.reshape(-1, SIZE, SIZE) if array.size else array.reshape(0, SIZE, SIZE)
