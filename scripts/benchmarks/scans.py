"""Accuracy on images that are not MNIST's: scans of many kinds, rows, fonts, drawn digits, other writers."""

import argparse

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.measure import Row
from benchmarks.quality import scikit_learns_digits
from mnist_cls import Predictor
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.scans import list_scans, scan, scan_row
from mnist_cls.preprocessing.digit import Digits
from mnist_cls.preprocessing.prepare import prepare_all
from mnist_cls.preprocessing.touching import best_way

WEIGHTS = ["image_classifier", "accurate"]
# Fonts that look like handwriting, from Debian's packages fonts-breip, fonts-comic-neue, fonts-dkg-handwriting,
# fonts-ecolier-court, fonts-humor-sans and fonts-sjfonts.
HANDS = ["Breip", "Comic Neue", "Delphine", "DkgHandwriting", "Ecolier_court", "Humor Sans", "Steve"]
# Gaps between the digits of a row, in pixels; negative gaps overlap. Digits are 20 pixels high.
GAPS = (6, 4, 2, 0, -1, -2)


def scans(arguments: argparse.Namespace) -> list[Row]:
    """Accuracy on test digits as files of many kinds, and on digits from other sources."""
    data = load_dataset("mnist", "test")
    images, labels = data.images[: arguments.images].numpy(), data.labels[: arguments.images].numpy()
    predictors = {name: Predictor(arguments.checkpoint or name, preprocess="none") for name in WEIGHTS}

    def row(name: str, found: list[np.ndarray | None], labels: np.ndarray) -> Row:
        pages = np.stack([np.zeros((28, 28), np.uint8) if one is None else one for one in found])
        refused = np.array([one is None for one in found])
        accuracies = {
            weights: round(float(((predict(pages).labels == labels) & ~refused).mean()), 4)
            for weights, predict in predictors.items()
        }
        return {"images": name, "count": len(labels), **accuracies, "refused": int(refused.sum())}

    rows = [row("MNIST as it is", list(images), labels)]
    rows += [row(kind, _prepared(scan(images, kind)), labels) for kind in list_scans()]
    drawn, drawn_labels = strokes(50)
    rows.append(row("drawn with strokes", _prepared(drawn), drawn_labels))
    pages, page_labels = handwriting_fonts()
    if pages:
        rows.append(row(f"{len(page_labels) // 10} fonts like handwriting", _prepared(pages), page_labels))
    others, other_labels = scikit_learns_digits()
    rows.append(row("scikit-learn's load_digits", [one if one.any() else None for one in others], other_labels))
    return rows


def _prepared(pages: list[bytes] | list[np.ndarray]) -> list[np.ndarray | None]:
    return [found.images[0] if isinstance(found, Digits) else None for found in prepare_all(pages)]


def rows(arguments: argparse.Namespace) -> list[Row]:
    """Fraction of rows of five test digits that are read correctly, by the gap between the digits."""
    data = load_dataset("mnist", "test")
    count = min(arguments.images, 10_000) // 5
    images, labels = data.images.numpy().reshape(-1, 5, 28, 28), data.labels.numpy().reshape(-1, 5)
    predictors = {name: Predictor(arguments.checkpoint or name, preprocess="none") for name in WEIGHTS}
    table: list[Row] = []
    for gap in GAPS:
        pages = [scan_row(images[number], gap, number) for number in range(count)]
        found = prepare_all(pages, split=True, all_cuts=True)
        correct = {}
        for name, predict in predictors.items():
            readings = [read_row(predict, one)[0] if isinstance(one, Digits) else "" for one in found]
            expected = ["".join(map(str, digits)) for digits in labels[:count]]
            correct[name] = round(
                float(np.mean([one == other for one, other in zip(readings, expected, strict=True)])), 4
            )
        table.append(
            {"gap": gap, "rows": count, "refused": sum(not isinstance(one, Digits) for one in found), **correct}
        )
    return table


