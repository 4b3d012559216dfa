"""Accuracy of the packaged weights: on corrupted and other digits, with early exit, on images without a digit."""

import argparse
import string
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.measure import Row, in_turns, median, timed
from mnist_cls import Predictor, list_weights, load_model
from mnist_cls.checkpoints.find import DETECTOR
from mnist_cls.data.corruptions import corrupt, list_corruptions
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.models import Autoencoder
from mnist_cls.preprocessing.digit import Digits
from mnist_cls.preprocessing.prepare import prepare_all

# The folder of Debian's package dataset-fashion-mnist.
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
# Fonts that come with Matplotlib.
FONTS = [
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10"),
]


def early_exit(arguments: argparse.Namespace) -> list[Row]:
    """Throughput and accuracy with and without early exit."""
    data = load_dataset("mnist", "test")
    images, labels = data.images.numpy(), data.labels.numpy()
    variants = {
        name: partial(timed, partial(Predictor(arguments.checkpoint or "conditional", early_exit=early), images))
        for name, early in (("full path", False), ("early exit", True))
    }
    results = in_turns(variants, arguments.rounds)
    speeds = {name: len(labels) / median([seconds for _, seconds in found], 9) for name, found in results.items()}
    return [
        {
            "way": name,
            "images/s": round(speeds[name]),
            "ratio": round(speeds[name] / speeds["full path"], 2),
            "accuracy": float((found[0][0].labels == labels).mean()),
        }
        for name, found in results.items()
    ]


def robustness(arguments: argparse.Namespace) -> list[Row]:
    """Accuracy on the test images, on corrupted ones, and on scikit-learn's digits."""
    data = load_dataset("mnist", "test")
    names = [arguments.checkpoint] if arguments.checkpoint else [name for name in list_weights() if name != DETECTOR]
    predictors = {name: Predictor(name, engine="eager", preprocess="none") for name in names}

    def row(kind: str, images: torch.Tensor | np.ndarray, labels: np.ndarray) -> Row:
        accuracies = {name: float((predict(images).labels == labels).mean()) for name, predict in predictors.items()}
        return {"images": kind, **{name: round(accuracy, 4) for name, accuracy in accuracies.items()}}

    labels = data.labels.numpy()
    corrupted = [row(kind, corrupt(data.images, kind), labels) for kind in list_corruptions()]
    means = {name: round(float(np.mean([one[name] for one in corrupted])), 4) for name in names}
    return [
        row("as they are", data.images, labels),
        *corrupted,
        {"images": "mean of the corrupted", **means},
        row("scikit-learn's load_digits", *scikit_learns_digits()),
    ]


def scikit_learns_digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 digits by other writers, converted from 8x8 pixels to MNIST form.

    Returns:
        The images, uint8 (N, 28, 28), black where an image was rejected, and the labels (N,).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pages = np.pad((digits.images * (255 / 16)).astype(np.uint8), [(0, 0), (2, 2), (2, 2)])
    found = prepare_all(list(pages))
    blank = np.zeros((28, 28), np.uint8)
    return np.stack([one.images[0] if isinstance(one, Digits) else blank for one in found]), digits.target


def is_digit(arguments: argparse.Namespace) -> list[Row]:
    """How well the autoencoder separates digits from other images: ROC AUC, and the fraction that it rejects."""
    from torchmetrics.functional.classification import binary_auroc

    model = load_model(arguments.checkpoint or "autoencoder")
    if not isinstance(model, Autoencoder):
        raise InputError(f"{arguments.checkpoint}: expected an autoencoder, found {type(model).__name__}")
    fashion = arguments.fashion_mnist or (DEBIAN_FASHION if DEBIAN_FASHION.is_dir() else None)
    noise = torch.randint(0, 256, (10_000, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sets = {
        "digits (MNIST test)": load_dataset("mnist", "test").images,
        "Fashion-MNIST test": load_dataset("fashion_mnist", "test", fashion).images,
        f"letters of {len(FONTS)} fonts": letters(),
        "noise": noise,
    }
    with torch.inference_mode():
        errors = {
            name: torch.cat([model.reconstruction_error(normalize(batch)) for batch in images.split(500)])
            for name, images in sets.items()
        }
    digits = errors["digits (MNIST test)"]
    rows: list[Row] = []
    for name, found in errors.items():
        both, other = torch.cat([digits, found]), torch.cat([torch.zeros(len(digits)), torch.ones(len(found))]).int()
        ranks = both.argsort().argsort() / len(both)  # binary_auroc expects scores from 0 to 1
        rejected = (found > model.threshold).float().mean().item()
        auc = round(binary_auroc(ranks, other).item(), 4) if rows else ""  # undefined for digits against digits
        rows.append({"images": name, "count": len(found), "ROC AUC": auc, "not a digit": round(rejected, 4)})
    return rows


def letters() -> torch.Tensor:
    """A to Z and a to z in each of `FONTS`, in MNIST form: uint8 (N, 28, 28). Some look like digits: O, l, S.

    Letters that preprocessing refuses are left out, such as some i and j because of their dots.
    """
    import matplotlib

    drawn = []
    for name in FONTS:
        font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"), 48)
        for letter in string.ascii_letters:
            page = Image.new("L", (96, 96), 255)
            ImageDraw.Draw(page).text((48, 48), letter, fill=0, font=font, anchor="mm")
            drawn.append(np.asarray(page))
    return torch.from_numpy(np.stack([one.images[0] for one in prepare_all(drawn) if isinstance(one, Digits)]))
