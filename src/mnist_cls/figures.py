"""Pictures of images, of values inside a network, and of how right it is."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .files import whole_file
from .images import CLASSES, SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray

# What is drawn of one operation at most: more than these many channels nobody looks at.
MAPS = 64
_GAP = 1
_TEXT = 14


def draw_values(values: Tensor, scale: int | None = None) -> Image.Image:
    """Draw what an operation gave for one image: red is positive, blue negative, white zero.

    Args:
        values: (C, H, W), a map for each channel, of which the first `MAPS` are drawn; or (N,), drawn as one row of
            fields, with a line break each 64. NaN and infinite values are black; of complex ones the magnitude counts.
        scale: pixels a value; None chooses so that it can be looked at.
    """
    values = values.abs() if values.is_complex() else values
    array = values.detach().float().cpu().numpy()
    if array.ndim == 3:
        return _enlarge(_tile(_colours(array[:MAPS])), scale or max(1, 56 // array.shape[1]))
    flat = array.reshape(-1)
    columns = min(64, max(1, len(flat)))
    rows = -(-len(flat) // columns)
    fields = np.zeros(rows * columns, np.float32)
    fields[: len(flat)] = flat
    return _enlarge(_colours(fields.reshape(rows, columns)), scale or 8)


def draw_filters(weights: Tensor) -> Image.Image:
    """Draw the weights of a convolution, each of its filters as one map.

    Args:
        weights: (outputs, inputs, H, W), of which the first `MAPS` outputs are drawn; of several inputs the mean.
    """
    maps = weights.detach()[:MAPS].float().cpu().mean(1).numpy()
    return _enlarge(_tile(_colours(maps)), max(1, 56 // maps.shape[1]))


def draw_saliency(image: Tensor, saliency: Tensor, scale: int = 8) -> Image.Image:
    """Draw where a network looks, in red over the image.

    Args:
        image: (28, 28), any range.
        saliency: (28, 28), 0 or more.
        scale: pixels a pixel.
    """
    ink = image.detach().float().cpu().numpy()
    paper = 255 * (1 - (ink - ink.min()) / max(float(np.ptp(ink)), 1e-12))
    share = np.nan_to_num(saliency.detach().float().cpu().numpy(), posinf=0)
    share = share / max(float(share.max()), 1e-12)
    # The paper is lightened so that red shows on ink, too.
    grey = np.repeat((128 + paper / 2)[..., None], 3, 2)
    red = np.array([220.0, 0.0, 0.0])
    mixed = grey * (1 - share[..., None]) + red * share[..., None]
    return _enlarge(mixed.astype(np.uint8), scale)


def draw_pairs(above: Tensor, below: Tensor) -> Image.Image:
    """Draw images and what a network made of each, below it.

    Args:
        above: (N, 1, 28, 28), any range.
        below: (N, C, H, W); of several channels the first is drawn.
    """
    rows = [np.concatenate(list(part[:, 0].detach().float().cpu().numpy()), 1) for part in (above, below)]
    drawn = [_enlarge(_colours(row), 2) for row in rows]
    sheet = Image.new("RGB", (max(part.width for part in drawn), sum(part.height for part in drawn)))
    sheet.paste(drawn[0], (0, 0))
    sheet.paste(drawn[1], (0, drawn[0].height))
    return sheet


def draw_captioned(images: Tensor, captions: Sequence[str], columns: int = 8, scale: int = 3) -> Image.Image:
    """Draw images with a line of text below each.

    Args:
        images: uint8 (N, 28, 28).
        captions: N lines.
        columns: how many stand in a row.
        scale: pixels a pixel.
    """
    side = SIZE * scale
    rows = max(1, -(-len(images) // columns))
    sheet = Image.new("L", (columns * (side + 4), rows * (side + _TEXT + 6)), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT - 2)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = place % columns * (side + 4), place // columns * (side + _TEXT + 6)
        drawn = Image.fromarray(image.cpu().numpy()).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(drawn, (left, top))
        pen.text((left + side // 2, top + side + 1), caption, fill=0, font=font, anchor="ma")
    return sheet


def stack_captioned(pictures: Sequence[tuple[str, Image.Image]], width: int = 1200) -> Image.Image:
    """Put pictures under each other, each below its caption.

    Args:
        pictures: captions and pictures.
        width: of the whole in pixels; wider pictures are made smaller.
    """
    fitted = []
    for caption, picture in pictures:
        if picture.width > width:
            picture = picture.resize((width, max(1, picture.height * width // picture.width)))
        fitted.append((caption, picture))
    height = sum(picture.height + _TEXT + 14 for _, picture in fitted)
    sheet = Image.new("RGB", (width, max(1, height)), "white")
    pen, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT), 0
    for caption, picture in fitted:
        pen.text((2, top + 2), caption, fill="black", font=font)
        sheet.paste(picture, (2, top + _TEXT + 6))
        top += picture.height + _TEXT + 14
    return sheet


def draw_confusion_matrix(counts: Tensor) -> "Figure":
    """Draw how often each digit was taken for each.

    Args:
        counts: whole numbers (10, 10); rows are the labels, columns the predictions.
    """
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    table = counts.cpu()
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="label", xticks=range(CLASSES), yticks=range(CLASSES))
    shares = table / table.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)  # the root makes rare confusions visible
    for row in range(CLASSES):
        for column in range(CLASSES):
            color = "white" if shares[row, column] > 0.25 else "black"
            axes.text(column, row, str(int(table[row, column])), ha="center", va="center", color=color, fontsize=8)
    correct, total = int(table.trace()), int(table.sum())
    axes.set_title(f"{correct:,} of {total:,} right")
    return figure


def draw_reliability(confidences: Array, right: Array, error: float, bins: int = 15) -> "Figure":
    """Draw how often a network is right against how sure it says it is.

    Args:
        confidences: (N,), 0 to 1.
        right: bool (N,).
        error: the expected calibration error, for the title.
        bins: how many equal parts the range of confidences has.
    """
    from matplotlib.figure import Figure

    place = np.minimum((confidences * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0
    accuracy = np.bincount(place, right, minlength=bins)[filled] / counts[filled]
    middles = (np.arange(bins)[filled] + 0.5) / bins
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    axes.bar(middles, accuracy, width=0.9 / bins, label="right")
    axes.plot([0, 1], [0, 1], "k--", linewidth=1, label="as right as sure")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right", title=f"expected calibration error {error:.2%}")
    axes.legend(loc="upper left")
    below.bar(middles, counts[filled], width=0.9 / bins, color="grey")
    below.set(yscale="log", xlabel="confidence", ylabel="images")
    return figure


def draw_answered(confidences: Array, right: Array) -> "Figure":
    """Draw how many errors are left when only the images that a network is surest of are answered.

    Args:
        confidences: (N,), 0 to 1.
        right: bool (N,).
    """
    from matplotlib.figure import Figure

    order = np.argsort(-confidences, kind="stable")
    counts = np.arange(1, len(order) + 1)
    errors = np.cumsum(~right[order])
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="share that is answered, surest first", ylabel="errors among them, %")
    shown = counts >= 0.9 * len(order)  # who answers fewer has no use for the network
    axes.step((counts / len(order))[shown], (100 * errors / counts)[shown], where="post")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return figure


def png(picture: "Image.Image | Figure") -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(file, "PNG")
    else:
        picture.savefig(file, format="png", dpi=100)
    return file.getvalue()


def save_png(path: str | Path, picture: "Image.Image | Figure") -> None:
    """Write a PNG file, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(png(picture))


def _tile(maps: Array) -> Array:
    """uint8 (N, H, W, 3) -> one picture, the maps side by side with grey lines between them."""
    count, height, width, _ = maps.shape
    columns = min(count, 16)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + _GAP), columns * (width + _GAP), 3), 190, np.uint8)
    for place, channel in enumerate(maps):
        top, left = place // columns * (height + _GAP), place % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = channel
    return sheet[: rows * (height + _GAP) - _GAP, : columns * (width + _GAP) - _GAP]


def _colours(values: Array) -> Array:
    """Values (...) -> uint8 (..., 3): white for 0, red for the largest, blue for the most negative."""
    good = np.isfinite(values)
    top = float(np.abs(values[good]).max(initial=0))
    share = np.where(good, values, 0) / (top or 1)
    fade = 1 - np.abs(share)
    rgb = np.stack([np.where(share < 0, fade, 1), fade, np.where(share > 0, fade, 1)], -1)
    rgb[~good] = 0
    return (rgb * 255).astype(np.uint8)


def _enlarge(pixels: Array, scale: int) -> Image.Image:
    height, width = pixels.shape[:2]
    return Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)
