"""Pictures of images, of values inside a network, and of how right it is."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..images import CLASSES
from ..tracing.pictures import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_confusion_matrix(counts: Tensor) -> "Figure":
    """Draw how often each digit was taken for each.

    Args:
        counts: whole numbers (10, 10); rows are the labels, columns the predictions.
    """
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    table = counts.cpu()
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="label", xticks=range(CLASSES), yticks=range(CLASSES))
    shares = table / table.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)  # the root makes rare confusions visible
    for row in range(CLASSES):
        for column in range(CLASSES):
            color = "white" if shares[row, column] > 0.25 else "black"
            axes.text(column, row, str(int(table[row, column])), ha="center", va="center", color=color, fontsize=8)
    correct, total = int(table.trace()), int(table.sum())
    axes.set_title(f"{correct:,} of {total:,} right")
    return figure


def draw_reliability(confidences: Array, right: Array, error: float, bins: int = 15) -> "Figure":
    """Draw how often a network is right against how sure it says it is.

    Args:
        confidences: (N,), 0 to 1.
        right: bool (N,).
        error: the expected calibration error, for the title.
        bins: how many equal parts the range of confidences has.
    """
    from matplotlib.figure import Figure

    place = np.minimum((confidences * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0
    accuracy = np.bincount(place, right, minlength=bins)[filled] / counts[filled]
    middles = (np.arange(bins)[filled] + 0.5) / bins
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    axes.bar(middles, accuracy, width=0.9 / bins, label="right")
    axes.plot([0, 1], [0, 1], "k--", linewidth=1, label="as right as sure")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right", title=f"expected calibration error {error:.2%}")
    axes.legend(loc="upper left")
    below.bar(middles, counts[filled], width=0.9 / bins, color="grey")
    below.set(yscale="log", xlabel="confidence", ylabel="images")
    return figure


def draw_answered(confidences: Array, right: Array) -> "Figure":
    """Draw how many errors are left when only the images that a network is surest of are answered.

    Args:
        confidences: (N,), 0 to 1.
        right: bool (N,).
    """
    from matplotlib.figure import Figure

    order = np.argsort(-confidences, kind="stable")
    counts = np.arange(1, len(order) + 1)
    errors = np.cumsum(~right[order])
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="share that is answered, surest first", ylabel="errors among them, %")
    shown = counts >= 0.9 * len(order)  # who answers fewer has no use for the network
    axes.step((counts / len(order))[shown], (100 * errors / counts)[shown], where="post")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return figure
