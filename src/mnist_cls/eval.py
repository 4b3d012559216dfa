"""Evaluate a network: `python -m mnist_cls.eval [checkpoint=RUN] [data=NAME] [split=val]`

By default the packaged weights, on MNIST's 10,000 test images. Leaves in the run's folder: metrics.json, report.html
with its plots, classes.csv and predictions.parquet.
"""

from pathlib import Path

from .cli.entry_point import entry_point
from .cli.settings import EvalSettings
from .memory import importing


def evaluate(settings: EvalSettings, folder: Path) -> float:
    """Evaluate, and return the accuracy (or loss)."""
    with importing():
        from .evaluation import evaluate  # imports Lightning, for which --help must not wait

    return evaluate.evaluate(settings, folder)


main = entry_point("eval", evaluate)


if __name__ == "__main__":
    main()
