"""The progress of a training: a bar in a terminal, elsewhere a line for each epoch."""

import math
import time
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from rich.console import Console

# In a narrower terminal, a bar is wrapped and cut off.
_COLUMNS_OF_BAR = 80


def make_progress() -> ProgressBar:
    """Return a bar for a wide terminal, and lines for a narrow one, a file, a pipe or a notebook."""
    console = Console()
    wide = console.width >= _COLUMNS_OF_BAR
    return TerminalBar() if console.is_terminal and wide and not console.is_jupyter else EpochLines()


class TerminalBar(RichProgressBar):
    """Lightning's progress bar, kept on the screen when full, and redrawn in training at most twice a second.

    Training waits while the bar is drawn: drawn every second batch, it takes 5 % of the time of a small network.
    """

    seconds_between = 0.5

    def __init__(self) -> None:
        super().__init__(refresh_rate=2, leave=True)
        self.last_drawn = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Redraw the bar, unless it was drawn less than `seconds_between` ago."""
        now = time.monotonic()
        if now - self.last_drawn >= self.seconds_between or trainer.is_last_batch:
            self.last_drawn = now
            super().on_train_batch_end(trainer, *args)


class EpochLines(ProgressBar):
    """Prints a line for each epoch of a training, with its metrics and the time left; in long epochs, each minute."""

    seconds_between = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._started = self._printed = 0.0
        self._first_step = 0
        self._enabled, self._epoch_ended = True, False

    def enable(self) -> None:
        """Print lines."""
        self._enabled = True

    def disable(self) -> None:
        """Print no lines; Lightning calls this in all but the first process."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = self._printed = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if the last one was printed more than `seconds_between` ago."""
        if time.monotonic() - self._printed >= self.seconds_between and not trainer.is_last_batch:
            done = (batch_idx + 1) / trainer.num_training_batches
            self._print(trainer, trainer.current_epoch + 1, [f"{done:.0%} done"])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the previous epoch, whose metrics were not yet known in `on_train_epoch_end`."""
        self._print_epoch(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch has ended."""
        self._epoch_ended = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the last epoch."""
        self._print_epoch(trainer)

    def _print_epoch(self, trainer: pl.Trainer) -> None:
        if not self._epoch_ended:
            return
        self._epoch_ended = False
        metrics = trainer.callback_metrics
        facts = [f"loss {metrics['train/loss'].item():.4f}"]
        if "val/accuracy" in metrics:
            facts.append(f"validation accuracy {metrics['val/accuracy'].item():.2%}")
        elif "val/loss" in metrics:
            facts.append(f"validation loss {metrics['val/loss'].item():.4f}")
        self._print(trainer, trainer.current_epoch, facts)

    def _print(self, trainer: pl.Trainer, epoch: int, facts: list[str]) -> None:
        self._printed = time.monotonic()
        if self._enabled:
            of_all = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
            print(f"epoch {epoch}{of_all}: {', '.join([*facts, *self._time(trainer)])}", flush=True)

    def _time(self, trainer: pl.Trainer) -> list[str]:
        elapsed, steps = time.monotonic() - self._started, trainer.global_step - self._first_step
        try:
            left = trainer.estimated_stepping_batches - trainer.global_step
        except MisconfigurationException:  # a callback changes the number of batches per step
            left = math.inf
        known = 0 < left < math.inf and steps and not trainer.should_stop
        return [f"{elapsed:,.0f} s", *[f"{elapsed / steps * left:,.0f} s left"] * bool(known)]
