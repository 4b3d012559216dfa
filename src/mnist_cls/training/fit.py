"""Train a network: `python -m mnist_cls.train [model=mlp] [trainer.max_epochs=2] [experiment=NAME] ...`

Leaves in the run's folder: checkpoints/best.ckpt and last.ckpt, model.safetensors (the best weights), metrics.json,
TensorBoard's event files and Hydra's record of the config. All the choices: `--help`.
"""

import copy
import dataclasses
import datetime
import gc
import math
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from ..cli.messages import display_path, explain, override, overrides, program
from ..cli.settings import STEP_SIZE_OF_AUTO, TrainSettings
from ..cli.torchrun import hosts, is_first, lost, world_size
from ..errors import InputError
from .resume import GO_ON, LAST, finished, run_lock

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import TensorBoardLogger

    from ..data.datamodule import MNISTDataModule
    from ..data.loader import BatchLoader
    from .callbacks.saving import LastCheckpoint
    from .module import MNISTModule


def train(settings: TrainSettings, folder: Path) -> float:
    """Train, choose the best epoch on the validation images, and test it.

    Args:
        settings: what to train and how.
        folder: the run's folder.

    Returns:
        The validation accuracy of the best epoch, 0 to 1, or the validation loss of a network that does not classify:
        what a sweep should look at.

    Raises:
        InputError: the settings name something that is not there, or does not fit; another process trains there; or
            a file could not be written.
        SystemExit: Ctrl-C, SIGTERM or SIGUSR1 has come; a line on standard error has said how to go on. The status is
            128 and the signal's number.
    """
    # Imported here, because `--help` must not wait for seconds of torch and Lightning.
    from .callbacks.saving import LastCheckpoint

    last = LastCheckpoint(folder / LAST, settings.save_every_seconds, settings.save_every_steps)
    with run_lock(folder), last.listening():
        try:
            return _train(settings, folder, last)
        except (KeyboardInterrupt, SystemExit):  # Lightning makes the second of the first
            if last.signal is None:
                raise
            _leave_on_signal(folder, last, last.signal)
        except RuntimeError as error:
            if not lost(error):
                raise
            raise InputError(
                "lost another of the processes that train together, or the network between them;"
                f" {_how_to_go_on(folder, last.path)}"
            ) from error
        except OSError as error:
            if not last.path.is_file():
                raise
            raise InputError(
                f"{explain(error, 'train')}; when that is mended, {_how_to_go_on(folder, last.path)}"
            ) from error


def _leave_on_signal(folder: Path, last: "LastCheckpoint", number: int) -> NoReturn:
    _say(f"{last.ended} at step {last.step}; {_how_to_go_on(folder, last.path)}", sys.stderr)
    sys.exit(128 + number)


def _say(line: str, stream: TextIO | None = None) -> None:
    """Print a line, in the first of the processes that train together."""
    if is_first():
        print(line, file=stream)


def _how_to_go_on(folder: Path, last: Path) -> str:
    if not last.is_file():
        return "nothing was saved yet"
    again = overrides(checkpoint="last", output_dir=display_path(folder))
    if not again:
        return f"go on from {last}"
    if hosts() > 1:
        return f"go on with the same torchrun, on as many hosts as you like, and: -m mnist_cls.train {again}"
    many = f"torch.distributed.run --nproc-per-node {world_size()} -m " if world_size() > 1 else ""
    return f"go on with: {program(f'{many}mnist_cls.train')} {again}"


