#!/usr/bin/env python
"""Draw the steps of preprocessing for images of one digit.

    python scripts/show_preprocessing.py scan.jpg another.png --output steps.png

For an image that is rejected, the picture has the steps before the rejection, and the reason.
Exit status: 0, or 2 if a file is not an image.
"""

import argparse
import sys
import textwrap
from pathlib import Path

import numpy as np

from mnist_cls.errors import InputError
from mnist_cls.files import whole_file
from mnist_cls.preprocessing.cleaning import clean
from mnist_cls.preprocessing.components import INKED, ink_box
from mnist_cls.preprocessing.decode import decode, enlarge
from mnist_cls.preprocessing.digit import SIDE
from mnist_cls.preprocessing.ink import find_ink
from mnist_cls.preprocessing.paper import fit_paper
from mnist_cls.preprocessing.prepare import prepare

TITLES = ["grey", "the paper, fitted", "ink", "cleaned", "cropped", "MNIST's form"]


def steps(content: bytes) -> tuple[list[np.ndarray], str | None]:
    """Return the image (H, W) after each step in `TITLES`; after fewer steps and with the reason if it is rejected.

    Args:
        content: Bytes of an image file.

    Raises:
        InputError: If it is not an image.
    """
    grey, _ = enlarge(decode(content, SIDE).grey)
    pictures = [grey, fit_paper(grey)]
    try:
        ink = find_ink(grey)
        pictures.append(255 * ink)
        cleaned = clean(ink)
        pictures.append(255 * cleaned)
        if (cleaned >= INKED).any():
            left, top, right, bottom = ink_box(cleaned >= INKED)
            pictures.append(255 * cleaned[top:bottom, left:right])
        pictures.append(prepare(content).images[0])
    except InputError as error:
        return pictures, str(error)
    return pictures, None


def main() -> int:
    """Draw the images named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="+", type=Path)
    parser.add_argument(
        "--output", type=Path, default=Path("steps.png"), help="the picture to write (default: steps.png)"
    )
    arguments = parser.parse_args()
    if any(path.resolve() == arguments.output.resolve() for path in arguments.image):
        parser.error(f"--output {arguments.output}: is one of the images, and would be replaced")
    rows: list[tuple[list[np.ndarray], str | None]] = []
    try:
        for path in arguments.image:
            rows.append(steps(path.read_bytes()))
    except (InputError, OSError) as error:
        print(f"error: {path}: {error}", file=sys.stderr)
        return 2

    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * len(TITLES), 1.7 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(TITLES), squeeze=False)
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (pictures, reason) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
        if reason is not None:
            text = "rejected:\n" + textwrap.fill(reason, 18)
            line[len(pictures)].text(0, 0.5, text, va="center", fontsize=8, color="firebrick")
    with whole_file(arguments.output) as temporary:
        figure.savefig(temporary, dpi=90, format="png")
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
