"""Lightning's Trainer as this package wants it: quiet, and with little to do beside the training itself."""

import contextlib
import dataclasses
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, PyTorchProfiler, SimpleProfiler

from ..cli.settings import TrainerSettings
from ..cli.torchrun import launched, world_size
from ..errors import InputError
from .checkpoint_io import WholeCheckpoints
from .distributed import as_launched


class ProgressBar(RichProgressBar):
    """Lightning's bar, which stays when it is full, and draws a training twice a second rather than a hundred times.

    Drawing takes milliseconds, in which no other line of Python runs: a twentieth of the training of a small network.
    """

    seconds_between = 0.5

    def __init__(self) -> None:
        super().__init__(refresh_rate=2, leave=True)
        self.drawn = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Show how far the epoch is, if that has not been shown just now."""
        now = time.monotonic()
        if now - self.drawn >= self.seconds_between or trainer.is_last_batch:
            self.drawn = now
            super().on_train_batch_end(trainer, *args)


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, in less time: Lightning enters a context for each hook of each callback, a hundred a step."""

    nothing: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """A context in which nothing is measured."""
        return self.nothing


class _UntilItFails:
    """A file that is written to until that fails for the first time; from then on nothing is.

    TensorBoard writes in a thread of its own, and what fails there would end the training at some later call.
    """

    def __init__(self, file: Any, name: str) -> None:
        self.file, self.name = file, name

    def write(self, content: bytes) -> None:
        """Write, if that still works."""
        self._try("write", content)

    def flush(self) -> None:
        """Flush, if that still works."""
        self._try("flush")

    def close(self) -> None:
        """Close, if that still works."""
        self._try("close")

    def _try(self, method: str, *arguments: bytes) -> None:
        if self.file is None:
            return
        try:
            getattr(self.file, method)(*arguments)
        except OSError as error:
            self.file = None
            reason = error.strerror or error
            print(f"\n{self.name}: cannot be written ({reason}); the training goes on without it", file=sys.stderr)


class _Logger(TensorBoardLogger):
    """TensorBoard's logger, whose trouble with writing is not the training's."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The SummaryWriter."""
        new = self._experiment is None
        writer = super().experiment
        if new:
            records = writer.file_writer.event_writer._async_writer._writer
            records._writer = _UntilItFails(records._writer, f"TensorBoard's file in {self.log_dir}")
        return writer

    def save(self) -> None:
        """Write what is not yet written."""
        with contextlib.suppress(OSError):
            super().save()


def make_logger(folder: Path, step: int) -> TensorBoardLogger:
    """Make what writes TensorBoard's event files.

    Args:
        folder: the run's folder.
        step: where the training goes on, if it does. What an interrupted run has logged after that is not shown.
    """
    purge: dict[str, Any] = {"purge_step": step} if step else {}
    return _Logger(folder, name="tensorboard", version="", default_hp_metric=False, **purge)


def make_trainer(
    settings: TrainerSettings, folder: Path, callbacks: Sequence[Callback] = (), logger: Logger | None = None
) -> pl.Trainer:
    """Make Lightning's Trainer of the settings.

    Args:
        settings: Lightning's arguments.
        folder: the run's folder, where a profiler writes to.
        callbacks: besides the progress bar.
        logger: None logs nowhere.

    Raises:
        InputError: the machine has no such accelerator, or Lightning refuses a value.
    """
    if settings.accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator={settings.accelerator}: PyTorch {torch.__version__} sees no CUDA device on this"
            " machine; use trainer=cpu, or trainer=auto to take what there is"
        )
    # What Lightning says by itself is advice to its own developers' users; ours get a progress bar and a summary.
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
            f"trainer.strategy={settings.strategy}: each of the {world_size()} processes that torchrun has started"
            " would train alone; leave trainer.strategy out"
        )
    return trainer
