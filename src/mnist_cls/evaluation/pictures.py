"""Pictures of a network's errors and of its reconstructions."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..images import SIZE
from ..tracing.pictures import colour, enlarge

# In pixels: scale of each image, height of its caption, space beside it.
_SCALE, _CAPTION, _SPACE = 3, 20, 4


def draw_errors(images: Tensor, labels: Tensor, probabilities: Tensor, most: int) -> Image.Image:
    """Draw the worst errors, the most confident first, each above "label: prediction confidence".

    Args:
        images: uint8 (N, 28, 28), all images, classified correctly or not.
        labels: int64 (N,).
        probabilities: float32 (N, 10).
        most: maximum number of images to draw.
    """
    confidences, predictions = probabilities.max(1)
    wrong = (predictions != labels).nonzero().flatten()
    worst = wrong[confidences[wrong].argsort(descending=True, stable=True)][:most]
    rows = zip(labels[worst].tolist(), predictions[worst].tolist(), confidences[worst].tolist(), strict=True)
    captions = [f"{label}: {prediction} {confidence:.0%}" for label, prediction, confidence in rows]
    return _draw_captioned(images[worst].cpu().numpy(), captions)


def draw_pairs(above: Tensor, below: Tensor) -> Image.Image:
    """Draw images (N, 1, 28, 28) above their reconstructions (N, C, H, W), of which the first channel is drawn."""
    rows = [
        enlarge(colour(np.concatenate(list(row[:, 0].detach().float().cpu().numpy()), 1)), 2) for row in (above, below)
    ]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)))
    sheet.paste(rows[0], (0, 0))
    sheet.paste(rows[1], (0, rows[0].height))
    return sheet


def _draw_captioned(images: np.ndarray, captions: Sequence[str], columns: int = 8) -> Image.Image:
    side = SIZE * _SCALE
    width, height = side + _SPACE, side + _CAPTION
    sheet = Image.new("L", (columns * width, max(1, -(-len(images) // columns)) * height), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = index % columns * width, index // columns * height
        sheet.paste(enlarge(image, _SCALE), (left, top))
        pen.text((left + side // 2, top + side + 1), caption, fill=0, font=font, anchor="ma")
    return sheet
