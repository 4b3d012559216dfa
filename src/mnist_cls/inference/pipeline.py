"""From a source through a network into a sink."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .predictor import Predictor
from .sinks import open_sink
from .sources import open_source


class Summary(NamedTuple):
    """How a prediction went: inputs, those of them with error rows, and seconds without the loading of the network."""

    inputs: int
    errors: int
    seconds: float

    def __str__(self) -> str:
        speed = self.inputs / max(self.seconds, 1e-9)
        failed = f", {self.errors:,} with an error" if self.errors else ""
        return f"{self.inputs:,} image{'s' * (self.inputs != 1)}{failed}, {self.seconds:.2f} s, {speed:,.0f} images/s"


def predict_files(
    input: str | Path,
    output: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    early_exit: bool = False,
    is_digit: bool | str | Path = False,
    engine: str = "auto",
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

    Raises:
        InputError: one of them is not there, or not what it should be.
        OSError: the output cannot be written.
    """
    source = open_source(input)
    errors = 0
    # The output is opened before the network is loaded: a folder that cannot be written is said at once.
    with open_sink(output, ["is_digit"] if is_digit is not False else []) as sink:
        predictor = Predictor(checkpoint, device, batch_size, early_exit, is_digit, engine)
        predictor.prepare(source.count)
        began = time.perf_counter()
        with _progress(source.count) as advance:
            for chunk in source.chunks():
                predictions = predictor.predict(chunk.images, chunk.errors)
                sink(chunk.paths, predictions, *([] if predictions.is_digit is None else [predictions.is_digit]))
                errors += sum(error is not None for error in chunk.errors)
                advance(len(chunk.paths))
        seconds = time.perf_counter() - began
    return Summary(source.count, errors, seconds)


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
