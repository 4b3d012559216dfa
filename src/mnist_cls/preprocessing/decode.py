"""Decode image files of any pixel format to upright grey pages."""

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError, first_line

# Formats whose decoders only decode. Pillow's decoders of others start programs (EPS), follow links, or give no pages.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")

# A page scanned at 600 dpi has 35 million pixels. Decoding takes up to ten bytes of memory for each.
MOST_PIXELS = 64_000_000

# First bytes of HEIC files, after their length: the brands of still pictures, coded by HEVC.
_HEIC_BRANDS = {b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1")}

# JPEGs may be larger, as they are decoded smaller; but a progressive one takes up to eight bytes for each pixel.
_MOST_JPEG_PIXELS = 2 * MOST_PIXELS

# Pages are enlarged until their shorter side has this many pixels, or the longer one eight times as many.
_ENLARGED_SIDE = 64

# Opaque pixels next to transparent ones are soft edges if they differ from the others by more grey levels than this.
_SOFT_STEP = 16

# Keys of `Image.info` under which Pillow keeps the orientation of an image in any format but TIFF.
_ORIENTATION_KEYS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}


class Page(NamedTuple):
    """A grey image, uint8 (H, W) with 0 for black, and the factor by which it was reduced, 1 or more."""

    grey: np.ndarray
    scale: float


class FilePage(NamedTuple):
    """The bytes of a file with several pages, and the number of one of them, from 0."""

    content: bytes
    number: int


def decode(file: bytes | FilePage, side: int) -> Page:
    """Decode an image file.

    Args:
        file: the file's bytes, in one of `FORMATS`, or a page of it.
        side: length in pixels that suffices for the longer side: a larger image can be reduced, but not below it.

    Raises:
        InputError: If the content is no such file, is broken, holds several images, or has too many pixels: more than
            `MOST_PIXELS`, or twice as many in a JPEG, which is decoded at a reduced size.
    """
    content, number = file if isinstance(file, FilePage) else (file, None)
    with _decoder_errors():
        formats: tuple[str, ...] = FORMATS
        if content[4:12] in _HEIC_BRANDS:
            formats = (*FORMATS, _register_heic())
        try:
            with Image.open(io.BytesIO(content), formats=formats) as image:
                return _read(image, side, number)
        except UnidentifiedImageError as error:
            if content.startswith(b"%PDF"):
                raise InputError(
                    "a PDF: convert its pages to images first: pdftoppm -r 200 -png FILE.pdf page"
                ) from error
            if len(formats) > len(FORMATS):
                raise InputError("broken image: HEIC that cannot be read") from error
            found = "not an image" if content else "an empty file"
            raise InputError(f"{found}: expected one of {', '.join(FORMATS)}") from error


def _register_heic() -> str:
    """Teach Pillow to read HEIC, and return its name for it."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise InputError("a HEIC image, as phones write them: pip install 'mnist-cls[heic]' to read it") from error
    register_heif_opener()
    return "HEIF"


def read_image(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image to grey, uint8 (H, W), upright.

    Raises:
        InputError: If it is broken, or has more than `MOST_PIXELS`.
    """
    with _decoder_errors():
        _check_size(image)
        return to_grey(_upright(image))


