"""Sweeps and searches (`-m`): the checks before the first run, failed runs, and the summary at the end."""

import logging
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ..errors import InputError
from .messages import display_path, override
from .status import leave, report
from .torchrun import is_first, launched


class CheckSweep(Callback):
    """Hydra's callback that refuses a sweep before anything is written; configs/hydra/default.yaml names it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with status 2 if no run of the sweep could work. `config` lacks the values that are swept over."""
        try:
            check_sweep(config)
        except InputError as error:  # Hydra would turn any exception into a warning
            leave(error)
        # Failed runs are reported by `Sweep`; the sweeper's own logging would add several lines to each.
        logging.getLogger("hydra_plugins").setLevel(logging.CRITICAL)


def check_sweep(config: DictConfig) -> None:
    """Raise an InputError for a search without validation results, and for runs that would start processes."""
    sweeper = config.hydra.runtime.choices["hydra/sweeper"]
    for key in ("data.validation_size", "trainer.limit_val_batches"):
        if sweeper != "basic" and config.hydra.job.config_name == "train" and OmegaConf.select(config, key) == 0:
            raise InputError(
                f"{key}=0: a search compares validation results, and without validation images there are none;"
                f" leave out {key}=0, or list the values to train with, without sweep="
            )
    devices, hosts = (OmegaConf.select(config, f"trainer.{key}", default=1) for key in ("devices", "num_nodes"))
    number = devices if isinstance(devices, (int, str)) else len(devices)
    if (number not in (1, "1") or hosts != 1) and not launched():
        raise InputError(
            f"trainer.devices={devices}: in a sweep, several devices need torchrun; use torchrun"
            f" --nproc-per-node {number} -m mnist_cls.{config.hydra.job.config_name} -m ..., without trainer.devices="
        )


@dataclass
class Sweep:
    """The runs of a sweep that this process has started.

    Attributes:
        folder: the folder of the sweep; None before the first run, and for a command that is no sweep.
        runs: number of runs.
        failures: a description of each failed run, and the reason.
        incomplete: number of runs that did their work, but exited with status 1.
        process: id of the process that started the sweep.
    """

    folder: Path | None = None
    runs: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    incomplete: int = 0
    process: int = field(default_factory=os.getpid)

    def begin(self) -> None:
        """Count a run, if it belongs to a sweep."""
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            self.folder = Path(HydraConfig.get().sweep.dir)
            self.runs += 1

    def goes_on(self) -> bool:
        """Return whether the sweep goes on if the current run fails.

        It ends under torchrun, where the run's other processes may be waiting for this one, and in a process started
        by a launcher plugin of Hydra, whose failures could not be counted here.
        """
        return self.folder is not None and not launched() and os.getpid() == self.process

    def fail(self, error: Exception, tracebacks: bool) -> None:
        """Report that the current run failed."""
        config = HydraConfig.get()
        every: list[str] = list(config.overrides.task)
        own = [text for text in every if text not in sys.argv] or every  # only those that vary
        label = f"run {config.job.num} of the sweep failed, with {' '.join(own)}"
        self.failures.append((label, report(error, tracebacks)))

    def comparable(self, result: Any) -> Any:
        """Return a run's result for the sweeper to compare.

        Raises:
            InputError: If it is NaN, and the sweep is a search.
        """
        if HydraConfig.get().runtime.choices["hydra/sweeper"] != "basic" and result is not None and math.isnan(result):
            raise InputError("the run has no validation result that the search could compare")
        return result

    def all_failed(self) -> bool:
        """Return whether every run has failed."""
        return 0 < self.runs == len(self.failures)

    def finish(self) -> None:
        """Print the best result of a search and the runs that failed; exit with status 1 or 2 if some or all did."""
        if self.folder is None or not is_first():
            return
        if not self.all_failed():
            _print_best(self.folder)
        lines = [f"{label}: {reason}" for label, reason in self.failures]
        if self.all_failed() and len({reason for _, reason in self.failures}) == 1:
            lines = [f"all {self.runs} runs failed: {self.failures[0][1]}"]
        for line in lines if self.runs > 1 else []:  # a single run's error has just been printed
            print(f"error: {line}", file=sys.stderr)
        if self.failures or self.incomplete:
            sys.exit(2 if self.all_failed() else 1)


def _print_best(folder: Path) -> None:
    """Print the best result of a search; a sweep over listed values has none."""
    results = folder / "optimization_results.yaml"
    found: Any = OmegaConf.load(results) if results.is_file() else {}
    if "best_params" in found:  # not in a search for several objectives
        best = " ".join(override(str(key), value) for key, value in found.best_params.items())
        print(f"\nbest of the search     {found.best_value:.4f} with {best}")
        print(f"all runs               {display_path(folder)}")
