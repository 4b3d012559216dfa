"""Train a network, choose its best epoch on the validation images, and test it."""

import dataclasses
import gc
import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, Timer, WeightAveraging

from ..checkpoints.build import check_fit, named_model
from ..checkpoints.find import find_checkpoint
from ..checkpoints.weights import Weights, read_ckpt, read_weights
from ..cli.instantiate import instantiate
from ..cli.messages import display_path, override, program
from ..cli.settings import BATCH_SIZE, TrainSettings
from ..data.loader import BatchLoader
from ..errors import InputError
from ..memory import keep_freed_memory, out_of_memory
from .batch_size import largest_batch
from .callbacks.finite import StopOnNonFinite
from .callbacks.saving import BestCheckpoint, LastCheckpoint
from .datamodule import MNISTDataModule
from .distributed import print_once
from .from_config import check_monitors, create_all
from .interruption import resumable
from .loggers import closing_wandb, discard, logged_files, make_loggers, start
from .module import MNISTModule
from .results import hyperparameters, model_file_option, print_summary, save_results
from .resume import LAST, RESUME, finished, run_lock
from .temperature import calibrate, check_temperature
from .trainer import make_trainer, quiet_writer_thread, with_precision


def train(settings: TrainSettings, folder: Path) -> float:
    """Train in a run's folder, choose the best epoch on the validation images, and test it.

    Returns:
        The validation accuracy of the best epoch, 0 to 1, or the validation loss of a network that does not classify:
        the value for a sweep to optimize. NaN without a validation.

    Raises:
        InputError: If a setting is invalid, another process trains in the folder, or a file cannot be written.
        SystemExit: If SIGINT, SIGTERM or SIGUSR1 has ended the training, with status 128 + the signal's number.
    """
    last = LastCheckpoint(folder / LAST, settings.save_every_seconds, settings.save_every_steps)
    with run_lock(folder), last.handle_signals(), quiet_writer_thread(), resumable(folder, last), closing_wandb():
        return _train(settings, folder, last)


def _train(settings: TrainSettings, folder: Path, last: LastCheckpoint) -> float:
    # Resolve the network's name and precision=auto, so that the recorded settings say what was used.
    settings = dataclasses.replace(
        settings,
        model=named_model(settings.model, settings.model_file),
        trainer=with_precision(settings.trainer),
    )
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    module = MNISTModule(
        settings.model,
        instantiate("optimizer", settings.optimizer),
        instantiate("scheduler", settings.scheduler) if settings.scheduler else None,
        settings.label_smoothing,
        settings.compile,
    )
    check_temperature(module.model, settings.temperature)
    resume = _load_checkpoint(settings.checkpoint, folder, module, last)

    monitor, mode = ("val/accuracy", "max") if module.classifies else ("val/loss", "min")
    no_validation = _no_validation(settings)
    previous_folder = None if resume is None else resume.parent
    best = BestCheckpoint(folder / LAST.parent, None if no_validation else monitor, mode, previous_folder)
    # These two come last: their checkpoints hold the state of the callbacks before them.
    callbacks = [*_callbacks(settings, folder, module.classifies, no_validation), best, last]
    loggers = make_loggers(settings.logger, folder, last.step)
    trainer = make_trainer(settings.trainer, folder, callbacks, [*loggers.values()])
    if settings.trainer.fast_dev_run:  # Lightning has replaced them with one that writes nothing
        loggers = {}
    data = _data(settings, module, trainer)
    if trainer.world_size == 1:  # with several processes, Lightning calls this in one of them
        data.prepare_data()  # before the clock starts
    earlier = logged_files(loggers)
    if trainer.is_global_zero:
        start(loggers, folder, hyperparameters(settings), last.step)

    started = time.perf_counter()
    try:
        _fit(trainer, module, data, resume)
    except Exception:
        if trainer.global_step == 0 and resume is None:
            discard(loggers, earlier)
        raise
    seconds = last.seconds_before + time.perf_counter() - started
    metrics = {
        "train/seconds": seconds,
        "train/images_per_second": module.total_images_seen() / seconds,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        **module.train_metrics,
    }
    if not best.best_model_path:  # no validation took place
        best.best_model_path = str(best.path)
        trainer.save_checkpoint(best.path)
    _load_weights(module, read_weights(best.best_model_path))
    metrics |= _evaluate(settings, trainer, module, data)
    if trainer.is_global_zero:
        save_results(settings, module, metrics, folder, loggers)
        print_summary(settings, module, metrics, folder, loggers, _is_out_of_time(trainer))
    return metrics.get(monitor, math.nan)


def _load_checkpoint(checkpoint: str | None, folder: Path, module: MNISTModule, last: LastCheckpoint) -> Path | None:
    """Load the weights of `checkpoint=`; return the file if the run resumes from it."""
    if checkpoint is None or (checkpoint == "auto" and not last.path.is_file()):
        return None
    path = last.path if checkpoint in RESUME else find_checkpoint(checkpoint, prefer=str(LAST))
    weights = read_weights(path)
    _load_weights(module, weights)
    if not weights.resumable:
        print_once(f"starting from the weights of {display_path(path)}")
        return None
    last.step = read_ckpt(path)["global_step"]
    print_once(f"resuming from {display_path(path)}, step {last.step}")
    module.accept_complete = not finished(path.parents[1])
    return path


