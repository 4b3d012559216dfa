"""Plots of a network's accuracy and calibration."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..images import CLASSES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_confusion_matrix(counts: Tensor) -> "Figure":
    """Plot a confusion matrix, integers (10, 10): rows are labels, columns are predictions."""
    table = counts.cpu()
    fractions = table / table.sum(1, keepdim=True).clamp(min=1)
    figure = _figure(6, 6)
    axes = figure.add_subplot(xlabel="predicted", ylabel="label", xticks=range(CLASSES), yticks=range(CLASSES))
    axes.imshow(fractions.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)  # the root makes rare confusions visible
    for row in range(CLASSES):
        for column in range(CLASSES):
            color = "white" if fractions[row, column] > 0.25 else "black"
            axes.text(column, row, str(int(table[row, column])), ha="center", va="center", color=color, fontsize=8)
    axes.set_title(f"{int(table.trace()):,} of {int(table.sum()):,} correct")
    return figure


def plot_reliability(confidences: np.ndarray, correct: np.ndarray, error: float, bins: int) -> "Figure":
    """Plot accuracy against confidence in bins of equal width, and the number of images in each.

    Args:
        confidences: float (N,), 0 to 1.
        correct: whether each prediction is correct, bool (N,).
        error: expected calibration error, 0 to 1, for the title.
        bins: number of bins.
    """
    indices = np.minimum((confidences * bins).astype(int), bins - 1)
    counts = np.bincount(indices, minlength=bins)
    filled = counts > 0
    accuracy = np.bincount(indices, correct, minlength=bins)[filled] / counts[filled]
    centres = (np.arange(bins)[filled] + 0.5) / bins
    figure = _figure(6, 6)
    axes, histogram = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    axes.bar(centres, accuracy, width=0.9 / bins, label="network")
    axes.plot([0, 1], [0, 1], "k--", linewidth=1, label="perfect calibration")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"expected calibration error {error:.2%}")
    axes.legend(loc="upper left")
    histogram.bar(centres, counts[filled], width=0.9 / bins, color="grey")
    histogram.set(yscale="log", xlabel="confidence", ylabel="images")
    return figure


def plot_coverage(confidences: np.ndarray, correct: np.ndarray) -> "Figure":
    """Plot the error rate that remains if only the most confident predictions are used; see `plot_reliability`."""
    order = np.argsort(-confidences, kind="stable")
    counts = np.arange(1, len(order) + 1)
    errors = np.cumsum(~correct[order])
    useful = counts >= 0.9 * len(order)  # nobody would discard more than a tenth of the predictions
    figure = _figure(6, 4)
    axes = figure.add_subplot(xlabel="coverage, most confident first", ylabel="error rate, %")
    axes.step((counts / len(order))[useful], (100 * errors / counts)[useful], where="post")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return figure


def _figure(width: float, height: float) -> "Figure":  # inches
    from matplotlib.figure import Figure  # takes half a second; not pyplot, which has global state and opens windows

    return Figure(figsize=(width, height), layout="constrained")
