"""From the contents of an image file to a grey page, upright, however the file keeps its pixels."""

import io
import math
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError

# Formats whose decoders only decode. Pillow's others start programs (EPS), follow links, or are no images of pages.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
# A page scanned at 600 dpi has 35 million; ten times as many bytes are held while it is decoded.
MOST_PIXELS = 64_000_000
_SMALL = 64
# Where Pillow keeps what a file says of its orientation, but for TIFF.
_TAGS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}


class Page(NamedTuple):
    """A picture in grey.

    Attributes:
        grey: uint8 (H, W), 0 is black.
        scale: how many pixels of the file's picture one pixel of `grey` is wide and high, 1 or more.
    """

    grey: np.ndarray
    scale: float


def decode(content: bytes, side: int) -> Page:
    """Decode an image file.

    Args:
        content: the file's bytes, in one of `FORMATS`.
        side: the longer side that is enough, in pixels; a larger picture may come smaller, but never below this.

    Raises:
        InputError: it is no such file, is broken, holds several pictures, or more than `MOST_PIXELS`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's of large and of slightly broken files; both are judged here
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return _read(image, side)
        except UnidentifiedImageError as error:
            what = "an empty file" if not content else "not an image"
            raise InputError(f"{what}: expected one of {', '.join(FORMATS)}") from error
        except Image.DecompressionBombError as error:
            raise InputError(_too_large(str(error))) from error
        except InputError:
            raise
        # Broken files make Pillow's decoders raise nearly anything, and each means the same here.
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"broken image: {reason}") from error


def _read(image: Image.Image, side: int) -> Page:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise InputError(_too_large(f"{width} x {height} pixels"))
    # Of the two pictures of an MPO the second is the camera's preview.
    if image.format != "MPO" and (pages := getattr(image, "n_frames", 1)) > 1:
        raise InputError(f"holds {pages} pictures; expected one, save each as a file of its own")
    # A JPEG can be decoded at a half, a quarter, an eighth, and without its colours, in a fraction of the time.
    image.draft("L", (min(width, side), min(height, side)))
    # Cameras store pictures as the sensor lay, and in a tag how to turn them. Looking for it takes longer than to
    # decode a small image.
    image.load()
    upright = ImageOps.exif_transpose(image) if image.format == "TIFF" or _TAGS & image.info.keys() else image
    scale = max(width, height) / max(upright.size)
    return reduce(to_grey(upright), side, scale)


def reduce(grey: np.ndarray, side: int, scale: float = 1.0) -> Page:
    """Shrink a grey picture by a whole number, as long as its longer side stays at least `side` pixels."""
    factor = max(grey.shape) // side
    if factor < 2:
        return Page(grey, scale)
    return Page(np.asarray(Image.fromarray(grey).reduce(factor)), scale * factor)


def enlarge(grey: np.ndarray) -> tuple[np.ndarray, int]:
    """Enlarge a small picture by a whole number, so that an edge between ink and paper lies between pixels.

    Returns:
        The picture, its shorter side 64 pixels or more or its longer one 512, and the number.
    """
    factor = max(1, min(math.ceil(_SMALL / min(grey.shape)), 8 * _SMALL // max(grey.shape)))
    if factor == 1:
        return grey, 1
    height, width = grey.shape
    size = width * factor, height * factor
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)), factor


def _too_large(found: str) -> str:
    return f"too large: {found}; expected at most {MOST_PIXELS:,} pixels"


def to_grey(image: Image.Image) -> np.ndarray:
    """Bring an image of any mode to grey, uint8 (H, W). What lies behind transparent pixels is taken away.

    Raises:
        InputError: it holds NaN or infinite values.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_deep(np.asarray(image, dtype=np.float64), floating=image.mode == "F")
    if not image.has_transparency_data:
        return np.asarray(image if image.mode == "L" else image.convert("L"))
    colours, alpha = image.convert("RGBA").convert("LA").split()
    grey, cover = np.asarray(colours).astype(np.float32), np.asarray(alpha).astype(np.float32) / 255
    return (grey * cover + _backdrop(grey[cover > 0.5], grey.size) * (1 - cover)).round().astype(np.uint8)


def _backdrop(shown: np.ndarray, whole: int) -> float:
    """What to put behind the pixels that are not shown, from those of `whole` that are."""
    if not len(shown):
        return 255
    darkest, middle, lightest = np.percentile(shown, (0.5, 50, 99.5))
    if len(shown) > whole / 2 and lightest - darkest > 64:
        return float(middle)  # a page, cut out: go on with its paper
    return 0 if shown.mean() > 127 else 255  # nothing but ink


def _from_deep(values: np.ndarray, floating: bool) -> np.ndarray:
    # Pillow would clip these to 0..255; 16-bit scans use the whole range.
    if not np.isfinite(values).all():
        raise InputError("the image holds NaN or infinite values")
    # What white is, these modes do not say; the values tell: 0 to 1, 8, 12 or 16 bits.
    white = next((white for white in (1 if floating else 255, 255, 4095) if values.max() <= white), 65535)
    return np.clip(values * (255 / white), 0, 255).round().astype(np.uint8)
