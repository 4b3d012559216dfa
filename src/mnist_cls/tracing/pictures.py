"""Draw the values inside a network."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from ..data.normalization import normalize
from ..errors import first_line
from ..files import whole_file
from ..images import SIZE
from .outputs import heads, saliency
from .records import Trace
from .tensors import dense

Picture = Image.Image

# Channels drawn of one operation.
_MAX_MAPS = 64
# In pixels: between maps; of captions; of the whole overview.
_GAP, _TEXT, _WIDTH = 1, 14, 1200


def save_pictures(
    model: nn.Module, trace: Trace, images: Tensor, folder: Path, options: Mapping[str, bool] | None = None
) -> None:
    """Draw the outputs of all operations for the first image, the first layer's filters, and saliency maps.

    Writes a PNG file for each picture, one for all of them, and TensorBoard's event file. Outputs with fewer rows than
    the batch are left out: after an early exit, the first row may belong to any image.

    The trace is that of the network for these images (B, 28, 28), 0 to 255, in its present mode and with these
    `options` of its `forward`.
    """
    from torch.utils.tensorboard import SummaryWriter

    pictures = [
        *_draw_operations(trace, len(images)),
        *_draw_first_layer(model),
        *_draw_heads(model, trace, images, options or {}),
    ]
    with SummaryWriter(folder) as writer:
        for name, _, picture in pictures:
            _save(folder / f"{name}.png", picture)
            writer.add_image(f"forward/{name}", torch.from_numpy(np.array(picture)), dataformats="HWC")
    _save(folder / "overview.png", _stack([(caption, picture) for _, caption, picture in pictures]))


def draw_values(values: Tensor) -> Picture:
    """Draw values (C, H, W) as a map per channel, or values (N,) as rows of 64 squares; of complex ones the magnitude.

    Positive values are red, negative ones blue, zeros white, NaNs and infinite values black.
    """
    array = (values.abs() if values.is_complex() else values).detach().float().cpu().numpy()
    if array.ndim == 3:
        return _draw_maps(array)
    columns = min(64, array.size)
    squares = np.zeros((-(-array.size // columns), columns), np.float32)
    squares.flat[: array.size] = array
    return enlarge(colour(squares), 8)


def draw_saliency(image: Tensor, gradient: Tensor) -> Picture:
    """Draw a saliency map (28, 28), at least 0, in red over its image (28, 28) of any range."""
    ink = image.detach().float().cpu().numpy()
    paper = 1 - (ink - ink.min()) / max(float(np.ptp(ink)), 1e-12)
    red = np.nan_to_num(gradient.detach().float().cpu().numpy(), posinf=0)[..., None]
    red = red / max(float(red.max()), 1e-12)
    # Ink is grey, so that red can be seen on it, too.
    grey = np.repeat((128 + 127.5 * paper)[..., None], 3, 2)
    return enlarge((grey * (1 - red) + np.array([220.0, 0.0, 0.0]) * red).astype(np.uint8), 8)


def colour(values: np.ndarray) -> np.ndarray:
    """Map values (...) to colours, uint8 (..., 3): the largest magnitude to full red or blue, zero to white."""
    finite = np.isfinite(values)
    largest = float(np.abs(values[finite]).max(initial=0))
    scaled = np.where(finite, values, 0) / (largest or 1)
    fade = 1 - np.abs(scaled)
    rgb = np.stack([np.where(scaled < 0, fade, 1), fade, np.where(scaled > 0, fade, 1)], -1)
    rgb[~finite] = 0
    return (rgb * 255).astype(np.uint8)


def enlarge(pixels: np.ndarray, scale: int) -> Picture:
    """Draw each pixel as a square of `scale` pixels."""
    height, width = pixels.shape[:2]
    return Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)


def _draw_operations(trace: Trace, count: int) -> Iterator[tuple[str, str, Picture]]:
    for record in trace:
        if record.value.ndim in (2, 3, 4) and len(record.value) == count and record.value.numel():
            values = record.value[:1] if record.value.ndim == 3 else record.value[0]  # (B, 28, 28) has no channels
            yield record.name.replace(".", "-"), f"{record.step}. {record}", draw_values(dense(values))


def _draw_first_layer(model: nn.Module) -> Iterator[tuple[str, str, Picture]]:
    for weights in model.parameters():
        if weights.ndim == 4 or weights.shape[1:] == (SIZE * SIZE,):
            filters = weights if weights.ndim == 4 else weights.view(-1, 1, SIZE, SIZE)  # a linear layer sees an image
            maps = filters.detach().float().cpu().mean(1).numpy()  # the mean over the input channels
            yield "filters", f"filters of the first layer {tuple(weights.shape)}", _draw_maps(maps)
            return


def _draw_heads(
    model: nn.Module, trace: Trace, images: Tensor, options: Mapping[str, bool]
) -> Iterator[tuple[str, str, Picture]]:
    for name, logits in heads(trace.output).items():
        label = int(logits[0].argmax())
        try:
            pixels = saliency(model, normalize(images[:1]), label, name, **options)
        except (RuntimeError, ValueError) as error:  # a network without a gradient, or one that needs several images
            print(f"no saliency of {name}: {first_line(error)}")
            continue
        caption = f"saliency for a {label} ({name})"
        yield f"saliency_{name.replace(' ', '_')}", caption, draw_saliency(images[0], pixels)


def _draw_maps(maps: np.ndarray) -> Picture:
    """Draw maps (N, H, W) side by side, 16 in a row, with grey lines between them."""
    tiles = colour(maps[:_MAX_MAPS])
    count, height, width, _ = tiles.shape
    columns = min(count, 16)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + _GAP), columns * (width + _GAP), 3), 190, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = tile
    return enlarge(sheet[:-_GAP, :-_GAP], max(1, 56 // height))


def _stack(pictures: list[tuple[str, Picture]]) -> Picture:
    """Stack pictures, each below its caption; shrink those that are too wide in place."""
    for _, picture in pictures:
        picture.thumbnail((_WIDTH, picture.height))
    height = sum(picture.height + _TEXT + 14 for _, picture in pictures)
    sheet = Image.new("RGB", (_WIDTH, max(1, height)), "white")
    pen, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT), 0
    for caption, picture in pictures:
        pen.text((2, top + 2), caption, fill="black", font=font)
        sheet.paste(picture, (2, top + _TEXT + 6))
        top += picture.height + _TEXT + 14
    return sheet


def _save(path: Path, picture: Picture) -> None:
    with whole_file(path) as temporary:
        picture.save(temporary, "PNG")
