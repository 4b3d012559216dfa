"""What TensorBoard shows first: loss and accuracy, training and validation in one chart each."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

# TensorBoard draws a tag of several runs in one chart, so each of these is a run of its own, in a folder of this name.
# Its dashboard is sorted by tag.
_CHARTS = {
    "train/loss": ("training", "curves/loss"),
    "train/accuracy_epoch": ("training", "curves/accuracy"),
    "val/loss": ("validation", "curves/loss"),
    "val/accuracy": ("validation", "curves/accuracy"),
}

# The metrics of a finished training are single points, which the table of hyperparameters needs as charts: the last.
_RESULTS = "with_hyperparameters"


class ChartLogger(TensorBoardLogger):
    """Lightning's logger for TensorBoard, which also draws training and validation in one chart.

    Args:
        save_dir: folder of the run.
        purge_step: step from which on TensorBoard hides what an earlier process has logged.
        **options: more of `TensorBoardLogger`.
    """

    def __init__(self, save_dir: str | Path, purge_step: int | None = None, **options: Any) -> None:
        super().__init__(save_dir, purge_step=purge_step, **options)
        self._purge_step = purge_step
        self._writers: dict[str, SummaryWriter] = {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics, but for the number of the epoch, which Lightning adds and whose chart shows nothing."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)
        for name in metrics.keys() & _CHARTS.keys():
            run, tag = _CHARTS[name]
            if run not in self._writers:
                folder = Path(self.log_dir, run)
                self._writers[run] = SummaryWriter(str(folder), purge_step=self._purge_step)
            self._writers[run].add_scalar(tag, metrics[name], step)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Log hyperparameters, with the metrics of the finished training, `final/...`."""
        named = {name.replace("final", _RESULTS, 1): value for name, value in (metrics or {}).items()}
        super().log_hyperparams(params, named, step)

    @rank_zero_only
    def save(self) -> None:
        """Write what has been logged."""
        super().save()
        for writer in self._writers.values():
            writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write and close what has been logged."""
        super().finalize(status)
        for writer in self._writers.values():
            writer.close()
