"""The canonical image: 28x28, uint8, a bright digit on black; how anything becomes one, and how a network sees it."""

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import InputError

SIZE = 28
CLASSES = 10
# Mean and standard deviation of the training images' pixels, on the scale 0 to 1.
MEAN, STD = 0.1307, 0.3081

_INK_BOX = 20  # MNIST's makers scaled each digit into 20x20 before they placed it in 28x28.
_NO_INK = 16  # A contrast below this many of the 255 levels is no writing.


def normalize(images: Tensor) -> Tensor:
    """Turn images into what every network here takes: `(x / 255 - 0.1307) / 0.3081`.

    Args:
        images: values 0 to 255, uint8 or floating, shape (B, 28, 28), on any device.

    Returns:
        Float32 (B, 1, 28, 28) on the same device; a floating dtype is kept.
    """
    x = images.unsqueeze(1)
    if not x.is_floating_point():
        x = x.float()
    # One multiplication and one addition instead of two divisions and a subtraction.
    return x.mul(1 / (255 * STD)).sub_(MEAN / STD)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file of one digit and bring it into MNIST's form.

    Returns:
        uint8 (28, 28), see `to_mnist_form`.

    Raises:
        InputError: the file cannot be read as an image, or shows no ink.
        OSError: the file cannot be opened.
    """
    with Path(path).open("rb") as file, warnings.catch_warnings():
        # Pillow warns at 89 million pixels and raises at twice that; either is no scan of a digit.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as image:
                # Cameras store pictures as the sensor lay, and in a tag how to turn them.
                return to_mnist_form(ImageOps.exif_transpose(image))
        except UnidentifiedImageError as error:
            raise InputError("not an image: Pillow knows no format that starts like this file") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(f"too large to be read safely: {error}") from error
        except InputError:
            raise
        # Broken files make Pillow's decoders raise nearly anything, and each means the same here.
        except Exception as error:
            raise InputError(f"broken image: {error}") from error


def to_mnist_form(image: Image.Image) -> np.ndarray:
    """Bring an image of one digit into MNIST's form.

    Transparent images are laid on white; colours become grey; dark ink on light paper is inverted; an image of
    another size than 28x28 is cropped to its ink, scaled to fit 20x20 with its aspect kept, and placed in 28x28 with
    its centre of mass in the middle, as MNIST's makers did (LeCun et al. 1998). MNIST's own images stay as they are.

    Args:
        image: any mode and size.

    Returns:
        uint8 (28, 28), bright ink on black.

    Raises:
        InputError: the image has nearly the same brightness everywhere.
    """
    grey = _to_grey(image)
    paper = float(np.median(np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])))
    # The ink is what differs most from the paper, and the paper is what most of the border is.
    if paper - grey.min() > grey.max() - paper:
        grey, paper = 255 - grey, 255 - paper
    brightest = float(grey.max())
    if brightest - paper < _NO_INK:
        raise InputError(f"no digit to see: the brightness differs by {brightest - paper:.0f} of 255 levels at most")
    if grey.shape == (SIZE, SIZE):
        return grey
    ink = np.clip((grey - paper) * (255 / (brightest - paper)), 0, 255).astype(np.uint8)
    rows, columns = (np.flatnonzero((ink > 50).any(axis)) for axis in (1, 0))
    return _centre(_fit(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]))


def _to_grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow would clip these to 0..255; 16-bit scans use the whole range.
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise InputError("the image holds NaN or infinite values")
        # What white is, these modes do not say; the values tell: 0 to 1, 8, 12 or 16 bits.
        whites = [1 if image.mode == "F" else 255, 255, 4095]
        scale = 255 / next((white for white in whites if values.max() <= white), 65535)
        return np.clip(values * scale, 0, 255).round().astype(np.uint8)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("L"))


def _fit(ink: np.ndarray) -> np.ndarray:
    height, width = ink.shape
    scale = _INK_BOX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.LANCZOS))


def _centre(digit: np.ndarray) -> np.ndarray:
    mass = digit.astype(np.float64)
    total = mass.sum()
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    corner = []
    for axis, length in enumerate(digit.shape):
        centre = (mass.sum(1 - axis) * np.arange(length)).sum() / total
        # MNIST's centres of mass lie within half a pixel of row 14 and column 14, counted from 0.
        corner.append(min(max(math.floor(SIZE / 2 + 0.5 - centre), 0), SIZE - length))
    top, left = corner
    canvas[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return canvas


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


def image_grid(images: Tensor, columns: int = 8) -> Tensor:
    """Lay images out in rows, for a look at them.

    Args:
        images: uint8 (N, 28, 28).
        columns: how many stand in a row.

    Returns:
        uint8 (28 * rows, 28 * columns); places that are left over are black.
    """
    rows = math.ceil(len(images) / columns)
    cells = torch.zeros(rows * columns, SIZE, SIZE, dtype=torch.uint8)
    cells[: len(images)] = images
    return cells.view(rows, columns, SIZE, SIZE).transpose(1, 2).reshape(rows * SIZE, columns * SIZE)
