"""Pictures of a network's errors and of its reconstructions."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..images import SIZE
from ..tracing.pictures import colour, enlarge

# Images per row; and in pixels, the side of one pixel of an image, the height of a caption, the space between images.
_COLUMNS, _SCALE, _CAPTION, _SPACE = 8, 3, 20, 4


def draw_errors(images: Tensor, labels: Tensor, probabilities: Tensor, most: int) -> Image.Image:
    """Draw the most confident errors, each above the caption "label: prediction confidence".

    Args:
        images: uint8 (N, 28, 28), including those classified correctly.
        labels: int64 (N,).
        probabilities: float32 (N, 10).
        most: largest number of errors to draw.
    """
    confidences, predictions = probabilities.max(1)
    wrong = (predictions != labels).nonzero().flatten()
    worst = wrong[confidences[wrong].argsort(descending=True, stable=True)][:most]
    side = SIZE * _SCALE
    width, height = side + _SPACE, side + _CAPTION
    sheet = Image.new("L", (_COLUMNS * width, max(1, -(-len(worst) // _COLUMNS)) * height), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for position, index in enumerate(worst.tolist()):
        left, top = position % _COLUMNS * width, position // _COLUMNS * height
        sheet.paste(enlarge(images[index].cpu().numpy(), _SCALE), (left, top))
        caption = f"{labels[index]}: {predictions[index]} {confidences[index]:.0%}"
        pen.text((left + side // 2, top + side + 1), caption, fill=0, font=font, anchor="ma")
    return sheet


def draw_pairs(above: Tensor, below: Tensor) -> Image.Image:
    """Draw images (N, 1, 28, 28), each above the first channel of its reconstruction (N, C, H, W)."""
    rows = [
        enlarge(colour(np.concatenate(list(row[:, 0].detach().float().cpu().numpy()), 1)), 2) for row in (above, below)
    ]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)))
    sheet.paste(rows[0], (0, 0))
    sheet.paste(rows[1], (0, rows[0].height))
    return sheet
