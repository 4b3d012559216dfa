"""The canonical image: 28x28 uint8, a bright digit on black, as in MNIST; and arrays of such images."""

from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 28  # pixels, the height and the width
CLASSES = 10

# Mean and standard deviation of the pixels of MNIST's training images, on a scale from 0 to 1.
MEAN, STD = 0.1307, 0.3081


def in_mnist_form(images: np.ndarray) -> np.ndarray:
    """Find the images that are in MNIST's form, as all 70,000 of MNIST are.

    Such an image has a maximum of 254 or 255; the longer side of its bounding box is 19 or 20 pixels; and its centre of
    mass is within half a pixel of the middle.

    Args:
        images: uint8 (N, 28, 28).

    Returns:
        bool (N,).
    """
    # All sums are whole numbers below 2**24, which float32 adds exactly.
    pixels = images.astype(np.float32)
    good: np.ndarray = images.reshape(len(images), SIZE * SIZE).max(1) >= 254
    longer_side = np.zeros(len(images), np.int64)
    ones, positions = np.ones(SIZE, np.float32), np.arange(SIZE, dtype=np.float32)
    for sums in (pixels @ ones, ones @ pixels):  # over each row, over each column
        inked = sums > 0
        longer_side = np.maximum(longer_side, SIZE - inked.argmax(1) - inked[:, ::-1].argmax(1))
        with np.errstate(divide="ignore", invalid="ignore"):
            good &= np.abs(sums @ positions / sums.sum(1) - SIZE / 2) <= 0.53
    return good & (longer_side >= 19) & (longer_side <= 20)


def images_from_array(array: "np.ndarray | Tensor") -> tuple[np.ndarray, list[str | None]]:
    """Check an array of images in MNIST's form, and convert it to uint8.

    Args:
        array: an array or a PyTorch tensor on any device, of shape (28, 28), (N, 28, 28), (N, 1, 28, 28),
            (N, 28, 28, 1) or (N, 784): integers from 0 to 255, floats from 0 to 1, or bool.

    Returns:
        images: uint8 (N, 28, 28); a view where `array` is uint8. Images with an error are all zeros.
        errors: for each image None, or one line that says why it cannot be used (NaN, or values out of range).

    Raises:
        InputError: If the shape or the dtype is another one.
    """
    if not isinstance(array, np.ndarray) and hasattr(array, "detach"):
        tensor = array.detach().cpu()
        try:
            array = tensor.numpy()
        except TypeError:  # NumPy has no bfloat16
            array = tensor.float().numpy()
    images = as_stack(np.asarray(array))
    errors: list[str | None] = [None] * len(images)
    if images.dtype == np.uint8:
        return images, errors
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * 255, errors
    floating = np.issubdtype(images.dtype, np.floating)
    white, scale = (1, 255) if floating else (255, 1)
    with np.errstate(invalid="ignore"):
        low, high = images.min((1, 2)), images.max((1, 2))
        good = (low >= 0) & (high <= white)  # False for NaN
    for index in np.flatnonzero(~good):
        if not np.isfinite(images[index]).all():
            errors[index] = "holds NaN or infinite values"
            continue
        advice = "; divide by 255" if floating and low[index] >= 0 and high[index] <= 255 else ""
        errors[index] = f"values from {low[index]:g} to {high[index]:g}, expected 0 to {white}{advice}"
    return (np.where(good[:, None, None], images, 0) * scale).round().astype(np.uint8), errors


def as_stack(array: np.ndarray) -> np.ndarray:
    """View an array of images as (N, 28, 28), without reading or copying its values.

    Raises:
        InputError: If it has none of the shapes and dtypes that `images_from_array` takes.
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
