"""From a source through a network into a sink."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..checkpoint import Checkpoint
from ..errors import InputError
from .predictor import Predictor
from .sinks import open_sink
from .sources import open_source


class Summary(NamedTuple):
    """How a prediction went.

    Attributes:
        inputs: how many there were.
        errors: how many of them have error rows.
        seconds: without the loading of the network.
        undecided: how many the network was not sure enough of; None: nobody asked.
    """

    inputs: int
    errors: int
    seconds: float
    undecided: int | None = None

    def __str__(self) -> str:
        speed = self.inputs / max(self.seconds, 1e-9)
        failed = f", {self.errors:,} with an error" if self.errors else ""
        unsure = f", {self.undecided:,} undecided" if self.undecided is not None else ""
        images = f"{self.inputs:,} image{'s' * (self.inputs != 1)}"
        return f"{images}{failed}{unsure}, {self.seconds:.2f} s, {speed:,.0f} images/s"


def predict_files(
    input: str | Path,
    output: str | Path | None = None,
    checkpoint: Checkpoint = None,
    device: str = "auto",
    batch_size: int | None = None,
    early_exit: bool = False,
    is_digit: bool | str | Path = False,
    engine: str = "auto",
    shifts: int = 0,
    min_confidence: float | None = None,
) -> Summary:
    """Predict everything in `input` and write a row for each image to `output`.

    Args:
        input: see `open_source`.
        output: see `open_sink`; None is the screen.
        checkpoint: see `load_model`.
        device: see `Predictor`.
        batch_size: see `Predictor`.
        early_exit: see `Predictor`.
        is_digit: see `Predictor`; the rows get a last column of that name.
        engine: see `Predictor`.
        shifts: see `Predictor`.
        min_confidence: the rows get a last column `undecided`: whether the confidence is below this, 0 to 1.

    Raises:
        InputError: one of them is not there, or not what it should be.
        OSError: the output cannot be written.
    """
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise InputError(f"min_confidence={min_confidence}: expected 0 to 1")
    source = open_source(input)
    errors = undecided = 0
    further = ["is_digit"] * (is_digit is not False) + ["undecided"] * (min_confidence is not None)
    # The output is opened before the network is loaded: a folder that cannot be written is said at once.
    with open_sink(output, further) as sink:
        predictor = Predictor(checkpoint, device, batch_size, early_exit, is_digit, engine, shifts)
        predictor.prepare(source.count)
        began = time.perf_counter()
        with _progress(source.count) as advance:
            for chunk in source.chunks():
                predictions = predictor.predict(chunk.images, chunk.errors)
                columns = [] if predictions.is_digit is None else [predictions.is_digit]
                if min_confidence is not None:
                    good = np.array([error is None for error in predictions.errors], bool)
                    columns.append(good & ~(predictions.confidences >= min_confidence))  # NaN is not sure
                    undecided += int(columns[-1].sum())
                sink(chunk.paths, predictions, *columns)
                errors += sum(error is not None for error in chunk.errors)
                advance(len(chunk.paths))
        seconds = time.perf_counter() - began
    return Summary(source.count, errors, seconds, None if min_confidence is None else undecided)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many more are done; it moves a bar, if somebody looks and there is time to."""
    if total <= 1000 or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("predict", total=total)
        yield lambda done: bar.advance(task, done)
