"""Digits that the package draws itself: in handwriting styles that are rare in MNIST, and in printed fonts."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor
from torch.nn import functional as F

from ..images import CLASSES, SIZE
from .datasets import LabelledImages
from .handwriting import STYLES, Style

# Fraction of the digits that are printed; the others are handwritten.
_PRINTED = 0.15

# Fonts that come with matplotlib, which TensorBoard's plots need anyway: with and without serifs, bold, slanted, fixed.
_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)

# Straight segments between two consecutive points of a style.
_PIECES = 6

# Digits drawn at once; larger chunks need more memory and are not faster.
_CHUNK = 250

# MNIST's digits are 20 pixels high or wide.
_DIGIT_SIZE = 20
_MARGIN = (SIZE - _DIGIT_SIZE) // 2


def draw_digits(count: int, seed: int = 0) -> LabelledImages:
    """Draw digits in MNIST's form: about 20 pixels high or wide, and centred by mass.

    Some are printed in random fonts. The others are handwritten, each with a random style (see `STYLES`), slant, width
    and tremor, and with a random pen, which can be broader in one direction.

    Args:
        count: number of digits; the classes have equal numbers, up to one digit, and are in random order.
        seed: seed of all random numbers.
    """
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count)[torch.randperm(count, generator=random)] % CLASSES
    images = torch.empty(count, SIZE, SIZE, dtype=torch.uint8)
    printed = torch.rand(count, generator=random) < _PRINTED
    for index in printed.nonzero().flatten().tolist():
        images[index] = _print(int(labels[index]), random)
    for digit, styles in STYLES.items():
        written = (~printed & (labels == digit)).nonzero().flatten()
        weights = torch.tensor([float(style.weight) for style in styles])
        chosen = torch.multinomial(weights, len(written), replacement=True, generator=random)
        for number, style in enumerate(styles):
            for chunk in written[chosen == number].split(_CHUNK):
                images[chunk] = _write(style, len(chunk), random)
    return LabelledImages(images, labels)


def _write(style: Style, count: int, random: Generator) -> Tensor:
    """Write a digit `count` times; uint8 (count, 28, 28)."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=random)

    ones, others, smooth, joined = _compiled(style)
    points = ones.lerp(others, uniform(-0.15, 1.15, 1, 1))
    points = points + 0.35 * torch.randn(points.shape, generator=random)
    line = smooth @ points  # (count, M, 2)
    line = line + 0.25 * _tremor(count, line.shape[1], random)
    x, y = line.unbind(-1)
    # Slants to the right are more frequent; the top and the bottom can differ in width.
    x, y = (x - 5) * (1 + uniform(-0.25, 0.25, 1) * (y - 7) / 7), (y - 7) * uniform(0.8, 1.1, 1)
    x, y = x * uniform(0.7, 1.25, 1) - uniform(-0.2, 0.4, 1) * y, y
    angle = uniform(-0.14, 0.14, 1)
    line = torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], -1)

    pen = 1.5 + 3.3 * uniform(0, 1).square()  # pixels; most pens are thin
    low, high = line.amin(1), line.amax(1)
    scale = (_DIGIT_SIZE - pen) / (high - low).amax(1)
    line = (line - ((low + high) / 2)[:, None]) * scale[:, None, None]
    # A broad pen is an ellipse; `_ink` measures distances in coordinates where it is a circle.
    turn, flat = uniform(0, torch.pi), 1 - uniform(0, 0.6) * (uniform(0, 1) < 0.3)
    pressure = (1 + 0.25 * _tremor(count, line.shape[1], random)[..., 0]).clamp(0.5, 1.5)
    ink = _ink(line, joined, pen[:, None] * pressure, _pen_shape(turn, flat), uniform(0.7, 1.6))
    return (255 * ink / ink.amax((1, 2), keepdim=True)).round().byte()


def _ink(line: Tensor, joined: Tensor, width: Tensor, shape: Tensor, edge: Tensor) -> Tensor:
    """Draw lines with a pen.

    Args:
        line: points (B, M, 2), in pixels from the digit's middle.
        joined: whether each point is joined to the next one, bool (M - 1,).
        width: width of the pen at each point, in pixels, (B, M).
        shape: maps the pen to a circle, (B, 2, 2).
        edge: width of the soft edge, in pixels, (B,).

    Returns:
        float32 (B, 28, 28), 0 to 1, centred by mass.
    """
    start, step = line[:, :-1][:, joined], line.diff(dim=1)[:, joined]
    radius = width[:, :-1][:, joined] / 2
    areas = step.norm(dim=-1) * radius
    mass = ((start + step / 2) * areas[..., None]).sum(1) / areas.sum(1, keepdim=True)
    mass.clamp_(-_MARGIN, _MARGIN)
    positions = torch.arange(SIZE) - SIZE / 2  # the centres of mass of MNIST's digits are near row and column 14
    pixels = torch.stack(torch.meshgrid(positions, positions, indexing="xy"), -1).reshape(-1, 2)
    pixels = (pixels + mass[:, None]) @ shape  # (B, 784, 2)
    start, step = start @ shape, step @ shape
    offset = pixels[:, :, None] - start[:, None]
    along = (offset * step[:, None]).sum(-1) / step.square().sum(-1).clamp(min=1e-9)[:, None]
    distance = (offset - along.clamp(0, 1)[..., None] * step[:, None]).norm(dim=-1)
    outside = (distance - radius[:, None]).amin(-1)
    ink: Tensor = (0.5 - outside / edge[:, None]).clamp(0, 1)
    return ink.reshape(-1, SIZE, SIZE)


