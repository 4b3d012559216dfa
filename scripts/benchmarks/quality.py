"""How right the package's weights are: on spoilt and foreign digits, with early exit, on what are no digits."""

import argparse
import statistics
import string
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.measure import Row
from mnist_cls import Predictor, list_weights, load_model
from mnist_cls.checkpoints.find import DETECTOR
from mnist_cls.data.corruptions import corrupt, list_corruptions
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.normalization import normalize
from mnist_cls.preprocessing.digit import Digits
from mnist_cls.preprocessing.prepare import prepare_all, to_mnist_form

# Where Debian's package dataset-fashion-mnist puts its files.
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
# Of those that Matplotlib brings along.
FONTS = [
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10"),
]


def early_exit(arguments: argparse.Namespace) -> list[Row]:
    """The full path against early exit, on MNIST's test images, through `Predictor`."""
    data = load_dataset("mnist", "test")
    ways = {
        name: Predictor(arguments.checkpoint or "conditional", early_exit=early)
        for name, early in (("full path", False), ("early exit", True))
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    accuracy = {}
    for _ in range(arguments.rounds):
        for name, predictor in ways.items():
            began = time.perf_counter()
            answers = predictor.predict(data.images.numpy()).labels
            seconds[name].append(time.perf_counter() - began)
            accuracy[name] = float((answers == data.labels.numpy()).mean())
    speed = {name: len(data.labels) / statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "way": name,
            "images/s": round(speed[name]),
            "ratio": round(speed[name] / speed["full path"], 2),
            "accuracy": accuracy[name],
        }
        for name in ways
    ]


def robustness(arguments: argparse.Namespace) -> list[Row]:
    """The accuracy on the test images, clean and spoilt, and on scikit-learn's digits."""
    data = load_dataset("mnist", "test")
    names = [arguments.checkpoint] if arguments.checkpoint else [name for name in list_weights() if name != DETECTOR]
    predictors = {name: Predictor(name, engine="eager") for name in names}

    def row(images: str, digits: torch.Tensor | np.ndarray, labels: np.ndarray) -> Row:
        right = {name: float((predict(digits).labels == labels).mean()) for name, predict in predictors.items()}
        return {"images": images, **{name: round(accuracy, 4) for name, accuracy in right.items()}}

    labels = data.labels.numpy()
    spoilt = [row(kind, corrupt(data.images, kind), labels) for kind in list_corruptions()]
    means = {name: round(float(np.mean([one[name] for one in spoilt])), 4) for name in names}
    others, other_labels = scikit_learns_digits()
    return [
        row("as they are", data.images, labels),
        *spoilt,
        {"images": "mean of the spoilt", **means},
        row("scikit-learn's load_digits", others, other_labels),
    ]


def scikit_learns_digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 digits by other writers, 8x8, brought into MNIST's form: uint8 (N, 28, 28), and their labels (N,).

    What is refused is black, and counts as wrong.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pages = np.pad((digits.images * (255 / 16)).astype(np.uint8), [(0, 0), (2, 2), (2, 2)])
    found = prepare_all(list(pages))
    blank = np.zeros((28, 28), np.uint8)
    return np.stack([one.images[0] if isinstance(one, Digits) else blank for one in found]), digits.target


def is_digit(arguments: argparse.Namespace) -> list[Row]:
    """How well the reconstruction error tells MNIST's test digits from other images: ROC AUC, and what is rejected."""
    from torchmetrics.functional.classification import binary_auroc

    model = load_model(arguments.checkpoint or "autoencoder")
    fashion = arguments.fashion_mnist or (DEBIAN_FASHION if DEBIAN_FASHION.is_dir() else None)
    noise = torch.randint(0, 256, (10_000, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sets = {
        "digits (MNIST test)": load_dataset("mnist", "test").images,
        "Fashion-MNIST test": load_dataset("fashion_mnist", "test", fashion).images,
        f"letters of {len(FONTS)} fonts": letters(),
        "noise": noise,
    }

    @torch.inference_mode()
    def errors(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([model.reconstruction_error(normalize(batch)) for batch in images.split(500)])  # type: ignore

    digits = errors(sets["digits (MNIST test)"])
    rows: list[Row] = []
    for name, images in sets.items():
        found = errors(images)
        both, other = torch.cat([digits, found]), torch.cat([torch.zeros(len(digits)), torch.ones(len(found))]).int()
        ranks = both.argsort().argsort() / len(both)  # binary_auroc takes scores from 0 to 1
        rejected = (found > model.threshold).float().mean().item()  # type: ignore[operator]
        auc = round(binary_auroc(ranks, other).item(), 4) if rows else ""  # there is none against themselves
        rows.append({"images": name, "count": len(images), "ROC AUC": auc, "not a digit": round(rejected, 4)})
    return rows


def letters() -> torch.Tensor:
    """A to Z and a to z in each of `FONTS`, in MNIST's form: uint8 (N, 28, 28). Some look like digits: O, l, S."""
    import matplotlib

    drawn = []
    for name in FONTS:
        font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"), 48)
        for letter in string.ascii_letters:
            page = Image.new("L", (96, 96), 255)
            ImageDraw.Draw(page).text((48, 48), letter, fill=0, font=font, anchor="mm")
            drawn.append(to_mnist_form(page))
    return torch.from_numpy(np.stack(drawn))
