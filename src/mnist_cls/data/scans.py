"""MNIST's digits as people would have them: scanned, photographed, drawn thick or thin, in files of many kinds.

Made from MNIST's own images, so that a prediction can be judged on them by the labels that are known.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter
from scipy import ndimage

from ..errors import InputError

# Unless a kind says otherwise, pixels of a page's side.
_SIDE = 112


def list_scans() -> list[str]:
    """The names that `scan` knows."""
    return list(_KINDS)


def scan(images: np.ndarray, kind: str, seed: int = 0) -> list[bytes]:
    """Make the file of a scan from each image.

    Args:
        images: uint8 (N, 28, 28), in MNIST's form.
        kind: one of `list_scans()`.
        seed: of the random numbers.

    Returns:
        The contents of N image files.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in _KINDS:
        raise InputError(f"scan={kind}: expected one of {', '.join(_KINDS)}")
    random = np.random.default_rng(seed)
    return [_KINDS[kind](image, random) for image in images]


def scan_row(images: np.ndarray, gap: float, seed: int = 0) -> bytes:
    """Make the file of a scan with digits side by side.

    Args:
        images: uint8 (K, 28, 28), in MNIST's form.
        gap: how many of MNIST's pixels lie between the boxes around two digits' ink, on the average; it varies by two.
            MNIST's digits are 20 high. Below 0 the boxes overlap, and digits often touch.
        seed: of the random numbers.

    Returns:
        The contents of a PNG file.
    """
    random = np.random.default_rng(seed)
    page = np.zeros((4 * 40, 4 * 40 * len(images)), np.float32)
    right = 24
    for image in images:
        ink = _drawn(image)
        columns = np.flatnonzero((ink > 0.3).any(0))
        ink = ink[:, columns[0] : columns[-1] + 1]
        left, top = max(right, 0), 24 + round(random.uniform(-6, 6))
        place = page[top : top + _SIDE, left : left + ink.shape[1]]
        np.maximum(place, ink, out=place)
        right = left + ink.shape[1] + round(4 * (gap + random.uniform(-1, 1)))
    return _file(_inked(page[:, : right + 24 + 8]))


def _drawn(image: np.ndarray, side: int = _SIDE) -> np.ndarray:
    """The digit's ink, float32 (side, side), 0 to 1."""
    large = Image.fromarray(image.astype(np.float32) / 255).resize((side, side), Image.Resampling.BICUBIC)
    ink: np.ndarray = np.clip(np.asarray(large), 0, 1)
    return ink


def _inked(ink: np.ndarray, paper: float | np.ndarray = 235.0, colour: float | np.ndarray = 40.0) -> Image.Image:
    return Image.fromarray(np.clip(paper + (colour - paper) * ink, 0, 255).round().astype(np.uint8))


def _file(page: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    page.save(file, form, **options)
    return file.getvalue()


def _sized(side: int) -> Callable[[np.ndarray, Generator], bytes]:
    return lambda image, random: _file(_inked(_drawn(image, side)))


def _light_on_dark(image: np.ndarray, random: Generator) -> bytes:
    return _file(_inked(_drawn(image), 30.0, 220.0))


def _anywhere(image: np.ndarray, random: Generator) -> bytes:
    page, side = np.zeros((180, 240), np.float32), int(random.integers(40, 110))
    top, left = random.integers(0, 180 - side), random.integers(0, 240 - side)
    page[top : top + side, left : left + side] = _drawn(image, side)
    return _file(_inked(page))


def _tight(image: np.ndarray, random: Generator) -> bytes:
    ink = _drawn(image)
    rows, columns = (np.flatnonzero((ink > 0.3).any(axis)) for axis in (1, 0))
    return _file(_inked(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]))


def _strokes(pixels: float) -> Callable[[np.ndarray, Generator], bytes]:
    """With the edge of each stroke moved outward by so many of MNIST's pixels."""

    def make(image: np.ndarray, random: Generator) -> bytes:
        inked = np.pad(_drawn(image, 4 * 28) > 0.5, 12)
        outward = ndimage.distance_transform_edt(~inked) - ndimage.distance_transform_edt(inked)
        ink = np.clip(4 * pixels - outward + 0.5, 0, 1)
        # A stroke that would vanish keeps its middle.
        return _file(_inked(np.maximum(ink, _ridge(outward)) if pixels < 0 else ink))

    return make


def _ridge(outward: np.ndarray) -> np.ndarray:
    """The middle of strokes, where the distance to the paper is greatest."""
    depth = np.maximum(-outward, 0)
    ridge: np.ndarray = (depth > 0) & (depth >= ndimage.maximum_filter(depth, 3) - 0.5)
    return ridge.astype(np.float32)


def _jpeg(quality: int) -> Callable[[np.ndarray, Generator], bytes]:
    return lambda image, random: _file(_inked(_drawn(image)), "JPEG", quality=quality)


