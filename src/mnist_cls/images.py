"""The canonical image: 28x28 uint8, a bright digit on black, as in MNIST; and arrays of images of any size."""

from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 28  # pixels, the height and the width
CLASSES = 10

# Mean and standard deviation of the pixels of MNIST's training images, on a scale from 0 to 1.
MEAN, STD = 0.1307, 0.3081

# Numbers of values of a pixel: grey, colours, and colours with opacity.
_CHANNELS = (1, 3, 4)

# Floats can exceed the range from 0 to 1 by this much, as after resizing.
_TOLERANCE = 1e-3

# Floats are read as 0 to 255 only if one is above this value: scikit-learn's digits, for one, range from 0 to 16.
_LEAST_WHITE = 16

# An array more than this many times as tall as wide is not an image but rows of flattened ones, such as (1797, 64).
_TALLEST = 16


def in_mnist_form(images: np.ndarray) -> np.ndarray:
    """Find the images that are in MNIST's form, as all 70,000 of MNIST are.

    Such an image has a maximum of 254 or 255; the longer side of its bounding box is 19 or 20 pixels; its centre of
    mass is within half a pixel of the middle; and its strokes are wider than one pixel, soft edges included.

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
    good &= (longer_side >= 19) & (longer_side <= 20)
    good &= ~_has_one_pixel_lines(images)
    return good


def _has_one_pixel_lines(images: np.ndarray) -> np.ndarray:
    """Find the images, uint8 (N, 28, 28), that are drawn with lines one pixel wide: bool (N,)."""
    # Squares of 2x2 inked pixels are rare in them. Each of MNIST's images has one for every three inked pixels.
    inked = images > 0
    pairs = inked[:, :, 1:] & inked[:, :, :-1]
    squares = np.count_nonzero(pairs[:, 1:] & pairs[:, :-1], axis=(1, 2))
    one_pixel: np.ndarray = 4 * squares < np.count_nonzero(inked, axis=(1, 2))
    return one_pixel


def images_from_array(array: "np.ndarray | Tensor", many: bool | None = None) -> tuple[np.ndarray, list[str | None]]:
    """Convert images of any size to uint8, 0 to 255.

    The range of an image's values is inferred from that image alone, so slices of an array give the same result:

    - 0 to 1 for bool, and for numbers of any dtype none of which is above 1: the output of `ToTensor` or
      `images / 255`, or a thresholded image;
    - 0 to 255 for other integers, and for floats that are whole if one of them is above 16.

    Args:
        array: one image or many, an array or a PyTorch tensor on any device; see `as_stack` for shapes.
        many: see `as_stack`.

    Returns:
        images: uint8 (N, H, W), or (N, H, W, 3) or (N, H, W, 4) in colour; a view where `array` is uint8. Images with
            an error are all zeros.
        errors: for each image None, or one line that says why it cannot be used (NaN, or values out of range).

    Raises:
        InputError: If the array has another shape or dtype, see `as_stack`.
    """
    images = as_stack(as_array(array), many)
    errors: list[str | None] = [None] * len(images)
    if images.dtype == np.bool_:
        images = images.view(np.uint8)
    axes = tuple(range(1, images.ndim))
    high = images.max(axes)
    binary = high <= 1
    if images.dtype == np.uint8:
        if binary.any():
            images = images.copy()
            images[binary] *= 255
        return images, errors
    low = images.min(axes)
    if images.dtype.kind == "f":
        binary = high <= 1 + _TOLERANCE
        with np.errstate(invalid="ignore"):
            bright = (high > _LEAST_WHITE) & (high <= 255)
            whole = [bool(bright[i]) and bool((image == np.rint(image)).all()) for i, image in enumerate(images)]
            good = (low >= -_TOLERANCE) & (binary | np.array(whole, bool))  # False for NaN
    else:
        good = (low >= 0) & (high <= 255)
    for index in np.flatnonzero(~good):
        errors[index] = _value_error(images[index])
    each = (slice(None), *(None for _ in axes))
    known = np.where(good[each], images, 0)
    scale = np.where(binary, 255, 1).astype(known.dtype if known.dtype.kind == "f" else np.int64)[each]
    return np.clip(np.rint(known * scale), 0, 255).astype(np.uint8), errors


def _value_error(image: np.ndarray) -> str:
    """Say what is wrong with the values of an image, and what to do."""
    if not np.isfinite(image).all():
        return "holds NaN or infinite values"
    low, high = image.min(), image.max()
    expected = "0 to 1" if image.dtype.kind == "f" else "0 to 255, or floats from 0 to 1"
    advice = "pass the images as they were before they were normalized" if low < 0 else "divide by the value of white"
    return f"values from {low:g} to {high:g}, expected {expected}; {advice}"


def as_array(array: object) -> np.ndarray:
    """Convert a tensor on any device, an array of another library, or lists of numbers to a NumPy array."""
    if not isinstance(array, np.ndarray) and hasattr(array, "detach"):
        tensor = array.detach().cpu()
        try:
            array = tensor.numpy()
        except TypeError:  # NumPy has no bfloat16
            array = tensor.float().numpy()
    return np.asarray(array)


def as_stack(array: np.ndarray, many: bool | None = None) -> np.ndarray:
    """View an array of images as (N, H, W), or as (N, H, W, 3 or 4) in colour, without reading or copying its values.

    Args:
        array: of numbers or bool: one image, (H, W), (1, H, W), (3, H, W), (H, W, 1), (H, W, 3), (H, W, 4) or (784,);
            or N of them.
        many: whether the first axis counts images. None decides by the shape: (N, 784) are N images of 28x28, and
            (3, 28, 28) are three, not one in colour.

    Raises:
        InputError: If the array has another shape or dtype, or if its shape could mean one image or many.
    """
    if array.dtype.kind not in "buif":
        raise InputError(f"images of dtype {array.dtype}; expected uint8 0 to 255, or floats 0 to 1")
    if array.shape == (0,):
        return array.reshape(0, SIZE, SIZE)
    stack = array if (_is_many(array.shape) if many is None else many) else array[None]
    if stack.shape[1:] == (SIZE * SIZE,):
        return stack.reshape(len(stack), SIZE, SIZE)
    if stack.ndim == 4 and stack.shape[1] in _CHANNELS and stack.shape[3] not in _CHANNELS:
        stack = np.moveaxis(stack, 1, 3)
    if stack.ndim == 4 and stack.shape[3] == 1:
        stack = stack[..., 0]
    if not (stack.ndim == 3 or (stack.ndim == 4 and stack.shape[3] in _CHANNELS)) or 0 in stack.shape[1:]:
        raise _shape_error(array.shape)
    return stack


def _is_many(shape: tuple[int, ...]) -> bool:
    """Return whether the first axis counts images."""
    if len(shape) == 2:
        if shape == (SIZE * SIZE, SIZE * SIZE):
            raise InputError(
                f"an array of shape {shape} could be one image or {SIZE * SIZE} of 28x28;"
                " pass array[None] or array.reshape(-1, 28, 28)"
            )
        if shape[0] == SIZE * SIZE:
            raise InputError(
                f"an array of shape {shape} could be {shape[1]} images in columns; pass array.T,"
                " or array[None] if it is one image"
            )
        if shape[1] == SIZE * SIZE + 1:
            raise InputError(
                f"an array of shape {shape} could be rows of a label and {SIZE * SIZE} pixels; pass array[:, 1:],"
                " or array[None] if it is one image"
            )
        if shape[1] != SIZE * SIZE and shape[0] > _TALLEST * shape[1]:  # flattened images of another size
            raise _shape_error(shape)
        return shape[1] == SIZE * SIZE
    if len(shape) != 3 or shape[2] in _CHANNELS:
        return len(shape) > 3
    if shape[0] in (3, 4) and shape[1:] != (SIZE, SIZE):
        raise InputError(
            f"an array of shape {shape} could be {shape[0]} grey images or one in colour;"
            " pass array[:, None] or array[None]"
        )
    if shape[:2] == (SIZE, SIZE) != shape[1:]:
        raise InputError(
            f"an array of shape {shape} could be {shape[2]} images of 28x28; pass np.moveaxis(array, 2, 0)"
        )
    return True


def _shape_error(shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"an array of shape {shape}; expected (28, 28), (N, 28, 28) or (N, 784), or images of any size:"
        " (H, W), (N, H, W), (H, W, 3), (N, H, W, 3) or (N, 3, H, W)"
    )
