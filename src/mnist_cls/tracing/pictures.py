"""Pictures of images, of values inside a network, and of how right it is."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from ..data.normalization import normalize
from ..files import whole_file
from ..images import SIZE
from .recorder import Trace, dense, heads, saliency
from .table import _label, console

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


def save_pictures(
    model: nn.Module, trace: Trace, images: Tensor, folder: Path, options: Mapping[str, bool] | None = None
) -> None:
    """Draw what each operation gave for the first image, the first layer's filters, and where the network looks.

    Operations of which it is not known which row is the first image's (some images left early) are left out.

    Args:
        model: the network, in the mode of the trace.
        trace: of its forward pass.
        images: what went in, (B, 28, 28).
        folder: gets a PNG file for each picture, `overview.png` with all of them, and TensorBoard's event file.
        options: further arguments of the network's `forward`.
    """
    pictures = {}
    for record in trace:
        if record.value.ndim in (2, 3, 4) and len(record.value) == len(images) and record.value.numel():
            name = "_".join(filter(None, [f"{record.step:02}", record.layer.replace(".", "-"), record.operation]))
            values = record.value[:1] if record.value.ndim == 3 else record.value[0]  # (B, 28, 28) has no channels
            pictures[name] = f"{record.step}. {_label(record)}", draw_values(dense(values))
    first = next((p for p in model.parameters() if p.ndim == 4 or p.shape[1:] == (SIZE * SIZE,)), None)
    if first is not None:
        filters = first if first.ndim == 4 else first.view(-1, 1, SIZE, SIZE)  # a linear layer's are whole images
        pictures["filters"] = f"the filters of the first layer {tuple(first.shape)}", draw_filters(filters)
    for name, logits in heads(trace.output).items():
        label = int(logits[0].argmax())
        try:
            looked = saliency(model, normalize(images[:1]), label, name, **(options or {}))
        except (RuntimeError, ValueError) as error:  # a network without a gradient, or one that wants several images
            console().print(f"no saliency of {name}: {str(error).splitlines()[0]}", markup=False)
            continue
        pictures[f"saliency_{name.replace(' ', '_')}"] = (
            f"where it looks for a {label} ({name})",
            draw_saliency(images[0], looked),
        )
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        for name, (_, picture) in pictures.items():
            save_png(folder / f"{name}.png", picture)
            writer.add_image(f"forward/{name}", torch.from_numpy(np.array(picture)), dataformats="HWC")
    save_png(folder / "overview.png", stack_captioned(list(pictures.values())))
