"""Small pictures of an operation's output, as HTML."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from .pictures import COLUMNS, MAPS, colour, sheet

# Maps in the first picture; the others are folded.
_VISIBLE = 16
# Maximum number of values along each side of a map, of rows of a matrix and of a vector, and of values in a row.
_SIDE, _MATRIX_ROWS, _VECTOR_ROWS, _WIDTH = 28, 28, 8, 64
# Few colours make small files: this many shades for each sign, white, black for values that are not finite, a
# translucent grey between maps, and full transparency.
_SHADES = 24
_NOT_FINITE, _GAP, _NOTHING = (2 * _SHADES + number for number in (1, 2, 3))
_PALETTE = bytes([*colour(np.linspace(-1, 1, 2 * _SHADES + 1)).flat, 0, 0, 0, 128, 128, 128, 0, 0, 0])
_OPACITY = bytes([255] * _GAP + [80, 0])


class _Drawing(NamedTuple):
    """Values to draw, (N, H, W); their description, a template with `first` and `last`; and pixels per value."""

    values: np.ndarray
    text: str
    scale: int


def drawn_values(values: np.ndarray) -> int:
    """Return how many of the values (N, H, W), (H, W) or (N,) `thumbnails` draws if `room` is unlimited."""
    return _select(values, values.size).values.size


def thumbnails(values: np.ndarray, name: str, room: int) -> str:
    """Draw feature maps (N, H, W), a matrix (H, W) or a vector (N,): at most 64 maps, 28 x 64 values, or 512 values.

    Red is positive, blue negative, white zero, black not finite. Large maps are drawn in part: every second, third, ...
    row and column.

    Args:
        values: float of any range.
        name: the operation that computed them, for the alternative text.
        room: maximum number of values to draw.

    Returns:
        HTML of a picture, and of a folded one if there are more than 16 maps: less than 700 bytes per picture plus one
        per value.
    """
    drawing = _select(values, room)
    shades = _shades(drawing.values)
    html = ""
    for start, stop in ((0, _VISIBLE), (_VISIBLE, MAPS)):
        part = drawing.values[start:stop]
        if part.size:
            text = drawing.text.format(first=start + 1, last=start + len(part))
            picture = _image(shades[start:stop], f"{name}: {text}, {_range(part)}", drawing.scale)
            html += f"<details><summary>{text}</summary>{picture}</details>" if start else picture
    return html


def _select(values: np.ndarray, room: int) -> _Drawing:
    if values.ndim == 3:
        count, height, width = values.shape
        step = max(1, -(-max(height, width) // _SIDE))
        maps = values[:, ::step, ::step]
        maps = maps[: min(MAPS, room // max(1, maps[:1].size))]
        part = f"{height} x {width} values" + (f", every {_ordinal(step)} row and column" if step > 1 else "")
        text = (
            f"the feature map, {part}" if count == 1 else f"feature maps {{first}} to {{last}} of {count}, {part} each"
        )
        scale = max(1, _SIDE // max(1, *maps.shape[1:])) * (2 if count <= COLUMNS // 2 else 1)
        return _Drawing(maps, text, scale)
    if values.ndim == 2:
        height, width = values.shape
        shown = values[: min(_MATRIX_ROWS, room // max(1, min(width, _WIDTH))), :_WIDTH]
        whole = "" if shown.shape == values.shape else f"the first {shown.shape[0]} x {shown.shape[1]} of "
        return _Drawing(shown[None], f"{whole}{height} x {width} values", 4)
    shown = values[: min(_VECTOR_ROWS * _WIDTH, room)]
    whole = "" if len(shown) == len(values) else f"the first {len(shown)} of "
    return _Drawing(shown.reshape(1, 1, -1), f"{whole}{len(values)} values", 7)


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def _range(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    return f"from {finite.min():.3g} to {finite.max():.3g}" if finite.size else "none of them finite"


def _shades(values: np.ndarray) -> np.ndarray:
    """Map values to indices into the palette."""
    finite = np.isfinite(values)
    largest = np.abs(values[finite]).max(initial=0) or 1
    shades = np.rint(np.where(finite, values, 0) / largest * _SHADES) + _SHADES
    return np.where(finite, shades, _NOT_FINITE).astype(np.uint8)


def _image(maps: np.ndarray, alt: str, scale: int) -> str:
    """Return maps of palette indices (N, H, W) as an `img` element; a single long row is wrapped."""
    width = maps.shape[2]
    if maps.shape[1] == 1 and width > _WIDTH:
        pixels = np.full((-(-width // _WIDTH), _WIDTH), _NOTHING, np.uint8)
        pixels.flat[:width] = maps
    else:
        pixels = sheet(maps, _GAP, _NOTHING)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.putpalette(_PALETTE)
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=_OPACITY)
    data = base64.b64encode(file.getvalue()).decode()
    size = f'width="{picture.width * scale}" height="{picture.height * scale}"'
    return f'<img alt="{alt}" {size} src="data:image/png;base64,{data}">'
