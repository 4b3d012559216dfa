"""Results of a training: model.safetensors, metrics.json, what loggers get at the end, and a printed summary."""

import dataclasses
import datetime
import shlex
from pathlib import Path
from typing import Any

from ..checkpoints.weights import save_weights, versions
from ..cli.messages import display_path, override, overrides, program
from ..cli.settings import TrainSettings
from ..files import write_json
from .loggers import Loggers, log_results
from .module import MNISTModule

# Settings that do not affect the result.
_INCIDENTAL = {"logger", "save_every_seconds", "save_every_steps", "output_dir"}


def hyperparameters(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that affect the result."""
    return {key: value for key, value in dataclasses.asdict(settings).items() if key not in _INCIDENTAL}


def save_results(
    settings: TrainSettings, module: MNISTModule, metrics: dict[str, float], folder: Path, loggers: Loggers
) -> None:
    """Write the results into the run's folder, and pass them to the loggers."""
    log_results(loggers, hyperparameters(settings), metrics)
    typed = overrides(output_dir=None)
    provenance: dict[str, Any] = {
        "config": hyperparameters(settings),
        "command": None if typed is None else f"python -m mnist_cls.train {typed}".rstrip(),
        "metrics": metrics,
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }
    save_weights(folder / "model.safetensors", module.model, settings.model, provenance)
    write_json(folder / "metrics.json", metrics)  # last, since it marks the run as finished


def print_summary(
    settings: TrainSettings,
    module: MNISTModule,
    metrics: dict[str, float],
    folder: Path,
    loggers: Loggers,
    out_of_time: bool,
) -> None:
    """Print the metrics, where the files are, and the next commands to run."""
    path = display_path(folder)
    for stage, name, remark in (("test", "test", ""), ("val", "validation", " in the best epoch")):
        if f"{stage}/accuracy" in metrics:
            print(f"{name + ' accuracy':<20} {metrics[f'{stage}/accuracy']:.2%}{remark}")
        elif f"{stage}/loss" in metrics:
            print(f"{name + ' loss':<20} {metrics[f'{stage}/loss']:.4f}{remark}")
    epochs = f"{metrics['epochs']} epoch{'s' * (metrics['epochs'] != 1)}"
    speed = f"{epochs}, {metrics['train/images_per_second']:,.0f} images/s"
    precision = ", in bfloat16" if settings.trainer.precision == "bf16-mixed" else ""
    ended = ", ended by trainer.max_time" if out_of_time else ""
    print(f"training             {metrics['train/seconds']:.1f} s, {speed}{precision}{ended}")
    logged = "".join(f", {name}" for name in loggers if (folder / name).is_dir())
    print(f"files                {path}: model.safetensors, metrics.json, checkpoints{logged}")
    if module.classifies or hasattr(module.model, "reconstruction_error"):
        use = override("checkpoint" if module.classifies else "is_digit", path)
        command = f"{program('mnist_cls.predict')} {use}{model_file_option(settings)}"
        print(f"predict with it      {command} input=IMAGE_OR_FOLDER")
    if "tensorboard" in loggers:
        print(f"look inside          {program('tensorboard.main')} --logdir {shlex.quote(str(path.parent))}")
    database = str((settings.logger or {}).get("mlflow", {}).get("tracking_uri"))
    if "mlflow" in loggers and database.startswith("sqlite:"):
        print(f"compare the runs     {program('mlflow')} ui --backend-store-uri {shlex.quote(database)}")


def model_file_option(settings: TrainSettings) -> str:
    """Return " model_file=FILE", which other commands need to load the user's own network; "" if there is none."""
    return "" if settings.model_file is None else f" {override('model_file', settings.model_file)}"
