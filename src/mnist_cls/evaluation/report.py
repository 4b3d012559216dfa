"""Write the report of an evaluation: plots, tables, every prediction, and a page with the plots and tables."""

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from PIL.Image import Image
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_precision,
    multiclass_recall,
)

from ..files import whole_file
from ..images import CLASSES
from ..inference.predictions import Predictions
from ..inference.progress import Progress
from ..inference.rows import COLUMNS, prediction_rows
from ..inference.sinks.sink import open_sink
from .pictures import draw_errors
from .plots import plot_confusion_matrix, plot_coverage, plot_reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Fraction of the predictions, the most confident ones, that `surest_error` is computed on.
COVERAGE = 0.995
_MAX_ERRORS = 64  # errors drawn
_BINS = 15  # bins of confidence
_TEMPLATE = Path(__file__).with_name("report.html")


def write_report(
    folder: Path, images: Tensor, labels: Tensor, probabilities: Tensor, title: str, facts: Mapping[str, str]
) -> dict[str, float]:
    """Write the plots, classes.csv, predictions.parquet, and report.html, which shows the plots and the classes.

    Args:
        folder: folder to write them into.
        images: uint8 (N, 28, 28).
        labels: int64 (N,).
        probabilities: predictions, float32 (N, 10).
        title: title of the page.
        facts: names and values at the top of the page.

    Returns:
        Metrics. `calibration_error`: expected calibration error, 0 to 1, the average gap between confidence and
        accuracy in 15 bins of confidence (Guo et al. 2017, https://arxiv.org/abs/1706.04599). `surest_error`: error
        rate, 0 to 1, of the 99.5 % most confident predictions. `surest_confidence`: their lowest confidence, 0 to 1.

    Raises:
        OSError: If a file cannot be written.
    """
    images, labels, probabilities = images.cpu(), labels.cpu(), probabilities.cpu()
    confidences, predictions = probabilities.max(1)
    correct = predictions == labels
    most_confident = confidences.argsort(descending=True, stable=True)[: round(COVERAGE * len(labels))]
    metrics = {
        "calibration_error": multiclass_calibration_error(probabilities, labels, CLASSES, n_bins=_BINS).item(),
        "surest_error": (~correct[most_confident]).float().mean().item(),
        "surest_confidence": confidences[most_confident[-1]].item(),
    }
    errors = int((~correct).sum())
    confusion = plot_confusion_matrix(multiclass_confusion_matrix(predictions, labels, CLASSES))
    reliability = plot_reliability(confidences.numpy(), correct.numpy(), metrics["calibration_error"], _BINS)
    coverage = plot_coverage(confidences.numpy(), correct.numpy())
    worst = draw_errors(images, labels, probabilities, _MAX_ERRORS)
    most_confident_errors = f"The {min(_MAX_ERRORS, errors)} most confident errors (label: prediction, confidence)"
    pictures = {
        "confusion_matrix": ("Confusion matrix", _png(confusion)),
        "reliability": ("Reliability diagram", _png(reliability)),
        "answered": ("Error rate if the least confident predictions are discarded", _png(coverage)),
        "errors": (most_confident_errors, _png(worst)),
    }
    for name, (_, content) in pictures.items():
        _write(folder / f"{name}.png", content)
    classes = _classes(predictions, labels)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(classes)
    _write(folder / "classes.csv", table.getvalue().encode())
    _write_predictions(folder / "predictions.parquet", labels, probabilities)
    facts = {
        **facts,
        "errors": f"{errors:,}",
        "expected calibration error": f"{metrics['calibration_error']:.2%}",
        f"error rate of the {COVERAGE:.1%} most confident predictions": f"{metrics['surest_error']:.2%}"
        f" (min_confidence={math.floor(1000 * metrics['surest_confidence']) / 1000})",
    }
    _write(folder / "report.html", _page(title, facts, classes, list(pictures.values())).encode())
    return metrics


def _classes(predictions: Tensor, labels: Tensor) -> list[list[str]]:
    """Tabulate precision and recall of each digit, below a row of headings."""
    precision = multiclass_precision(predictions, labels, CLASSES, average="none")
    recall = multiclass_recall(predictions, labels, CLASSES, average="none")
    counts = labels.bincount(minlength=CLASSES)
    rows = [
        [str(digit), str(int(counts[digit])), f"{precision[digit]:.4f}", f"{recall[digit]:.4f}"]
        for digit in range(CLASSES)
    ]
    return [["digit", "images", "precision", "recall"], *rows]


def _write_predictions(path: Path, labels: Tensor, probabilities: Tensor) -> None:
    confidences, predicted = probabilities.max(1)
    names = [str(index) for index in range(len(labels))]
    predictions = Predictions(predicted.numpy(), confidences.numpy(), probabilities.numpy(), [None] * len(labels))
    with open_sink(path, [*COLUMNS, "target"]) as sink:
        sink.write(prediction_rows(names, predictions, {"target": labels.tolist()}), Progress())


def _page(title: str, facts: Mapping[str, str], classes: list[list[str]], pictures: Sequence[tuple[str, bytes]]) -> str:
    """Fill in the template; the page contains its pictures and needs no other file."""
    head, *rows = classes
    figures = [
        f'<figure><figcaption>{escape(caption)}</figcaption><img alt="{escape(caption)}"'
        f' src="data:image/png;base64,{base64.b64encode(content).decode()}"></figure>'
        for caption, content in pictures
    ]
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        facts="\n".join(f"<tr><th>{escape(name)}</th>{_cells('td', [value])}</tr>" for name, value in facts.items()),
        classes="\n".join([f"<tr>{_cells('th', head)}</tr>", *(f"<tr>{_cells('td', row)}</tr>" for row in rows)]),
        figures="\n".join(figures),
    )


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _png(picture: "Image | Figure") -> bytes:
    file = io.BytesIO()
    if isinstance(picture, Image):
        picture.save(file, "PNG")
    else:
        picture.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