def _load_weights(module: MNISTModule, weights: Weights) -> None:
    check_fit(weights, module.model.state_dict())
    module.model.load_state_dict(weights.state)


def _no_validation(settings: TrainSettings) -> str | None:
    """Return the setting that turns validation off; None if there is a validation."""
    off = {
        "data.validation_size=0": settings.data.validation_size == 0,
        "trainer.limit_val_batches=0": settings.trainer.limit_val_batches == 0 and not settings.trainer.overfit_batches,
    }
    return next((setting for setting, is_off in off.items() if is_off), None)


def _callbacks(settings: TrainSettings, folder: Path, classifies: bool, no_validation: str | None) -> list[Callback]:
    """Create the callback that stops at the first NaN or Inf, and those of the config."""
    kept = folder / "nonfinite"
    path = display_path(kept)
    options = f"{override('checkpoint', path)} {override('input', path / 'batch.safetensors')} mode=train"
    replay = f"{program('mnist_cls.forward')} {options}{model_file_option(settings)}"
    chosen = create_all("callbacks", settings.callbacks)
    check_monitors(chosen, classifies, no_validation)
    return [StopOnNonFinite(kept, replay), *chosen.values()]


def _data(settings: TrainSettings, module: MNISTModule, trainer: pl.Trainer) -> MNISTDataModule:
    """Create the DataModule, and set the number of batches per optimizer step in the Trainer."""
    if trainer.world_size > 1:
        # All processes start from the same weights, but must draw different dropout masks and distortions.
        pl.seed_everything((settings.seed + 7919 * trainer.global_rank) % 2**32, workers=True, verbose=False)
    batch_size, trainer.accumulate_grad_batches = _batch_size(settings, module, trainer)
    if settings.data.batch_size != "auto":  # "auto" is for machines with little memory
        keep_freed_memory()
    shuffle = settings.data.shuffle and not settings.trainer.overfit_batches
    arguments = settings.data.arguments() | {"batch_size": batch_size, "shuffle": shuffle}
    return MNISTDataModule(**arguments, seed=settings.seed)


def _batch_size(settings: TrainSettings, module: MNISTModule, trainer: pl.Trainer) -> tuple[int, int]:
    """Return the number of images per batch, and of batches per optimizer step."""
    size, effective = settings.data.batch_size, settings.data.effective_batch_size
    if isinstance(size, str):
        if trainer.world_size > 1:
            raise InputError("data.batch_size=auto: works with one process only; with several, set a number of images")
        effective = effective or BATCH_SIZE
        size = largest_batch(module, trainer.strategy.root_device, effective)
        print(f"batches of {size} images, {effective // size} per step, fit on {trainer.strategy.root_device}")
    return size, settings.trainer.accumulate_grad_batches if effective is None else effective // size


def _fit(trainer: pl.Trainer, module: MNISTModule, data: MNISTDataModule, resume: Path | None) -> None:
    # Otherwise the garbage collector scans all imported objects again and again: half of the overhead per step.
    frozen = gc.get_freeze_count()
    gc.freeze()
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except (RuntimeError, MemoryError) as error:
        requested = out_of_memory(error)
        if requested is None:
            raise
        raise InputError(
            f"out of memory on {trainer.strategy.root_device} in training with batches of {data.batch_size} images:"
            f" {requested} could not be allocated; data.batch_size=auto finds a size that fits, and"
            f" data.effective_batch_size={data.batch_size * trainer.accumulate_grad_batches} keeps the optimizer steps"
            " as they are"
        ) from error
    finally:
        if not frozen:
            gc.unfreeze()


def _is_out_of_time(trainer: Any) -> bool:
    """Return whether `trainer.max_time` has passed."""
    # The trainer is untyped, since Lightning does not declare its callbacks.
    remaining = [one.time_remaining() for one in trainer.callbacks if isinstance(one, Timer)]
    return any(seconds is not None and seconds <= 0 for seconds in remaining)


def _evaluate(
    settings: TrainSettings, trainer: pl.Trainer, module: MNISTModule, data: MNISTDataModule
) -> dict[str, float]:
    """Calibrate the network, then compute its metrics on the validation and test images."""
    held_out = data.val_data  # all validation images, in every process
    batches = BatchLoader(held_out, 500) if held_out is not None and len(held_out.labels) else None
    temperature = calibrate(module, settings.temperature, batches)
    metrics = {} if temperature is None else {"temperature": temperature}
    # A weight averaging callback would replace the weights to be evaluated with its last average.
    untyped: Any = trainer  # Lightning does not declare the attribute
    untyped.callbacks = [callback for callback in untyped.callbacks if not isinstance(callback, WeightAveraging)]
    wants_test = settings.trainer.limit_test_batches != 0
    if wants_test and not data.has_test_images:
        print_once("no test images; set data.test_dir=PATH to test")
    stages = [trainer.validate] + [trainer.test] * (wants_test and data.has_test_images)
    for evaluate in stages:
        evaluate(module, data, verbose=False)
        metrics |= {name: value.item() for name, value in trainer.callback_metrics.items() if "/" in name}
    return metrics
