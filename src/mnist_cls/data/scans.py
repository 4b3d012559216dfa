"""MNIST's digits as if people had scanned, photographed or drawn them, in image files of many formats.

They are generated from MNIST's images, so that their labels are known.
"""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter
from scipy import ndimage

from ..errors import InputError
from . import uneven

_SIDE = 112  # pixels of a page's side, by default


def list_scans() -> list[str]:
    """Return the kinds of scan."""
    return list(_KINDS)


def scan(images: np.ndarray, kind: str, seed: int = 0) -> list[bytes]:
    """Generate a scan of each image.

    Args:
        images: uint8 (N, 28, 28), in MNIST's form.
        kind: one of `list_scans()`.
        seed: seed of all random numbers.

    Returns:
        The contents of N image files.

    Raises:
        InputError: If the kind is unknown.
    """
    if kind not in _KINDS:
        raise InputError(f"scan={kind}: expected one of {', '.join(_KINDS)}")
    random = np.random.default_rng(seed)
    return [_KINDS[kind](image, random) for image in images]


def scan_row(images: np.ndarray, gap: float, seed: int = 0) -> bytes:
    """Generate a scan of digits side by side, and return the content of a PNG file.

    Args:
        images: uint8 (K, 28, 28), in MNIST's form.
        gap: mean distance between the bounding boxes of two digits, in pixels of MNIST, whose digits are 20 high; each
            distance differs from it by at most one pixel. Below 0 the boxes overlap, and digits often touch.
        seed: seed of all random numbers.
    """
    ink, _ = row_of_ink(images, gap, np.random.default_rng(seed))
    return _encode(_page(ink), "PNG")


