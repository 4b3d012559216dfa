"""Evaluate a network: `python -m mnist_cls.eval [checkpoint=RUN] [data=NAME] [split=val]`

Evaluates the packaged weights on MNIST's 10,000 test images by default. Writes metrics.json, report.html with its
plots, classes.csv and predictions.parquet into the run's folder.
"""

from pathlib import Path

from .cli.entry_point import entry_point
from .cli.settings import EvalSettings
from .memory import importing


def evaluate(settings: EvalSettings, folder: Path) -> float:
    """Evaluate, and return the accuracy, or the loss of a network that does not classify."""
    with importing():
        from .evaluation import evaluate  # here, since --help must not wait for Lightning

    return evaluate.evaluate(settings, folder)


main = entry_point("eval", evaluate)


if __name__ == "__main__":
    main()