def _pen_shape(turn: Tensor, flat: Tensor) -> Tensor:
    """Return (B, 2, 2): the stretch by 1 / flat in the direction `turn` that makes a pen's ellipse a circle."""
    cos, sin = turn.cos(), turn.sin()
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    stretch = torch.diag_embed(torch.stack([1 / flat, torch.ones_like(flat)], 1))
    return rotation.mT @ stretch @ rotation


def _tremor(count: int, length: int, random: Generator) -> Tensor:
    """Draw smooth noise along lines, (count, length, 2), with a variance of 1 to 2."""
    knots = torch.randn(count, 2, max(length // 8, 2), generator=random)
    return 1.4 * F.interpolate(knots, length, mode="linear", align_corners=True).mT


def _compiled(style: Style) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return both forms of a style's points (P, 2), the matrix (M, P) from points to curve, and `joined` of `_ink`."""
    ones, corners, ends = _points(style.one)
    others, _, _ = _points(style.other)
    rows, joined = [], list[bool]()
    start = 0
    for end in ends:
        rows.append(_smooth_curve(start, end, corners, len(ones)))
        joined += [True] * (len(rows[-1]) - 1) + [False]
        start = end
    return ones, others, torch.cat(rows), torch.tensor(joined[:-1])


def _points(strokes: list[str]) -> tuple[Tensor, set[int], list[int]]:
    """Return the points (P, 2) of strokes, the indices of corners, and the index behind the end of each stroke."""
    points, corners, ends = list[list[float]](), set[int](), list[int]()
    for stroke in strokes:
        for word in stroke.split():
            if word.endswith("*"):
                corners.add(len(points))
            points.append([float(number) for number in word.rstrip("*").split(",")])
        ends.append(len(points))
    return torch.tensor(points), corners, ends


def _smooth_curve(start: int, end: int, corners: set[int], count: int) -> Tensor:
    """Return the matrix (M, count) of a Catmull-Rom spline through the points from `start` to `end` - 1.

    Catmull and Rom 1974, https://doi.org/10.1016/B978-0-12-079050-0.50020-5.
    """
    unit = torch.eye(count)

    def slope(index: int, inwards: int) -> Tensor:
        """Return the slope at a point, on the span before it (inwards=-1) or after it (inwards=1)."""
        if index in corners or index in (start, end - 1):
            return (unit[index + inwards] - unit[index]) * inwards
        return (unit[index + 1] - unit[index - 1]) / 2

    rows = []
    t = torch.linspace(0, 1, _PIECES + 1)[:-1, None]
    for index in range(start, end - 1):
        one, other = slope(index, 1), slope(index + 1, -1)
        rows.append(
            (2 * t**3 - 3 * t**2 + 1) * unit[index]
            + (t**3 - 2 * t**2 + t) * one
            + (3 * t**2 - 2 * t**3) * unit[index + 1]
            + (t**3 - t**2) * other
        )
    return torch.cat([*rows, unit[end - 1 : end]])


def _print(digit: int, random: Generator) -> Tensor:
    """Print a digit in a random font, stretched and slanted; uint8 (28, 28)."""
    font = _FONTS[int(torch.randint(len(_FONTS), (), generator=random))]
    stretch, slant = (torch.rand(2, generator=random) * torch.tensor([0.5, 0.4]) + torch.tensor([0.75, -0.2])).tolist()
    page = _glyph(font, digit)
    width, height = page.size
    shear = Image.Transform.AFFINE
    page = page.transform((2 * width, height), shear, (1 / stretch, slant, -width / 2 - slant * height / 2, 0, 1, 0))
    page = page.crop(page.getbbox())
    ratio = _DIGIT_SIZE / max(page.size)
    small = page.resize([max(1, round(side * ratio)) for side in page.size], Image.Resampling.HAMMING)
    ink = np.asarray(small, np.float32)
    top, left = (
        min(max(round(SIZE / 2 - float(ink.sum(1 - axis) @ np.arange(side) / ink.sum())), 0), SIZE - side)
        for axis, side in enumerate(ink.shape)
    )
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return torch.from_numpy(image)


@cache
def _glyph(font: str, digit: int) -> Image.Image:
    import matplotlib  # takes a while to import, and only drawing needs it

    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    page = Image.new("L", (200, 200))
    ImageDraw.Draw(page).text((50, 20), str(digit), 255, ImageFont.truetype(file, 120))
    return page.crop(page.getbbox())
