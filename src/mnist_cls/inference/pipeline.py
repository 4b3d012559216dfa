"""The pipeline of a prediction: a source, decoders, a network, and a sink."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from ..errors import InputError
from ..files import expand
from .cuts import choose_cuts
from .decoding.batches import Batch, batches_of
from .decoding.pool import Decoders
from .options import PredictOptions
from .predictor import Predictor, load_predictor
from .progress import Progress
from .progress_bar import progress_bar
from .rows import Rows, batch_rows, output_columns
from .sinks.saved_images import ImageFolder
from .sinks.sink import open_sink
from .sources.blocks import Source
from .sources.detect import open_source
from .summary import Summary, ToCheck, summarize


def predict_files(
    input: str | Path,
    output: str | Path | None = None,
    options: PredictOptions = PredictOptions(),
    *,
    save_preprocessed: str | Path | None = None,
    resume: bool = False,
    format: str | None = None,
) -> Summary:
    """Predict everything in `input` and write a row for each image to `output`.

    Memory does not grow with the number of inputs. On Ctrl-C and SIGTERM the rows written so far are kept; SIGTERM ends
    the process with status 143.

    Args:
        input: see `open_source`.
        output: see `open_sink`; None is the screen.
        options: which networks predict, and how.
        save_preprocessed: folder for what the network saw, see `ImageFolder`.
        resume: continue an interrupted run of the same input and options.
        format: see `open_sink`; "kaggle" is what Kaggle's competition takes.

    Raises:
        InputError: If the input or the checkpoint cannot be read, the options do not fit them, or the input is empty.
        OSError: If the output cannot be written.
    """
    check_apart(input, output, save_preprocessed)
    source = open_source(input, options.preprocess)
    run = options.identity(source.identity)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopped_by_sigterm())
        decoders = stack.enter_context(Decoders(options.preprocess, options.split))
        # Opened before the network is loaded, so that a folder that cannot be written is reported at once.
        sink = stack.enter_context(open_sink(output, output_columns(options, source.labelled), resume, format))
        saved = None if save_preprocessed is None else ImageFolder(save_preprocessed, options.split)
        if not source.arrays:
            # Forked before the network is loaded, because then there is less to copy.
            decoders.start(source.count)
        predictor = load_predictor(options)
        engine = predictor.engine
        earlier = progress = sink.resume({**run, "engine": engine.name, "device": engine.device, "format": format})
        start = time.perf_counter()
        to_check = ToCheck()
        with progress_bar(source.count, earlier.inputs) as advance:
            for batch, rows, progress in predict_batches(source, decoders, predictor, options, earlier):
                if saved is not None:
                    saved.write(progress.inputs - len(batch.names), batch)
                sink.write(rows, progress)
                to_check.add(rows)
                advance(len(batch.names))
        seconds = time.perf_counter() - start
        if progress.inputs == 0:
            raise InputError(f"input={input}: is empty; expected images")
    summary = summarize(progress, options, seconds, earlier.inputs)
    return summary._replace(format=format, to_check=to_check)


def predict_batches(
    source: Source, decoders: Decoders, predictor: Predictor, options: PredictOptions, earlier: Progress
) -> Iterator[tuple[Batch, Rows, Progress]]:
    """Yield each batch of a source after an `earlier` run's, with its rows and the progress after it."""
    progress = earlier
    for batch in batches_of(source, decoders, earlier):
        rows = predict_batch(batch, predictor, options, source.labelled)
        progress = progress.after(rows, batch.names_digest)
        yield batch, rows, progress


def predict_batch(batch: Batch, predictor: Predictor, options: PredictOptions, labelled: bool = False) -> Rows:
    """Return a row for each input of a batch. Images of rows are cut where the network reads the pieces best."""
    decoded = batch.decoded
    predictions = predictor.classify_prepared(decoded.images, None if options.split else decoded.errors)
    if options.split:
        batch.decoded, predictions = choose_cuts(decoded, predictions)
    return batch_rows(batch, predictions, options, labelled)


def check_apart(input: str | Path, *outputs: str | Path | None) -> None:
    """Raise an InputError if an output is in a folder that is the input, because the next run would read it."""
    folder = expand(input)
    if not folder.is_dir():
        return
    for output in outputs:
        if output is None or str(output).startswith("-"):
            continue
        path = expand(output).resolve()
        if folder.resolve() in (path, *path.parents):
            raise InputError(
                f"{output}: is in the input {folder}, and the next run would read it; choose another folder"
            )


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise an exception in the block, as Ctrl-C does, so that finished work is kept."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