@contextlib.contextmanager
def _decoder_errors() -> Iterator[None]:
    """Turn whatever Pillow raises on an image into an InputError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about large and slightly broken files; both are handled here
        try:
            yield
        except Image.DecompressionBombError as error:
            size = re.search(r"\((\d+) pixels\)", str(error))  # only the message has it
            raise InputError(_too_large(f"{int(size[1]):,} pixels" if size else str(error))) from error
        except InputError:
            raise
        except Exception as error:  # on broken files Pillow's decoders raise nearly anything
            raise InputError(f"broken image: {first_line(error)}") from error


def _read(image: Image.Image, side: int, number: int | None) -> Page:
    width, height = image.size
    is_jpeg = image.format in ("JPEG", "MPO")
    _check_size(image, _MOST_JPEG_PIXELS if is_jpeg else MOST_PIXELS)
    # The second image of an MPO is the camera's preview.
    if number is not None:
        image.seek(number)
        _check_size(image)
    elif image.format != "MPO" and (count := getattr(image, "n_frames", 1)) > 1:
        raise InputError(f"holds {count} images; expected one (.tif, .gif and .webp files are read page by page)")
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size and without its colours, in a fraction of the time.
    image.draft("L", (min(width, side), min(height, side)))
    _check_size(image)
    image.load()
    upright = _upright(image)
    scale = max(width, height) / max(upright.size)
    return reduce(to_grey(upright), side, scale)


def _upright(image: Image.Image) -> Image.Image:
    # exif_transpose takes longer than decoding a small image.
    may_be_turned = image.format == "TIFF" or _ORIENTATION_KEYS & image.info.keys()
    return ImageOps.exif_transpose(image) if may_be_turned else image


def _check_size(image: Image.Image, most: int = MOST_PIXELS) -> None:
    width, height = image.size
    if width * height > most:
        raise InputError(_too_large(f"{width} x {height} pixels", most))


def _too_large(found: str, most: int = MOST_PIXELS) -> str:
    return f"too large: {found}; expected at most {most:,} pixels; reduce the image"


def reduce(grey: np.ndarray, side: int, scale: float = 1.0) -> Page:
    """Reduce a grey image by the largest integer that leaves at least `side` pixels of its longer side.

    `scale` is the factor by which the image was reduced before.
    """
    factor = max(grey.shape) // side
    if factor < 2:
        return Page(grey, scale)
    return Page(np.asarray(Image.fromarray(grey).reduce(factor)), scale * factor)


def enlarge(grey: np.ndarray) -> tuple[np.ndarray, int]:
    """Enlarge a small grey image by an integer factor, so that edges between ink and paper lie between pixels.

    Returns:
        The image, uint8, with a shorter side of at least 64 pixels or a longer one of about 512, and the factor.
    """
    factor = max(1, min(math.ceil(_ENLARGED_SIDE / min(grey.shape)), 8 * _ENLARGED_SIDE // max(grey.shape)))
    if factor == 1:
        return grey, 1
    height, width = grey.shape
    size = width * factor, height * factor
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)), factor


def to_grey(image: Image.Image) -> np.ndarray:
    """Convert an image of any mode to grey, uint8 (H, W). Transparent pixels get the grey of the paper around the ink.

    Raises:
        InputError: If it holds NaN or infinite values.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_high_bit_depth(np.asarray(image, dtype=np.float64), floating=image.mode == "F")
    if not image.has_transparency_data:
        return np.asarray(image if image.mode == "L" else image.convert("L"))
    luminance, alpha = (np.asarray(band).astype(np.float32) for band in image.convert("RGBA").convert("LA").split())
    opacity = alpha / 255
    backdrop = _backdrop(luminance, opacity > 0.5)
    return (luminance * opacity + backdrop * (1 - opacity)).round().astype(np.uint8)


def _backdrop(luminance: np.ndarray, opaque: np.ndarray) -> float:
    """Choose the grey to put behind transparent pixels, given a page, float32 (H, W), and which pixels are opaque."""
    if not opaque.any():
        return 255
    edge = opaque & scipy.ndimage.maximum_filter(~opaque, 3)
    all_levels, at_edge, inside = luminance[opaque], luminance[edge], luminance[opaque & ~edge]
    darkest, middle, lightest = np.percentile(all_levels, (0.5, 50, 99.5))
    # If white was made transparent, pixels next to it are lighter than the strokes; if black was, darker.
    step = float(np.median(at_edge) - np.median(inside)) if len(at_edge) and len(inside) else 0.0
    if len(all_levels) > luminance.size / 2 and lightest - darkest > 64 and abs(step) <= _SOFT_STEP:
        return float(middle)  # a page that was cut out: continue its paper
    if abs(step) > _SOFT_STEP:
        return 255 if step > 0 else 0
    return 0 if all_levels.mean() > 127 else 255  # all opaque pixels are ink


def _from_high_bit_depth(values: np.ndarray, floating: bool) -> np.ndarray:
    # Pillow would clip these to 0..255; scans of 16 bits use the whole range.
    if not np.isfinite(values).all():
        raise InputError("the image holds NaN or infinite values")
    # These modes do not define white. The largest value shows it: 1, or the maximum of 8, 12 or 16 bits.
    white = next((white for white in (1 if floating else 255, 255, 4095) if values.max() <= white), 65535)
    return np.clip(values * (255 / white), 0, 255).round().astype(np.uint8)