def _slanting_light(image: np.ndarray, random: Generator) -> bytes:
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    angle = random.uniform(0, 2 * np.pi)
    light = 0.65 + 0.3 * (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2) * 1.1
    return _file(_inked(_drawn(image), 245 * light, 50 * light))


def _rough_paper(image: np.ndarray, random: Generator) -> bytes:
    grain = random.normal(0, 12, (_SIDE, _SIDE))
    blots = ndimage.zoom(random.normal(0, 8, (7, 7)), _SIDE / 7, order=3)
    return _file(_inked(_drawn(image), 215 + grain + blots, 50 + grain))


def _faint(image: np.ndarray, random: Generator) -> bytes:
    return _file(_inked(_drawn(image), 200 + random.normal(0, 3, (_SIDE, _SIDE)), 140))


def _ruled(image: np.ndarray, random: Generator) -> bytes:
    ink = np.pad(_drawn(image), 8)
    ink[-6:-4] = ink[3:5] = 0.8
    return _file(_inked(ink))


def _boxed(image: np.ndarray, random: Generator) -> bytes:
    ink = np.pad(_drawn(image), 6)
    ink[2:4], ink[-4:-2], ink[:, 2:4], ink[:, -4:-2] = 0.9, 0.9, 0.9, 0.9
    return _file(_inked(ink))


def _dusty(image: np.ndarray, random: Generator) -> bytes:
    ink = _drawn(image)
    for _ in range(12):
        top, left = random.integers(0, _SIDE - 3, 2)
        ink[top : top + random.integers(1, 4), left : left + random.integers(1, 4)] = random.uniform(0.4, 1)
    return _file(_inked(ink))


def _photo(image: np.ndarray, random: Generator) -> bytes:
    """All at once: a digit somewhere on a page, uneven light, out of focus, noise, JPEG."""
    page, side = np.zeros((480, 640), np.float32), int(random.integers(120, 360))
    top, left = random.integers(0, 480 - side), random.integers(0, 640 - side)
    page[top : top + side, left : left + side] = _drawn(image, side)
    y, x = np.mgrid[-1:1:480j, -1:1:640j]
    light = 0.75 + random.uniform(-0.2, 0.2) * x + random.uniform(-0.2, 0.2) * y - 0.1 * (x * x + y * y)
    blurred = _inked(page, 230 * light, 60 * light).filter(ImageFilter.GaussianBlur(2))
    noisy = np.asarray(blurred) + random.normal(0, 6, page.shape)
    return _file(Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).convert("RGB"), "JPEG", quality=60)


def _grey_and(mode: str, form: str = "PNG") -> Callable[[np.ndarray, Generator], bytes]:
    return lambda image, random: _file(_inked(_drawn(image)).convert(mode), form)


def _coloured(image: np.ndarray, random: Generator) -> bytes:
    ink = _drawn(image)[..., None]
    pixels = np.array([250, 240, 190]) * (1 - ink) + np.array([30, 60, 160]) * ink
    return _file(Image.fromarray(pixels.round().astype(np.uint8)))


def _transparent(image: np.ndarray, random: Generator) -> bytes:
    """Ink of any colour with nothing behind it, over hidden pixels of any colour."""
    ink = (_drawn(image) * 255).round().astype(np.uint8)
    pixels = np.empty((*ink.shape, 4), np.uint8)
    pixels[..., :3] = random.integers(0, 256, 3)
    pixels[ink == 0, :3] = random.integers(0, 256, 3)
    pixels[..., 3] = ink
    return _file(Image.fromarray(pixels))


def _deep(image: np.ndarray, random: Generator) -> bytes:
    values = 60_000 - 45_000 * _drawn(image)
    return _file(Image.fromarray(values.round().astype(np.uint16)))


def _turned(image: np.ndarray, random: Generator) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    page = _inked(_drawn(image)).transpose(Image.Transpose.ROTATE_90)
    return _file(page, "JPEG", quality=90, exif=exif)


_KINDS: dict[str, Callable[[np.ndarray, Generator], bytes]] = {
    "dark on light": _sized(_SIDE),
    "light on dark": _light_on_dark,
    **{f"{side} pixels": _sized(side) for side in (12, 16, 20, 28, 50, 300, 1200)},
    "anywhere on a page": _anywhere,
    "cropped tightly": _tight,
    "thin strokes": _strokes(-0.8),
    "thick strokes": _strokes(1.0),
    "JPEG, quality 50": _jpeg(50),
    "JPEG, quality 20": _jpeg(20),
    "slanting light": _slanting_light,
    "rough paper": _rough_paper,
    "faint ink": _faint,
    "ruled lines": _ruled,
    "in a box": _boxed,
    "dust": _dusty,
    "photo": _photo,
    "1 bit": _grey_and("1"),
    "palette": _grey_and("P", "GIF"),
    "coloured": _coloured,
    "transparent": _transparent,
    "CMYK": _grey_and("CMYK", "TIFF"),
    "16 bits": _deep,
    "turned by EXIF": _turned,
}
