"""The two checkpoints of a training: the best epoch's, and the last one, from which an interrupted run resumes."""

import contextlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from ...cli.torchrun import launched
from ...errors import InputError
from ...files import whole_file
from ..distributed import max_of_all, print_once

# Fraction of the training time that checkpoints may take.
_MOST_TIME = 0.02

# Sent by Ctrl-C; by a machine that shuts down; by Slurm before a job's time limit.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, from the epoch with the best `monitor`, or from the last epoch if `monitor` is None.

    A run that resumes from a checkpoint in `previous_folder` copies the `best.ckpt` there.
    """

    def __init__(self, folder: Path, monitor: str | None, mode: str, previous_folder: Path | None = None) -> None:
        super().__init__(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
        self.path, self.previous_folder = folder / "best.ckpt", previous_folder

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score so far; the run's folder may have moved since."""
        source = (self.previous_folder or self.path.parent) / "best.ckpt"
        if not source.is_file():  # last.ckpt was moved without it
            return
        if source.resolve() != self.path.resolve():
            with whole_file(self.path) as temporary:
                shutil.copyfile(source, temporary)
        path = str(self.path)
        scores = dict.fromkeys([path] * len(state_dict["best_k_models"]), state_dict["best_model_score"])
        moved = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path, "best_k_models": scores}
        super().load_state_dict(state_dict | moved)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`; after a signal, finishes the current step, saves, and ends the training.

    Checkpoints are written between optimizer steps only, and never between a step and a validation that is due after
    it, so that a resumed run is bit-for-bit identical.

    A second signal ends the training at once. Signals within one second count as one, since torchrun and Slurm both
    forward them. The processes of a distributed training save and stop together, whichever of them gets the signal.

    Args:
        path: the checkpoint's file.
        seconds: seconds between checkpoints within an epoch; None: none there. Checkpoints are also written at the ends
            of epochs. Both kinds are skipped while saving would take more than 2 % of the time; the end of the training
            is always saved.
        steps: also save whenever the number of optimizer steps is a multiple of this, however long that takes; None:
            no such checkpoints.

    Attributes:
        signal: number of the signal received, if any.
        step: optimizer step of the checkpoint.
        seconds_before: training time before the run was resumed, in seconds.
    """

    def __init__(self, path: Path, seconds: float | None = None, steps: int | None = None) -> None:
        self.path, self.seconds, self.steps = path, seconds, steps
        self.signal: int | None = None
        self.step = 0
        self.seconds_before = 0.0
        self._signal_time = 0.0
        self._stops_after_step = False  # whether a first signal waits for the end of the step
        self._leaving = False
        self._stopped_early = False
        self._started = self._saved = time.monotonic()
        self._cost = 0.0

    @property
    def cause(self) -> str:
        """What ended the training, for a message."""
        return "interrupted" if self.signal in (None, signal.SIGINT) else f"ended by {signal.Signals(self.signal).name}"

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle the signals within the block; outside the main thread, where Python does not allow it, do nothing."""
        previous = {}
        if threading.current_thread() is threading.main_thread():
            previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield
        except BaseException:
            if launched() and previous:  # torchrun terminates all processes once one has ended: let this one report
                previous[signal.SIGTERM] = signal.SIG_IGN
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock.

        Raises:
            InputError: If the processes of the training do not see the same files.
        """
        self._stops_after_step = True
        self._started = self._saved = time.monotonic()
        self._reclaim_signals()
        # A run that early stopping or max_time has ended: if it is finished, train on; else it only has to be tested.
        trainer.should_stop = self._stopped_early and bool(pl_module.accept_complete)
        folder = self.path.parents[1]
        # Hydra's record is written by the first process only.
        for value in (trainer.global_step, (folder / ".hydra" / "config.yaml").is_file()):
            if max_of_all(trainer, value, -value) != [value, -value]:
                raise InputError(
                    f"{folder}: not all processes of this training see the same files; set output_dir= to a folder in a"
                    " file system that all hosts have in common"
                )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle signals in validation and test as well."""
        self._reclaim_signals()

    on_test_start = on_validation_start

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due, and stop after a signal."""
        step_complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        # With check_val_every_n_epoch=None, the batches between validations are counted across epochs.
        counts_all = trainer.check_val_every_n_epoch is None
        done = (trainer.fit_loop.total_batch_idx if counts_all else batch_idx) + 1
        validation_next = done % (trainer.val_check_batch or 1) == 0
        if step_complete and not validation_next and not trainer.is_last_batch:
            due = self.seconds is not None and time.monotonic() - self._saved >= self.seconds and self._is_cheap()
            due = due or (self.steps is not None and trainer.global_step % self.steps == 0)
            self._save_and_stop(trainer, due)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save unless that takes too long, and stop after a signal. The other callbacks have already run."""
        self._stopped_early = trainer.should_stop
        steps, epochs = trainer.max_steps, trainer.max_epochs
        complete = trainer.should_stop or trainer.current_epoch + 1 == epochs or trainer.global_step == steps
        self._save_and_stop(trainer, complete or self._is_cheap())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Ignore signals from now on: the training is already ending."""
        self._leaving = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let a signal end the run at once from now on: everything is saved."""
        self._stops_after_step = False

    def state_dict(self) -> dict[str, Any]:
        """Return the training time, and whether another callback has stopped the training."""
        elapsed = self.seconds_before + time.monotonic() - self._started
        return {"seconds": elapsed, "stopped_early": self._stopped_early}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.seconds_before, self._stopped_early = state_dict["seconds"], state_dict["stopped_early"]

    def _is_cheap(self) -> bool:
        return self._cost <= _MOST_TIME * (time.monotonic() - self._saved)

    def _save_and_stop(self, trainer: pl.Trainer, due: bool) -> None:
        stop = self.signal is not None
        if trainer.world_size > 1:
            # All processes save together, by the clock of rank 0. A signal can have reached only some of them.
            number, due_there = max_of_all(trainer, self.signal or 0, due and trainer.is_global_zero)
            stop, due = number > 0, due_there > 0
            self.signal = number or None
        if due or stop:
            start = time.monotonic()
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
            self._cost = self._saved - start
            self.step = trainer.global_step
        if stop:
            # torchrun sends SIGTERM to the remaining processes as soon as one has ended.
            self._leaving = True
            raise KeyboardInterrupt

    def _reclaim_signals(self) -> None:
        # Lightning's own handlers let processes wait for each other in the middle of a step.
        if signal.getsignal(signal.SIGINT) == self._on_signal:
            for number in _SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now, first = time.monotonic(), self.signal is None
        if self._leaving or (not first and now - self._signal_time < 1):
            return
        self.signal, self._signal_time = number, now
        if not first or not self._stops_after_step:
            raise KeyboardInterrupt
        with contextlib.suppress(OSError, RuntimeError):  # the terminal may be closed, or in the middle of a print
            print_once(f"\n{self.cause}: saving after this step (once more to stop at once)", sys.stderr)