def _train(settings: TrainSettings, folder: Path, last: "LastCheckpoint") -> float:
    import lightning.pytorch as pl
    from hydra.utils import instantiate

    from ..checkpoints.build import named_model
    from ..data.datamodule import MNISTDataModule
    from ..memory import keep_freed_memory
    from .callbacks.finite import StopOnNonFinite
    from .callbacks.saving import BestCheckpoint
    from .module import MNISTModule
    from .trainer import make_logger, make_trainer

    settings = dataclasses.replace(settings, model=named_model(settings.model, settings.model_file))
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    module = MNISTModule(
        settings.model,
        instantiate(settings.optimizer, _partial_=True),
        instantiate(settings.scheduler, _partial_=True) if settings.scheduler else None,
        settings.label_smoothing,
        settings.compile,
    )
    _check_temperature(settings, module)
    resume = _start_from(settings.checkpoint, folder, module, last)
    monitor, mode = module.monitor
    judged = settings.data.validation_size != 0 and settings.trainer.limit_val_batches != 0
    earlier = None if resume is None else resume.parent
    best = BestCheckpoint(folder / LAST.parent, monitor if judged else None, mode, earlier)
    finite = StopOnNonFinite(folder / "nonfinite", _replay(settings, folder / "nonfinite"))
    chosen = [instantiate(callback) for callback in (settings.callbacks or {}).values()]
    # What saves comes after all that does something with a step; and the last checkpoint knows of the best one.
    callbacks = [finite, *chosen, best, last]
    logger = make_logger(folder, last.step) if settings.tensorboard else None
    if settings.data.batch_size != "auto":  # who asks for that is short of memory
        keep_freed_memory()
    trainer = make_trainer(settings.trainer, folder, callbacks, logger)

    if trainer.world_size > 1:
        # All processes start from the same weights, but their dropout and distortions must not be the same.
        pl.seed_everything((settings.seed + 7919 * trainer.global_rank) % 2**32, workers=True, verbose=False)
    batch_size, trainer.accumulate_grad_batches = _batches(settings, module, trainer)
    data = MNISTDataModule(**settings.data.arguments() | {"batch_size": batch_size}, seed=settings.seed)

    began = time.perf_counter()
    _fit(trainer, module, data, resume)
    metrics = _training_metrics(trainer, module, last.seconds_before + time.perf_counter() - began)
    if not best.best_model_path:  # no validation was ever due
        best.best_model_path = str(best.path)
        trainer.save_checkpoint(best.path)
    metrics |= _evaluate(settings, trainer, module, data, Path(best.best_model_path))
    if trainer.is_global_zero:
        _write(settings, module, metrics, folder, logger)
        _report(settings, module, metrics, folder)
    return metrics.get(monitor, math.nan)


def _start_from(checkpoint: str | None, folder: Path, module: "MNISTModule", last: "LastCheckpoint") -> Path | None:
    """Load the weights that `checkpoint=` means; return the file if the whole training is to go on from it."""
    from ..checkpoints.find import find_checkpoint
    from ..checkpoints.weights import read_ckpt, read_weights

    if checkpoint == "auto" and not last.path.is_file():
        return None
    if checkpoint is None:
        return None
    path = last.path if checkpoint in GO_ON else find_checkpoint(checkpoint, prefer=str(LAST))
    weights = read_weights(path)
    module.load_weights(weights)
    if not weights.resumable:
        _say(f"starting from the weights of {display_path(path)}")
        return None
    last.step = read_ckpt(path)["global_step"]
    _say(f"going on from {display_path(path)}, step {last.step}")
    module.may_be_complete = not finished(path.parents[1])
    return path


def _fit(trainer: "pl.Trainer", module: "MNISTModule", data: "MNISTDataModule", resume: Path | None) -> None:
    from ..memory import out_of_memory

    # Python's collector would look through all that the imports have made, again and again: half of a step's overhead.
    gc.freeze()
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except (RuntimeError, MemoryError) as error:
        asked = out_of_memory(error)
        if asked is None:
            raise
        raise InputError(
            f"out of memory on {trainer.strategy.root_device} in training with batches of {data.batch_size} images:"
            f" {asked} could not be had; data.batch_size=auto finds what fits, and data.effective_batch_size="
            f"{data.batch_size * trainer.accumulate_grad_batches} keeps the steps of the optimizer as they are"
        ) from error
    finally:
        gc.unfreeze()


def _batches(settings: TrainSettings, module: "MNISTModule", trainer: "pl.Trainer") -> tuple[int, int]:
    """How many images a batch has, and how many batches make a step of the optimizer."""
    size, effective = settings.data.batch_size, settings.data.effective_batch_size
    if isinstance(size, str):
        if trainer.world_size > 1:
            raise InputError("data.batch_size=auto is for one process; name a number with several devices")
        effective = effective or STEP_SIZE_OF_AUTO
        size = module.largest_batch(trainer.strategy.root_device, effective)
        print(f"batches of {size} images, {effective // size} a step, fit on {trainer.strategy.root_device}")
    return size, settings.trainer.accumulate_grad_batches if effective is None else effective // size


def _own(settings: TrainSettings) -> str:
    """What a command needs besides, for a network of the user's own."""
    return "" if settings.model_file is None else f" {override('model_file', settings.model_file)}"


def _replay(settings: TrainSettings, folder: Path) -> str:
    checkpoint, batch = (
        override(*pair)
        for pair in (("checkpoint", display_path(folder)), ("input", display_path(folder) / "batch.safetensors"))
    )
    return f"{program('mnist_cls.forward')} {checkpoint} {batch} mode=train{_own(settings)}"


def _training_metrics(trainer: "pl.Trainer", module: "MNISTModule", seconds: float) -> dict[str, float]:
    metrics = {
        "train/seconds": seconds,
        "train/images_per_second": module.images_seen_by_all() / seconds,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
    }
    return metrics | module.train_metrics


