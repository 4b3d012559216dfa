"""How a training shows its progress: a bar in a terminal, otherwise a line for each epoch."""

import math
import time
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from rich.console import Console

# A bar in a narrower terminal is wrapped and cut off.
_COLUMNS_OF_BAR = 80


def make_progress() -> ProgressBar:
    """Return a bar if standard output is a terminal; in a file, a pipe or a notebook a bar would be unreadable."""
    console = Console()
    wide = console.width >= _COLUMNS_OF_BAR
    return TerminalBar() if console.is_terminal and wide and not console.is_jupyter else EpochLines()


class TerminalBar(RichProgressBar):
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


class EpochLines(ProgressBar):
    """Prints a line for each epoch of a training: its metrics, and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._started, self._first_step = 0.0, 0
        self._epoch: int | None = None  # the epoch that has ended, until its line is printed
        self._enabled = True

    def enable(self) -> None:
        """Print lines."""
        self._enabled = True

    def disable(self) -> None:
        """Print none; Lightning calls this in all but the first process."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started, self._first_step = time.monotonic(), trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the epoch before; in `on_train_epoch_end` its metrics were not yet known."""
        self._print(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch has ended."""
        self._epoch = trainer.current_epoch + 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the last epoch."""
        self._print(trainer)

    def _print(self, trainer: pl.Trainer) -> None:
        if self._epoch is None or not self._enabled:
            return
        metrics = trainer.callback_metrics
        facts = [f"loss {metrics['train/loss'].item():.4f}"]
        if "val/accuracy" in metrics:
            facts.append(f"validation accuracy {metrics['val/accuracy'].item():.2%}")
        elif "val/loss" in metrics:
            facts.append(f"validation loss {metrics['val/loss'].item():.4f}")
        facts += self._time(trainer)
        of_all = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        print(f"epoch {self._epoch}{of_all}: {', '.join(facts)}", flush=True)
        self._epoch = None

    def _time(self, trainer: pl.Trainer) -> list[str]:
        elapsed, steps = time.monotonic() - self._started, trainer.global_step - self._first_step
        try:
            left = trainer.estimated_stepping_batches - trainer.global_step
        except MisconfigurationException:  # a callback changes the number of batches per step
            left = math.inf
        known = 0 < left < math.inf and steps and not trainer.should_stop
        return [f"{elapsed:,.0f} s", *[f"{elapsed / steps * left:,.0f} s left"] * bool(known)]
