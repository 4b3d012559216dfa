"""The end of a prediction: its numbers in one line, and the inputs that a person should look at."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import shortened
from .options import PredictOptions
from .progress import Progress
from .rows import Rows

# Inputs of each kind that are named at the end.
_NAMED = 3


class ToCheck:
    """The first error rows of a run, and the first of its undecided predictions, as text."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.undecided: list[str] = []

    def add(self, rows: Rows) -> None:
        """Take the rows of one more batch."""
        columns = rows.columns
        for index in _first(rows.errors, _NAMED - len(self.errors)):
            self.errors.append(shortened(f"{columns['path'][index]}: {rows.errors[index]}", 300))
        for index in _first(columns.get("undecided", []), _NAMED - len(self.undecided)):
            answer = columns["reading" if "reading" in columns else "label"][index]
            text = f"{columns['path'][index]}: {answer}, {columns['confidence'][index]:.2%}"
            self.undecided.append(shortened(text, 300))


def _first(values: Sequence[Any], count: int) -> list[int]:
    """Return the indices of the first `count` values that are true."""
    return list(itertools.islice((index for index, value in enumerate(values) if value), count))


class Summary(NamedTuple):
    """The result of a prediction in numbers.

    Attributes:
        inputs: number of inputs.
        errors: number of inputs whose row is an error.
        seconds: duration, without loading the network.
        undecided: number of predictions below `min_confidence`; None without that option.
        accuracy: fraction of labelled, readable inputs classified correctly; None if there are none.
        earlier: number of inputs that an interrupted run had already done.
        format: of the output, see `open_sink`.
        to_check: the first error rows and undecided predictions, without those of an interrupted run.
    """

    inputs: int
    errors: int
    seconds: float
    undecided: int | None = None
    accuracy: float | None = None
    earlier: int = 0
    format: str | None = None
    to_check: ToCheck | None = None

    def __str__(self) -> str:
        speed = (self.inputs - self.earlier) / max(self.seconds, 1e-9)
        earlier = f" ({self.earlier:,} of them by an earlier run)" if self.earlier else ""
        errors = f", {self.errors:,} with an error" if self.errors else ""
        undecided = f", {self.undecided:,} undecided" if self.undecided is not None else ""
        accuracy = f", accuracy {self.accuracy:.2%}" if self.accuracy is not None else ""
        images = f"{self.inputs:,} image{'s' * (self.inputs != 1)}{earlier}"
        text = f"{images}{errors}{undecided}{accuracy}, {self.seconds:.2f} s, {speed:,.0f} images/s"
        if self.format == "kaggle" and self.errors:
            text += "; Kaggle refuses a file with empty labels: leave out format=kaggle to see each row's error"
        return text

    def print(self, output: str | Path | None) -> None:
        """Print the summary, and the inputs to look at if the rows are not on the screen.

        Args:
            output: see `open_sink`. If the rows went to standard output, the summary goes to standard error.
        """
        piped = output is not None and str(output).startswith("-")
        stream = sys.stderr if piped else sys.stdout
        print(f"{self}{'' if output is None or piped else f' -> {output}'}", file=stream)
        if output is None or self.to_check is None:
            return
        for kind, texts, count in [
            ("error", self.to_check.errors, self.errors),
            ("undecided", self.to_check.undecided, self.undecided or 0),
        ]:
            for text in texts:
                print(f"{kind:<9}  {text}", file=stream)
            if texts and count > len(texts):
                print(f"{kind:<9}  and {count - len(texts):,} more", file=stream)


def summarize(progress: Progress, options: PredictOptions, seconds: float, earlier: int) -> Summary:
    """Return the summary of a complete run; an earlier run had done `earlier` of its inputs."""
    undecided = None if options.min_confidence is None else progress.undecided
    accuracy = progress.correct / progress.labelled if progress.labelled else None
    return Summary(progress.inputs, progress.errors, seconds, undecided, accuracy, earlier)
