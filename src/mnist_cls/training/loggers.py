"""Loggers: where the curves and hyperparameters of a training go, and how a resumed run continues in them."""

import contextlib
import csv
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ..files import whole_file
from .from_config import create_all, not_installed

Loggers = dict[str, Logger]

# File with the run's ids in MLflow's database and at Weights & Biases, by the names of the loggers.
_IDS = "loggers.json"

# Defaults for environment variables that the user has not set. They limit the seconds and attempts before a server that
# does not answer is an error, and keep MLflow from printing the traceback of an exception that it also raises.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "WANDB_INIT_TIMEOUT": "30",
}


def make_loggers(configs: Mapping[str, Any] | None, folder: Path, step: int) -> Loggers:
    """Create the loggers; their files go into the run's folder, unless the configs say otherwise.

    Args:
        configs: see `create_all`; None: no loggers.
        folder: the run's folder.
        step: optimizer step from which the run resumes; 0: it starts. In a resumed run, TensorBoard hides what was
            logged after that step, and MLflow and Weights & Biases continue their earlier run.

    Raises:
        InputError: If a config is wrong, or a package is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It warns whenever an experiment is new.
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
    ids = _ids(folder) if step else {}
    loggers: Loggers = {}
    for name, config in (configs or {}).items():
        known = {"save_dir": folder, "purge_step": step or None, "run_id": ids.get(name), "id": ids.get(name)}
        loggers |= create_all("logger", {name: config}, **known)
    return loggers


def start(loggers: Loggers, folder: Path, hyperparameters: dict[str, Any], step: int) -> None:
    """Log the hyperparameters; call this in the first process only. TensorBoard gets them later, with the results.

    Raises:
        InputError: If a package is not installed.
    """
    earlier = _ids(folder) if step else {}
    for name, logger in loggers.items():
        if isinstance(logger, TensorBoardLogger):
            continue
        rows = _rows_before(step, Path(logger.log_dir, "metrics.csv")) if isinstance(logger, CSVLogger) else []
        try:
            if name not in earlier:  # MLflow refuses to change them
                logger.log_hyperparams(hyperparameters)
        except ModuleNotFoundError as error:
            raise not_installed(f"logger.{name}", error) from error
        for row in rows:  # Lightning's logger starts with an empty file
            logger.log_metrics(row, int(row.pop("step")))
        logger.save()
    ids = {name: one.version for name, one in loggers.items() if isinstance(one, (MLFlowLogger, WandbLogger))}
    if ids:
        with whole_file(folder / _IDS) as temporary:
            temporary.write_text(json.dumps(ids), encoding="utf-8")


def logged_files(loggers: Loggers) -> set[Path]:
    """Return the folders of the loggers for TensorBoard and CSV that exist, and what is in them."""
    local = [one for one in loggers.values() if isinstance(one, (TensorBoardLogger, CSVLogger))]
    folders = [Path(logger.log_dir) for logger in local]
    return {path for folder in folders if folder.is_dir() for path in (folder, *folder.iterdir())}


def discard(loggers: Loggers, earlier: set[Path]) -> None:
    """Remove the files that the loggers have opened for a training that failed before its first step.

    Args:
        loggers: the loggers.
        earlier: what `logged_files` returned before they were used; it is kept.
    """
    for path in sorted(logged_files(loggers) - earlier, reverse=True):  # files before their folder
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def log_results(loggers: Loggers, hyperparameters: dict[str, Any], metrics: dict[str, float]) -> None:
    """Log the metrics of the finished training as `final/...`."""
    final = {f"final/{name}": value for name, value in metrics.items()}
    for logger in loggers.values():
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(hyperparameters, final)
        else:
            logger.log_metrics(final, int(metrics["steps"]))
        logger.save()


@contextlib.contextmanager
def closing_wandb() -> Iterator[None]:
    """Close the Weights & Biases run that the block has started, or the next training of a sweep would log into it."""
    before = _wandb_run()
    try:
        yield
    finally:
        run = _wandb_run()
        if run is not None and run is not before:
            run.finish(exit_code=int(sys.exc_info()[0] is not None))


def of_a_logger(error: BaseException) -> bool:
    """Return whether an exception comes from a logger's package, or from its connection to a server."""
    return type(error).__module__.partition(".")[0] in ("mlflow", "wandb", "requests", "urllib3")


def _ids(folder: Path) -> dict[str, str]:
    path = folder / _IDS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _rows_before(step: int, path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV logger's file that were logged before the step from which the run resumes."""
    if not step or not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if int(row["step"]) < step]


def _wandb_run() -> Any:
    wandb: Any = sys.modules.get("wandb")  # importing it takes seconds
    return getattr(wandb, "run", None)
