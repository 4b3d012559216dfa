"""From a source through the decoders and a network into a sink."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from ..checkpoints.find import Checkpoint
from ..errors import InputError
from ..files import expand
from .decoding.batches import chunks_of
from .decoding.pool import Decoders
from .options import PredictOptions, progress_after
from .progress import Progress
from .sinks.saved_images import ImageFolder
from .sinks.sink import open_sink
from .sources.detect import open_source


class Summary(NamedTuple):
    """How a prediction went.

    Attributes:
        inputs: how many there were.
        errors: how many of them have error rows.
        seconds: without the loading of the network.
        undecided: how many the network was not sure enough of; None: nobody asked.
        accuracy: the share, 0 to 1, of inputs with a label and no error whose label was told; None: there are none.
        earlier: how many of the inputs an earlier run had done.
    """

    inputs: int
    errors: int
    seconds: float
    undecided: int | None = None
    accuracy: float | None = None
    earlier: int = 0

    def __str__(self) -> str:
        speed = (self.inputs - self.earlier) / max(self.seconds, 1e-9)
        resumed = f" ({self.earlier:,} of them by an earlier run)" if self.earlier else ""
        failed = f", {self.errors:,} with an error" if self.errors else ""
        unsure = f", {self.undecided:,} undecided" if self.undecided is not None else ""
        right = f", accuracy {self.accuracy:.2%}" if self.accuracy is not None else ""
        images = f"{self.inputs:,} image{'s' * (self.inputs != 1)}{resumed}"
        return f"{images}{failed}{unsure}{right}, {self.seconds:.2f} s, {speed:,.0f} images/s"


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
    preprocess: str = "auto",
    split: bool = False,
    save_preprocessed: str | Path | None = None,
    resume: bool = False,
) -> Summary:
    """Predict everything in `input` and write a row for each image to `output`.

    Memory does not grow with the number of inputs. SIGTERM counts as Ctrl-C: what is done is kept.

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
        preprocess: "auto" brings images into MNIST's form, "none" takes them as they are, see `prepare`.
        split: images are rows of digits; what is written of them: `READING_COLUMNS`.
        save_preprocessed: a folder for what the network saw, see `ImageFolder`.
        resume: go on with what an earlier run, that was interrupted, has done of the same work.

    Raises:
        InputError: one of them is not there, or not what it should be.
        OSError: the output cannot be written.
    """
    work = PredictOptions(
        checkpoint, device, batch_size, early_exit, is_digit, engine, shifts, min_confidence, preprocess, split
    )
    check_apart(input, output, save_preprocessed)
    source = open_source(input, preprocess)
    run = work.identity(source)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopped_by_sigterm())
        decoders = stack.enter_context(Decoders(preprocess, split))
        # The output is opened before the network is loaded: a folder that cannot be written is said at once.
        sink = stack.enter_context(open_sink(output, work.further(source), split, resume))
        saved = None if save_preprocessed is None else ImageFolder(save_preprocessed, split)
        if not source.arrays:
            # Before the network is loaded, because there is less to be copied.
            decoders.start(source.count)
        predictor = work.predictor()
        predictor.prepare(source.count or 0)
        earlier = progress = sink.resume({**run, "engine": predictor.engine, "device": str(predictor.device)})
        began = time.perf_counter()
        with progress_bar(source.count, earlier.inputs) as advance:
            for chunk in chunks_of(source, decoders, earlier):
                rows = work.answer(predictor, chunk, source.labelled)
                if saved is not None:
                    saved.write(progress.inputs, chunk)
                progress = progress_after(progress, chunk, rows)
                sink.write(rows, progress)
                advance(len(chunk.names))
        seconds = time.perf_counter() - began
        if progress.inputs == 0:
            raise InputError(f"input={input}: there is nothing in it; expected images")
    return summary_of(progress, work, seconds, earlier.inputs)


def summary_of(progress: Progress, work: PredictOptions, seconds: float, earlier: int) -> Summary:
    """The summary of a run that is at its end."""
    undecided = None if work.min_confidence is None else progress.undecided
    accuracy = progress.right / progress.labelled if progress.labelled else None
    return Summary(progress.inputs, progress.errors, seconds, undecided, accuracy, earlier)


def check_apart(input: str | Path, *written: str | Path | None) -> None:
    """Refuse to write into the folder that is read: the next run would read it."""
    folder = expand(input)
    if not folder.is_dir():
        return
    for path in written:
        if path is None or str(path).startswith("-"):
            continue
        place = expand(path).resolve()
        if folder.resolve() in (place, *place.parents):
            raise InputError(
                f"{path}: lies in the input {folder}, and would be read by the next run; choose another place"
            )


class Terminated(KeyboardInterrupt):
    """SIGTERM came: somebody shuts the machine down, or the job's time is over."""


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what is done is kept."""
    if threading.current_thread() is not threading.main_thread():  # only it may say what signals do
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def progress_bar(total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many more are done; it moves a bar, if somebody looks and there is time to."""
    if (total is not None and total - done <= 1000) or not sys.stderr.isatty():
        yield lambda more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn

    class Speed(TextColumn):
        def render(self, task: Task) -> Any:
            return f"{task.speed or 0:,.0f} images/s"

    columns = BarColumn(), MofNCompleteColumn(), Speed(""), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("predict", total=total, completed=done)
        yield lambda more: bar.advance(task, more)
