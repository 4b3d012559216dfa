"""Which checkpoints a training keeps: the best epoch's, and one from which it goes on as if it had never stopped."""

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

from ...cli.torchrun import is_first, launched
from ...errors import InputError
from ...files import whole_file
from ..distributed import max_of_all

# The share of the time that saving may take.
_SHARE = 0.02


# Ctrl-C; what a machine that shuts down sends; what Slurm sends before it takes a machine away.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`: the weights of the epoch whose `monitor` was best; without one, of the last epoch.

    Args:
        folder: where to.
        monitor: the metric; None where there is nothing to judge by.
        mode: "min" or "max".
        earlier: the folder of the checkpoint that the training goes on from, if it does; the best one of there is
            brought along.
    """

    def __init__(self, folder: Path, monitor: str | None, mode: str, earlier: Path | None = None) -> None:
        super().__init__(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
        self.path, self.earlier = folder / "best.ckpt", earlier

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was best so far, wherever the folder is now."""
        source = (self.earlier or self.path.parent) / "best.ckpt"
        if not source.is_file():  # somebody has moved last.ckpt alone: what comes is judged anew
            return
        if source.resolve() != self.path.resolve():
            with whole_file(self.path) as temporary:
                shutil.copyfile(source, temporary)
        here = str(self.path)
        scores = dict.fromkeys([here] * len(state_dict["best_k_models"]), state_dict["best_model_score"])
        moved = {"dirpath": self.dirpath, "best_model_path": here, "kth_best_model_path": here, "best_k_models": scores}
        super().load_state_dict(state_dict | moved)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, and stops the training when a signal asks for it: after the step, with everything saved.

    A checkpoint is only written where a training can go on from to the bit: between two steps of the optimizer, and
    neither before a validation that is due nor in it. An exception in the middle of a step could leave one with half of
    the weights updated. A second signal stops at once; what was saved before stands. One within a second is the same
    signal: who starts processes passes it on to them, and the machine may have sent it to all already.

    Processes that train together save and stop together, whichever of them has the signal.

    Args:
        path: the checkpoint.
        seconds: save so often; more seldom if it would take more than a fiftieth of the time. None: at the ends of
            epochs only, which is done in any case where that fiftieth permits it, and at the end of the training.
        steps: save after so many steps of the optimizer, too, whatever it takes.

    Attributes:
        signal: the number of the signal that has come, if one has.
        step: the step of the optimizer up to which all is saved.
        seconds_before: how long the training had taken when it was interrupted.
    """

    def __init__(self, path: Path, seconds: float | None = None, steps: int | None = None) -> None:
        self.path, self.seconds, self.steps = path, seconds, steps
        self.signal: int | None = None
        self.step = 0
        self.seconds_before = 0.0
        self._in_steps = self._stopped_early = self._leaving = False
        self._signalled = 0.0
        self._began = self._saved = time.monotonic()
        self._cost = 0.0

    @property
    def ended(self) -> str:
        """By what the training was ended."""
        return "interrupted" if self.signal in (None, signal.SIGINT) else f"ended by {signal.Signals(self.signal).name}"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals. Outside the main thread Python lets nobody do so."""
        previous = {}
        if threading.current_thread() is threading.main_thread():
            previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield
        except BaseException:
            if launched() and previous:  # torchrun ends all as soon as it misses one; they are to say first what it was
                previous[signal.SIGTERM] = signal.SIG_IGN
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count, and take back the signals that Lightning has taken.

        Raises:
            InputError: the processes that train together do not see the same files.
        """
        self._in_steps = True
        self._began = self._saved = time.monotonic()
        self._take_signals()
        trainer.should_stop = self._stopped_early
        folder = self.path.parents[1]
        # Hydra's record is written by the first process alone.
        for found in (trainer.global_step, (folder / ".hydra" / "config.yaml").is_file()):
            if max_of_all(trainer, found, -found) != [found, -found]:
                raise InputError(
                    f"{folder}: not all processes that train together see it as it is; name an output_dir= in a file"
                    " system that all hosts share"
                )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take back the signals."""
        self._take_signals()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take back the signals."""
        self._take_signals()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to, and stop if a signal has come; a step may have several batches."""
        whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        validation_next = (batch_idx + 1) % trainer.val_check_batch == 0  # type: ignore[operator]
        if whole_step and not validation_next and not trainer.is_last_batch:
            due = self.seconds is not None and self._since() >= self.seconds and self._cheap()
            due = due or (self.steps is not None and trainer.global_step % self.steps == 0)
            self._save_and_stop(trainer, due)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same, where all else has been done for the epoch."""
        self._stopped_early = trainer.should_stop
        steps, epochs = trainer.max_steps, trainer.max_epochs
        over = trainer.should_stop or trainer.current_epoch + 1 == epochs or trainer.global_step == steps
        self._save_and_stop(trainer, over or self._cheap())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """From here on a signal changes nothing: it is leaving."""
        self._leaving = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a signal stops at once: all is saved."""
        self._in_steps = False

    def state_dict(self) -> dict[str, Any]:
        """How long the training has taken, and whether it is to go on."""
        elapsed = self.seconds_before + time.monotonic() - self._began
        return {"seconds": elapsed, "stopped_early": self._stopped_early}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from there."""
        self.seconds_before, self._stopped_early = state_dict["seconds"], state_dict["stopped_early"]

    def _since(self) -> float:
        return time.monotonic() - self._saved

    def _cheap(self) -> bool:
        return self._cost <= _SHARE * self._since()

    def _save_and_stop(self, trainer: pl.Trainer, due: bool) -> None:
        stop = self.signal is not None
        if trainer.world_size > 1:
            # All processes must save together. Rank 0 has the clock; a signal may have reached only one of them yet.
            number, due_there = max_of_all(trainer, self.signal or 0, due and trainer.is_global_zero)
            stop, due = number > 0, due_there > 0
            self.signal = number or None
        if due or stop:
            began = time.monotonic()
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
            self._cost = self._saved - began
            self.step = trainer.global_step
        if stop:
            # torchrun ends the processes that are left as soon as one has gone.
            self._leaving = True
            raise KeyboardInterrupt

    def _take_signals(self) -> None:
        # Lightning's own way would let processes wait for each other in the middle of whatever they do.
        if signal.getsignal(signal.SIGINT) == self._on_signal:
            for number in _SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now, first = time.monotonic(), self.signal is None
        if self._leaving or (not first and now - self._signalled < 1):
            return
        self.signal, self._signalled = number, now
        if not first or not self._in_steps:
            raise KeyboardInterrupt
        with contextlib.suppress(OSError, RuntimeError):  # the terminal may be gone, or just being written to
            if is_first():
                print(f"\n{self.ended}: saving after this step (once more to stop at once)", file=sys.stderr)
