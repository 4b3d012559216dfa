"""The report of an evaluation: pictures, tables, every prediction, and one page that holds them all."""

import base64
import csv
import io
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_precision,
    multiclass_recall,
)

from ..files import whole_file
from ..images import CLASSES
from ..inference.predictor import Predictions
from ..inference.progress import Progress
from ..inference.rows import prediction_rows
from ..inference.sinks.sink import open_sink
from ..tracing.pictures import draw_captioned, png
from .plots import draw_answered, draw_confusion_matrix, draw_reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


# How many of the worst errors are shown.
WORST = 64


_BINS = 15


# Which share of the images is answered when the least sure are left to somebody else.
ANSWERED = 0.995


def write_report(
    folder: Path, images: Tensor, labels: Tensor, probabilities: Tensor, title: str, facts: Mapping[str, str]
) -> dict[str, float]:
    """Write the pictures, classes.csv, predictions.parquet, and report.html, which shows them all but the last.

    Args:
        folder: where to.
        images: uint8 (N, 28, 28).
        labels: int64 (N,), what the images show.
        probabilities: float32 (N, 10), what the network says.
        title: of the page.
        facts: shown at the top of the page, name by name.

    Returns:
        calibration_error: the expected calibration error, 0 to 1: how far confidence and accuracy are apart on
        average, in 15 equal ranges of confidence (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        surest_error: the share of errors, 0 to 1, among the 99.5 % of the images that it is surest of.
        surest_confidence: the least confidence among those: the `min_confidence` that answers so many.

    Raises:
        OSError: a file cannot be written.
    """
    images, labels, probabilities = images.cpu(), labels.cpu(), probabilities.cpu()
    confidences, answers = probabilities.max(1)
    right = answers == labels
    order = confidences.argsort(descending=True, stable=True)[: round(ANSWERED * len(right))]
    error = multiclass_calibration_error(probabilities, labels, CLASSES, n_bins=_BINS, norm="l1").item()
    pictures: dict[str, tuple[str, Image | Figure]] = {
        "confusion_matrix": (
            "Confusion matrix",
            draw_confusion_matrix(multiclass_confusion_matrix(answers, labels, CLASSES)),
        ),
        "reliability": (
            "Reliability: is it right as often as it is sure?",
            draw_reliability(confidences.numpy(), right.numpy(), error, _BINS),
        ),
        "answered": (
            "Knowing when not to answer: errors among the images that it is surest of",
            draw_answered(confidences.numpy(), right.numpy()),
        ),
        "errors": (
            f"The worst {min(WORST, int((~right).sum()))} errors: label, prediction, confidence",
            _errors(images, labels, probabilities),
        ),
    }
    files = {name: png(picture) for name, (_, picture) in pictures.items()}
    for name, content in files.items():
        _write(folder / f"{name}.png", content)
    table = _classes(labels, answers)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    _write(folder / "classes.csv", text.getvalue().encode())
    names = [str(index) for index in range(len(labels))]
    said = Predictions(answers.numpy(), confidences.numpy(), probabilities.numpy(), [None] * len(labels))
    with open_sink(folder / "predictions.parquet", ["target"]) as sink:
        sink.write(prediction_rows(names, said, {"target": labels.tolist()}), Progress())
    figures = {
        "calibration_error": error,
        "surest_error": (~right[order]).float().mean().item(),
        "surest_confidence": confidences[order[-1]].item(),
    }
    facts = {
        **facts,
        "wrong": f"{int((~right).sum()):,}",
        "expected calibration error": f"{error:.2%}",
        f"errors among the surest {ANSWERED:.1%}": f"{figures['surest_error']:.2%}"
        f" (min_confidence={math.floor(1000 * figures['surest_confidence']) / 1000} answers these)",
    }
    shown = {pictures[name][0]: content for name, content in files.items()}
    _write(folder / "report.html", _page(title, facts, table, shown).encode())
    return figures


def _errors(images: Tensor, labels: Tensor, probabilities: Tensor) -> "Image":
    confidences, answers = probabilities.max(1)
    wrong = (answers != labels).nonzero().flatten()
    # The surer it is of what is wrong, the worse.
    worst = wrong[confidences[wrong].argsort(descending=True, stable=True)][:WORST]
    rows = zip(labels[worst].tolist(), answers[worst].tolist(), confidences[worst].tolist(), strict=True)
    return draw_captioned(images[worst], [f"{label}: {said} {sure:.0%}" for label, said, sure in rows])


def _classes(labels: Tensor, answers: Tensor) -> list[list[str]]:
    """Precision and recall of each digit, with a row of headings."""
    precision = multiclass_precision(answers, labels, CLASSES, average="none")
    recall = multiclass_recall(answers, labels, CLASSES, average="none")
    rows = [["digit", "images", "precision", "recall"]]
    for digit in range(CLASSES):
        count = int((labels == digit).sum())
        rows.append([str(digit), str(count), f"{precision[digit]:.4f}", f"{recall[digit]:.4f}"])
    return rows


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def _page(title: str, facts: Mapping[str, str], table: list[list[str]], pictures: Mapping[str, bytes]) -> str:
    """An HTML page that needs no other file."""
    top = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    head, *rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    figures = "".join(
        f'<figure><figcaption>{escape(caption)}</figcaption><img alt="{escape(caption)}"'
        f' src="data:image/png;base64,{base64.b64encode(content).decode()}"></figure>'
        for caption, content in pictures.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222; }}
h1 {{ font-size: 1.5em; }}
table {{ border-collapse: collapse; margin: 1em 0; }}
th, td {{ padding: 0.2em 0.8em; border-bottom: 1px solid #ddd; text-align: left; }}
thead td {{ font-weight: bold; }}
tbody td {{ font-variant-numeric: tabular-nums; }}
figure {{ margin: 2em 0; }}
figcaption {{ font-weight: bold; margin-bottom: 0.5em; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
<table>{top}</table>
<h2>Each digit</h2>
<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>
{figures}
</body>
</html>
"""