def read_row(predict: Predictor, row: Digits) -> tuple[str, np.ndarray]:
    """Return the digits read from a row as text, and the images of these digits, uint8 (K, 28, 28)."""
    predictions = predict(row.images)
    chosen = best_way(row.spans, row.priors + np.log(predictions.confidences))
    return "".join(map(str, predictions.labels[chosen])), row.images[chosen]


def handwriting_fonts() -> tuple[list[np.ndarray], np.ndarray]:
    """Draw 0 to 9 in each installed style of `HANDS`, dark on light: uint8 (120, 120) each, and the labels."""
    from matplotlib import font_manager

    files = sorted(file for file in font_manager.findSystemFonts() if ImageFont.truetype(file).getname()[0] in HANDS)
    pages = []
    for file in files:
        font = ImageFont.truetype(file, 80)
        for digit in range(10):
            page = Image.new("L", (120, 120), 240)
            ImageDraw.Draw(page).text((60, 60), str(digit), 30, font, anchor="mm")
            pages.append(np.asarray(page))
    return pages, np.tile(np.arange(10), len(files))


# Each digit as polylines in a square of side 10.
_STROKES: dict[int, list[list[tuple[float, float]]]] = {
    0: [[(5, 1), (3, 2), (2, 5), (3, 8), (5, 9), (7, 8), (8, 5), (7, 2), (5, 1)]],
    1: [[(4, 3), (5.5, 1), (5.5, 9)]],
    2: [[(2.5, 3), (4, 1.2), (6.5, 1.5), (7.2, 3.5), (5, 6), (2.5, 9), (7.8, 9)]],
    3: [[(2.5, 1.5), (6, 1), (7.3, 3), (5, 4.8), (7.5, 6.5), (6.3, 8.8), (2.5, 8.6)]],
    4: [[(5.5, 1), (2, 6), (8, 6)], [(6, 3.5), (6, 9)]],
    5: [[(7.5, 1), (3, 1), (2.8, 4.5), (5.5, 4.2), (7.5, 6), (6.5, 8.5), (2.5, 8.8)]],
    6: [[(7, 1), (4, 3.5), (2.6, 6.5), (4, 9), (6.5, 8.7), (7.3, 6.7), (5.5, 5.3), (3, 6.5)]],
    7: [[(2, 1.2), (8, 1.2), (4.5, 9)]],
    8: [
        [(6.8, 2), (5, 1), (3.2, 2.3), (4, 4.2), (6.4, 5.6), (7, 7.6), (5, 9), (3, 7.6), (3.8, 5.4), (6.4, 4), (6.8, 2)]
    ],
    9: [[(7.2, 3), (5.5, 1), (3.2, 2), (3.3, 4.4), (5.5, 5), (7.2, 3), (7, 6), (5.8, 9)]],
}


def strokes(count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw each digit `count` times, with a random size, slant, jitter and pen; return the pages and the labels."""
    random = np.random.default_rng(0)
    labels = list(range(10)) * count
    pages = []
    for digit in labels:
        side = int(random.integers(60, 240))
        slant, stretch = random.uniform(-0.15, 0.3), random.uniform(0.8, 1.1)
        page = Image.new("L", (side, side), int(random.integers(180, 255)))
        draw = ImageDraw.Draw(page)
        pen, ink = max(1, round(side * random.uniform(0.02, 0.09))), int(random.integers(0, 90))
        for line in _STROKES[digit]:
            points = np.array(line) + random.normal(0, 0.2, (len(line), 2))
            x = 5 + stretch * (points[:, 0] - 5) - slant * (points[:, 1] - 5)
            pixels = [tuple(point) for point in np.stack([x, points[:, 1]], 1) * side / 10]
            draw.line(pixels, ink, pen, joint="curve")
            for left, top in (pixels[0], pixels[-1]):
                draw.ellipse([left - pen / 2, top - pen / 2, left + pen / 2, top + pen / 2], ink)
        pages.append(np.asarray(page))
    return pages, np.array(labels)
