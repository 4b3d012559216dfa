#!/usr/bin/env python
"""Draw how a photo is read: the photo, what the network sees, its feature maps, and the answer.

    python scripts/show_reading.py docs/scans/photo.jpg docs/reading.png

Exit status: 0, or 2 if the image cannot be read.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from mnist_cls import Predictor, load_model, trace_forward
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.files import whole_file
from mnist_cls.tracing.pictures import colour, sheet

# Layers whose outputs are drawn, and the number of their feature maps.
LAYERS, MAPS = ("conv1", "conv2"), 16


def main() -> int:
    """Draw the image named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("output", type=Path, metavar="OUTPUT.png")
    arguments = parser.parse_args()
    try:
        predictions = Predictor(device="cpu")([arguments.image])
        if predictions.errors[0] is not None:
            raise InputError(predictions.errors[0])
        photo = ImageOps.exif_transpose(Image.open(arguments.image)).convert("RGB")
    except (InputError, OSError) as error:
        print(f"error: {arguments.image}: {error}", file=sys.stderr)
        return 2
    images = np.asarray(predictions.images)
    trace = trace_forward(load_model(), normalize(torch.from_numpy(images)))

    figure = Figure(figsize=(12, 2.6), layout="constrained")
    axes = figure.subplots(1, 5, width_ratios=[1, 1, 1, 1, 1.1])
    axes[0].imshow(photo)
    axes[0].set_title("a photo")
    axes[1].imshow(images[0], cmap="gray")
    axes[1].set_title("what the network sees")
    for axis, layer in zip(axes[2:4], LAYERS, strict=True):
        maps = colour(trace[layer].value[0, :MAPS].numpy())
        axis.imshow(grid(maps))
        axis.set_title(f"{layer}: {MAPS} of {len(trace[layer].value[0])} feature maps", fontsize=11)
    for axis in axes[:4]:
        axis.set_axis_off()
    axes[4].barh(range(10), predictions.probabilities[0], color="tab:blue")
    axes[4].set_yticks(range(10))
    axes[4].invert_yaxis()
    axes[4].set_xlim(0, 1)
    axes[4].set_title(f"{predictions.labels[0]}, {predictions.confidences[0]:.1%}")
    with whole_file(arguments.output) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
    return 0


def grid(maps: np.ndarray) -> np.ndarray:
    """Arrange maps, uint8 (N, H, W, 3), in a square with white lines between them."""
    side = int(len(maps) ** 0.5)
    rows = [sheet(maps[start : start + side], 255, 255) for start in range(0, side * side, side)]
    gap = np.full((1, *rows[0].shape[1:]), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, gap)][:-1])


if __name__ == "__main__":
    sys.exit(main())