def _evaluate(
    settings: TrainSettings, trainer: "pl.Trainer", module: "MNISTModule", data: "MNISTDataModule", checkpoint: Path
) -> dict[str, float]:
    """Validate and test the weights of the best epoch, after the network has set its thresholds by them."""
    from lightning.pytorch.callbacks import WeightAveraging

    from ..checkpoints.weights import read_weights
    from ..data.loader import BatchLoader

    module.load_weights(read_weights(checkpoint))
    held_out = None
    if data.val_data is not None and len(data.val_data.labels):  # all of it, in every process
        held_out = BatchLoader(data.val_data, 500)
        module.calibrate(held_out)
    metrics = _temper(settings, module, held_out)
    # Such a callback would put its last average in the place of the weights that are to be judged.
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]
    stages = [trainer.validate] + [trainer.test] * (settings.trainer.limit_test_batches != 0)
    for evaluate in stages:
        evaluate(module, data, verbose=False)
        metrics |= {name: value.item() for name, value in trainer.callback_metrics.items() if "/" in name}
    return metrics


def _temper(settings: TrainSettings, module: "MNISTModule", held_out: "BatchLoader | None") -> dict[str, float]:
    """Divide the network's logits by the temperature that is wanted, and return it by its name."""
    from .temperature import temper

    temperature = settings.temperature
    if temperature == "auto":
        temperature = module.fit_temperature(held_out) if module.classifies and held_out is not None else None
    if temperature is None:
        return {}
    try:
        temper(module.model, float(temperature))
    except ValueError as error:  # of a number this was said before the training
        _say(f"not calibrated: {error}")
        return {}
    return {"temperature": float(temperature)}


def _check_temperature(settings: TrainSettings, module: "MNISTModule") -> None:
    """Raise, before hours of training, if the network cannot have the temperature that is named."""
    from .temperature import temper

    if settings.temperature in (None, "auto"):
        return
    try:
        temper(copy.deepcopy(module.model), float(settings.temperature))
    except ValueError as error:
        raise InputError(f"temperature={settings.temperature}: {error}; use temperature=null") from error


def _write(
    settings: TrainSettings,
    module: "MNISTModule",
    metrics: dict[str, float],
    folder: Path,
    logger: "TensorBoardLogger | None",
) -> None:
    from ..files import write_json

    if logger is not None:
        logger.log_hyperparams(_hyperparameters(settings), {f"final/{k}": v for k, v in metrics.items()})
        logger.save()
    _save_model(settings, module, metrics, folder)
    write_json(folder / "metrics.json", metrics)  # at the end: with it the training counts as finished


_HYPERPARAMETERS: tuple[str, ...] = (
    *("model", "data", "optimizer", "scheduler", "label_smoothing", "temperature", "compile", "trainer", "callbacks"),
    *("checkpoint", "model_file", "seed"),
)


def _hyperparameters(settings: TrainSettings) -> dict[str, Any]:
    everything = dataclasses.asdict(settings)
    return {key: everything[key] for key in _HYPERPARAMETERS}


def _save_model(settings: TrainSettings, module: "MNISTModule", metrics: dict[str, float], folder: Path) -> None:
    from ..checkpoints.weights import save_weights, versions

    typed = overrides(output_dir=None)
    provenance = {
        "config": _hyperparameters(settings),
        "command": None if typed is None else f"python -m mnist_cls.train {typed}".rstrip(),
        "metrics": metrics,
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }
    save_weights(folder / "model.safetensors", module.model, settings.model, provenance)


def _report(settings: TrainSettings, module: "MNISTModule", metrics: dict[str, float], folder: Path) -> None:
    here = display_path(folder)
    speed = f"{metrics['epochs']} epochs, {metrics['train/images_per_second']:,.0f} images/s"
    for stage, name, remark in (("test", "test", ""), ("val", "validation", " in the best epoch")):
        if f"{stage}/accuracy" in metrics:
            print(f"{name + ' accuracy':<20} {metrics[f'{stage}/accuracy']:.2%}{remark}")
        elif f"{stage}/loss" in metrics:
            print(f"{name + ' loss':<20} {metrics[f'{stage}/loss']:.4f}{remark}")
    print(f"training             {metrics['train/seconds']:.1f} s, {speed}")
    events = ", tensorboard" if settings.tensorboard else ""
    print(f"files                {here}: model.safetensors, metrics.json, checkpoints{events}")
    use = override("checkpoint" if module.classifies else "is_digit", here)
    if module.classifies or hasattr(module.model, "reconstruction_error"):
        print(f"predict with it      {program('mnist_cls.predict')} {use}{_own(settings)} input=IMAGE_OR_FOLDER")
    if settings.tensorboard:
        print(f"look inside          {program('tensorboard.main')} --logdir {shlex.quote(str(here.parent))}")
