"""Evaluate a network: `python -m mnist_cls.eval [checkpoint=RUN] [data=NAME] [split=val]`

By default the weights that the package carries, on MNIST's 10,000 test images. Leaves in the run's folder:
metrics.json, report.html, the pictures in it, classes.csv and predictions.parquet.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from .cli.entry_point import entry_point
from .cli.settings import EvalSettings
from .evaluation.evaluate import evaluate
from .training.startup import import_lightning

if TYPE_CHECKING:
    pass


def _evaluate_in_a_process_of_our_own(settings: EvalSettings, folder: Path) -> float:
    import_lightning()
    return evaluate(settings, folder)


main = entry_point("eval", _evaluate_in_a_process_of_our_own)


if __name__ == "__main__":
    main()
