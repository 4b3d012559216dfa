"""Lightning's Trainer and TensorBoard logger, set up for this package."""

import dataclasses
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, PyTorchProfiler, SimpleProfiler

from ..cli.settings import TrainerSettings
from ..cli.torchrun import launched, world_size
from ..errors import InputError
from .checkpoint_io import WholeCheckpoints
from .distributed import as_launched, connect


class ProgressBar(RichProgressBar):
    """Lightning's progress bar, left on the screen when full, and redrawn in training at most twice a second.

    The training waits while the bar is drawn; every second batch, Lightning's finest rate but one, costs 5 % of the
    time of a small network.
    """

    seconds_between = 0.5

    def __init__(self) -> None:
        super().__init__(refresh_rate=2, leave=True)
        self.last_drawn = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Redraw the bar, unless that was done just now."""
        now = time.monotonic()
        if now - self.last_drawn >= self.seconds_between or trainer.is_last_batch:
            self.last_drawn = now
            super().on_train_batch_end(trainer, *args)


class NoProfiler(PassThroughProfiler):
    """A profiler that does nothing, faster: Lightning enters a profiler's context for each hook, a hundred per step."""

    context = nullcontext()

    def profile(self, action_name: str) -> Any:
        """Return a context in which nothing is measured."""
        return self.context


class EventFiles(TensorBoardLogger):
    """TensorBoard's logger; where its files cannot be written, the next call raises the `OSError`."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Write scalars. Lightning raises a `ValueError` about their type, whatever went wrong."""
        try:
            super().log_metrics(metrics, step)
        except ValueError as error:
            raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None


def make_logger(folder: Path, step: int) -> TensorBoardLogger:
    """Create the logger that writes TensorBoard's event files into a run's folder.

    The run resumes from `step`, unless it is 0: TensorBoard hides what was logged after it.
    """
    return EventFiles(folder, name="tensorboard", version="", default_hp_metric=False, purge_step=step or None)


@contextmanager
def quiet_writer_thread() -> Iterator[None]:
    """Print no traceback for an `OSError` of another thread, such as TensorBoard's: its next call raises the same."""
    previous = threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            previous(args)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = previous


def make_trainer(
    settings: TrainerSettings, folder: Path, callbacks: Sequence[Callback] = (), logger: Logger | None = None
) -> pl.Trainer:
    """Create Lightning's Trainer from the settings; a profiler writes its report into the run's folder.

    Raises:
        InputError: If the machine has no such accelerator, or Lightning rejects a value.
    """
    if settings.accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator={settings.accelerator}: PyTorch {torch.__version__} sees no CUDA device on this"
            " machine; use trainer=cpu, or trainer=auto for the fastest device available"
        )
    # Lightning's hints are for authors of a LightningModule; users of this one see a progress bar and a summary.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    profilers = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    profiler = profilers[settings.profiler](dirpath=folder, filename="profile") if settings.profiler else NoProfiler()
    arguments = dataclasses.asdict(as_launched(settings)) | {"profiler": profiler}
    bar = [ProgressBar()] if settings.enable_progress_bar else []
    try:
        trainer = pl.Trainer(
            **arguments,
            default_root_dir=folder,
            callbacks=[*callbacks, *bar],
            logger=logger or False,
            plugins=[WholeCheckpoints()],
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
    if launched() and trainer.world_size != world_size():
        raise InputError(
            f"trainer.strategy={settings.strategy}: each of the {world_size()} processes started by torchrun"
            " would train alone; leave trainer.strategy out"
        )
    connect(trainer.strategy.root_device)
    return trainer