def row_of_ink(
    images: np.ndarray, gap: float, random: Generator, sizes: tuple[float, float] = (1.0, 1.0)
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw digits side by side, each at a random height.

    Args:
        images, gap: see `scan_row`.
        random: generator of all random numbers.
        sizes: smallest and largest size of a digit, as a multiple of the usual size.

    Returns:
        The ink of the page, float32 (H, W), 0 to 1; and for each digit a page of the same shape with its ink alone.
    """
    page = np.zeros((4 * 40, 4 * 40 * len(images)), np.float32)
    places, right = [], 24
    for image in images:
        side = round(_SIDE * random.uniform(*sizes)) if sizes[0] < sizes[1] else _SIDE
        ink = _enlarged(image, side)
        columns = np.flatnonzero((ink > 0.3).any(0))
        ink = ink[:, columns[0] : columns[-1] + 1]
        left, top = max(right, 0), 24 + (_SIDE - side) // 2 + round(random.uniform(-6, 6))
        place = np.s_[top : top + side, left : left + ink.shape[1]]
        np.maximum(page[place], ink, out=page[place])
        places.append((place, ink))
        right = left + ink.shape[1] + round(4 * (gap + random.uniform(-1, 1)))
    page = page[:, : right + 24 + 8]
    digits = []
    for place, ink in places:
        digit = np.zeros_like(page)
        digit[place] = ink[:, : digit[place].shape[1]]
        digits.append(digit)
    return page, digits


def _enlarged(image: np.ndarray, side: int = _SIDE) -> np.ndarray:
    """Enlarge a digit's ink; float32 (side, side), 0 to 1."""
    large = Image.fromarray(image.astype(np.float32) / 255).resize((side, side), Image.Resampling.BICUBIC)
    ink: np.ndarray = np.clip(np.asarray(large), 0, 1)
    return ink


def _page(ink: np.ndarray, paper: float | np.ndarray = 235.0, pen: float | np.ndarray = 40.0) -> Image.Image:
    """Blend the grey levels of paper and pen by the ink."""
    return Image.fromarray(np.clip(paper + (pen - paper) * ink, 0, 255).round().astype(np.uint8))


def _encode(page: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    page.save(file, form, **options)
    return file.getvalue()


def _plain(image: np.ndarray, random: Generator, side: int = _SIDE) -> Image.Image:
    return _page(_enlarged(image, side))


def _somewhere(image: np.ndarray, random: Generator, size: tuple[int, int], sides: tuple[int, int]) -> np.ndarray:
    """Draw a digit of random size at a random position; return the page's ink."""
    ink, side = np.zeros(size, np.float32), int(random.integers(*sides))
    top, left = random.integers(0, size[0] - side), random.integers(0, size[1] - side)
    ink[top : top + side, left : left + side] = _enlarged(image, side)
    return ink


def _tight(image: np.ndarray, random: Generator) -> Image.Image:
    ink = _enlarged(image)
    rows, columns = (np.flatnonzero((ink > 0.3).any(axis)) for axis in (1, 0))
    return _page(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _strokes(image: np.ndarray, random: Generator, grow: float, side: int = _SIDE) -> Image.Image:
    """Move the edges of strokes outwards by `grow` pixels of MNIST."""
    mask = np.pad(_enlarged(image, side) > 0.5, 12)
    outside = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
    ink = np.clip(side / 28 * grow - outside + 0.5, 0, 1)
    if grow < 0:
        # Keep the ridge of strokes that would vanish: the pixels furthest from the paper.
        depth = np.maximum(-outside, 0)
        ridge = (depth > 0) & (depth >= ndimage.maximum_filter(depth, 3) - 0.5)
        ink = np.maximum(ink, ridge.astype(np.float32))
    return _page(ink)


def _slanting_light(image: np.ndarray, random: Generator) -> Image.Image:
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    angle = random.uniform(0, 2 * np.pi)
    light = 0.65 + 0.3 * (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2) * 1.1
    return _page(_enlarged(image), 245 * light, 50 * light)


def _rough_paper(image: np.ndarray, random: Generator) -> Image.Image:
    grain = random.normal(0, 12, (_SIDE, _SIDE))
    blots = ndimage.zoom(random.normal(0, 8, (7, 7)), _SIDE / 7, order=3)
    return _page(_enlarged(image), 215 + grain + blots, 50 + grain)


def _faint(image: np.ndarray, random: Generator) -> Image.Image:
    return _page(_enlarged(image), 200 + random.normal(0, 3, (_SIDE, _SIDE)), 140)


def _ruled(image: np.ndarray, random: Generator) -> Image.Image:
    ink = np.pad(_enlarged(image), 8)
    ink[-6:-4] = ink[3:5] = 0.8
    return _page(ink)


def _boxed(image: np.ndarray, random: Generator) -> Image.Image:
    ink = np.pad(_enlarged(image), 6)
    ink[2:4] = ink[-4:-2] = ink[:, 2:4] = ink[:, -4:-2] = 0.9
    return _page(ink)


def _dusty(image: np.ndarray, random: Generator) -> Image.Image:
    ink = _enlarged(image)
    for _ in range(12):
        top, left = random.integers(0, _SIDE - 3, 2)
        ink[top : top + random.integers(1, 4), left : left + random.integers(1, 4)] = random.uniform(0.4, 1)
    return _page(ink)


def _uneven(draw: Callable[[np.ndarray, Generator], np.ndarray]) -> Callable[[np.ndarray, Generator], Image.Image]:
    """Return a function that draws a digit in the middle half of an uneven page, see the module `uneven`."""

    def drawn(image: np.ndarray, random: Generator) -> Image.Image:
        page, side = np.zeros((300, 360), np.float32), int(random.integers(70, 150))
        top, left = random.integers(75, 225 - side + 1), random.integers(90, 270 - side + 1)
        page[top : top + side, left : left + side] = _enlarged(image, side)
        return Image.fromarray(draw(page, random))

    return drawn


def _photo(image: np.ndarray, random: Generator) -> Image.Image:
    """Combine a digit somewhere on a page, uneven light, blur and noise."""
    ink = _somewhere(image, random, (480, 640), (120, 360))
    y, x = np.mgrid[-1:1:480j, -1:1:640j]
    light = 0.75 + random.uniform(-0.2, 0.2) * x + random.uniform(-0.2, 0.2) * y - 0.1 * (x * x + y * y)
    blurred = _page(ink, 230 * light, 60 * light).filter(ImageFilter.GaussianBlur(2))
    noisy = np.asarray(blurred) + random.normal(0, 6, ink.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).convert("RGB")


def _coloured(image: np.ndarray, random: Generator) -> Image.Image:
    ink = _enlarged(image)[..., None]
    pixels = np.array([250, 240, 190]) * (1 - ink) + np.array([30, 60, 160]) * ink
    return Image.fromarray(pixels.round().astype(np.uint8))


def _transparent(image: np.ndarray, random: Generator) -> Image.Image:
    """Draw ink of any colour on a transparent background, whose hidden pixels have any colour, too."""
    ink = (_enlarged(image) * 255).round().astype(np.uint8)
    pixels = np.empty((*ink.shape, 4), np.uint8)
    pixels[..., :3] = random.integers(0, 256, 3)
    pixels[ink == 0, :3] = random.integers(0, 256, 3)
    pixels[..., 3] = ink
    return Image.fromarray(pixels)


def _white_transparent(image: np.ndarray, random: Generator) -> Image.Image:
    """Make white transparent: either each pixel in proportion to its lightness, or only nearly white pixels."""
    page = _page(_enlarged(image), 255.0, random.uniform(0, 120))
    if random.random() < 0.5:
        return Image.merge("LA", (page, page.point(lambda grey: 0 if grey > 250 else 255)))
    return Image.merge("LA", (page, page.point(lambda grey: min(255, 2 * (255 - grey)))))


def _16_bits(image: np.ndarray, random: Generator) -> Image.Image:
    values = 60_000 - 45_000 * _enlarged(image)
    return Image.fromarray(values.round().astype(np.uint16))


_TURN_BACK = Image.Exif()
_TURN_BACK[0x0112] = 6  # orientation: rotate by 90 degrees clockwise


def _kind(
    draw: Callable[[np.ndarray, Generator], Image.Image], form: str = "PNG", **options: Any
) -> Callable[[np.ndarray, Generator], bytes]:
    return lambda image, random: _encode(draw(image, random), form, **options)


_KINDS = {
    "dark on light": _kind(_plain),
    "light on dark": _kind(lambda image, random: _page(_enlarged(image), 30.0, 220.0)),
    **{f"{side} pixels": _kind(partial(_plain, side=side)) for side in (12, 16, 20, 28, 50, 300, 1200)},
    "anywhere on a page": _kind(lambda image, random: _page(_somewhere(image, random, (180, 240), (40, 110)))),
    "cropped tightly": _kind(_tight),
    "thin strokes": _kind(partial(_strokes, grow=-0.8)),
    "a pen of 1 pixel": _kind(partial(_strokes, grow=-4.0, side=800)),
    "thick strokes": _kind(partial(_strokes, grow=1.0)),
    "JPEG, quality 50": _kind(_plain, "JPEG", quality=50),
    "JPEG, quality 20": _kind(_plain, "JPEG", quality=20),
    "slanting light": _kind(_slanting_light),
    "rough paper": _kind(_rough_paper),
    "faint ink": _kind(_faint),
    "ruled lines": _kind(_ruled),
    "in a box": _kind(_boxed),
    "dust": _kind(_dusty),
    "soft shadow": _kind(_uneven(lambda ink, random: uneven.shadow(ink, random, random.uniform(6, 30)))),
    "hard shadow": _kind(_uneven(partial(uneven.shadow, width=0.5))),
    "dark object": _kind(_uneven(uneven.dark_object)),
    "grey paper on white": _kind(_uneven(lambda ink, random: uneven.pasted(ink, random, 60, random.uniform(190, 235)))),
    "dark paper on white": _kind(_uneven(lambda ink, random: uneven.pasted(ink, random, 230, random.uniform(10, 60)))),
    "rulings across": _kind(_uneven(uneven.ruled)),
    "squared paper": _kind(_uneven(partial(uneven.ruled, squared=True))),
    "a speck above": _kind(_uneven(uneven.speck)),
    "photo": _kind(_photo, "JPEG", quality=60),
    "1 bit": _kind(lambda image, random: _plain(image, random).convert("1")),
    "palette": _kind(lambda image, random: _plain(image, random).convert("P"), "GIF"),
    "coloured": _kind(_coloured),
    "transparent": _kind(_transparent),
    "white made transparent": _kind(_white_transparent),
    "CMYK": _kind(lambda image, random: _plain(image, random).convert("CMYK"), "TIFF"),
    "16 bits": _kind(_16_bits),
    "turned by EXIF": _kind(
        lambda image, random: _plain(image, random).transpose(Image.Transpose.ROTATE_90),
        "JPEG",
        quality=90,
        exif=_TURN_BACK,
    ),
}
