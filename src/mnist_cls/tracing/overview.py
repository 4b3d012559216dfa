"""Save pictures of a forward pass as PNG files and for TensorBoard."""

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
from .pictures import Picture, draw_maps, draw_saliency, draw_values
from .records import Trace
from .tensors import dense

# In pixels: height of captions; width of the whole overview.
_TEXT, _WIDTH = 14, 1200


def save_pictures(
    model: nn.Module, trace: Trace, images: Tensor, folder: Path, options: Mapping[str, bool] | None = None
) -> None:
    """Draw the outputs of all operations for the first image, the first layer's filters, and saliency maps.

    Writes a PNG file for each picture, one for all of them, and TensorBoard's event file. Outputs with fewer rows than
    the batch are left out: after an early exit, the first row can belong to any image.

    Args:
        model: the network, still in the mode in which it was traced.
        trace: the forward pass.
        images: the images that were traced, (B, 28, 28), 0 to 255.
        folder: folder to write to.
        options: keyword arguments for the network's `forward` with which it was traced.
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
            yield "filters", f"filters of the first layer {tuple(weights.shape)}", draw_maps(maps)
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
