"""The typed form of the configs: keys, types, ranges, and the defaults of what Python code can use without a config."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import InputError

# Export formats and their file extensions.
EXPORT_ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}

# Images per optimizer step, unless a config or an argument sets another number.
BATCH_SIZE: Final = 128

# Weights stay float32: checkpoints and prediction rely on it.
_PRECISIONS = ("auto", "32-true", "32", "16-mixed", "bf16-mixed")
_ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
_AUGMENTATIONS = ("rotation", "scale", "shear", "shift", "elastic", "brightness", "noise", "strong", "spoilt")


def _require(ok: bool, key: str, value: object, expected: str) -> None:
    if not ok:
        raise InputError(f"{key}={value}: expected {expected}")


def _one_of(choices: tuple[str | None, ...], key: str, value: object) -> None:
    null = ", or null" if None in choices else ""
    _require(value in choices, key, value, f"one of {', '.join(filter(None, choices))}{null}")


def _at_least_1(settings: object, *keys: str, prefix: str = "") -> None:
    for key in keys:
        value = getattr(settings, key)
        _require(value is None or value >= 1, prefix + key, value, "at least 1")


def _checkpoints(checkpoint: Any) -> str | list[str] | None:
    """Convert one or several checkpoints to strings, because Hydra parses a folder's name of digits as a number."""
    if checkpoint is None:
        return None
    several = checkpoint if isinstance(checkpoint, list) else [checkpoint]
    good = bool(several) and all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in several)
    _require(good, "checkpoint", checkpoint, "a path, a name, or several in brackets, separated by commas")
    return [str(one) for one in several] if isinstance(checkpoint, list) else str(checkpoint)


def export_format(output: str | Path, format: str | None = None) -> str:
    """Return the format of an exported file: `format`, or the one that the file's extension stands for.

    Raises:
        InputError: If the format or the extension is unknown, or they contradict each other.
    """
    _one_of((*EXPORT_ENDINGS, None), "format", format)
    wanted = {ending: name for name, ending in EXPORT_ENDINGS.items() if format in (None, name)}
    ending = Path(output).suffix.lower()
    reason = "" if format is None else f" for format={format}"
    _require(ending in wanted, "output", output, f"a name that ends in {', '.join(wanted)}{reason}")
    return wanted[ending]


@dataclass
class DataSettings:
    """`data`: arguments of `MNISTDataModule`, and how batches add up to an optimizer step.

    Attributes:
        batch_size: images per batch; "auto": as many as fit in memory, up to `effective_batch_size`.
        effective_batch_size: images per optimizer step; None: `batch_size`, or `BATCH_SIZE` if that is "auto".
    """

    name: str = "mnist"
    dir: str | None = None
    test_dir: str | None = None
    batch_size: int | str = BATCH_SIZE
    effective_batch_size: int | None = None
    shuffle: bool = True
    train_size: int | None = None
    validation_size: int | None = None
    folds: int | None = None
    fold: int | None = None
    augmentation: dict[str, float] | None = None
    drawn: float = 0.0

    def __post_init__(self) -> None:
        size, effective = self.batch_size, self.effective_batch_size
        good = size >= 1 if isinstance(size, int) else size == "auto"
        _require(good, "data.batch_size", size, "at least 1, or auto")
        unit = 1 if isinstance(size, str) else size
        good = effective is None or (effective >= 1 and effective % unit == 0)
        _require(good, "data.effective_batch_size", effective, f"a multiple of data.batch_size, {unit}")
        _at_least_1(self, "train_size", prefix="data.")
        _require(0 <= self.drawn < 1, "data.drawn", self.drawn, "0 or more, and less than 1")
        self._check_folds()
        for key in self.augmentation or {}:
            _require(key in _AUGMENTATIONS, f"data.augmentation.{key}", "...", f"one of {', '.join(_AUGMENTATIONS)}")

    def _check_folds(self) -> None:
        folds, fold, size = self.folds, self.fold, self.validation_size
        if folds is None:
            _require(fold is None, "data.fold", fold, "data.folds=N as well, the number of folds")
            return
        _require(folds >= 2, "data.folds", folds, "at least 2")
        good = fold is not None and 0 <= fold < folds
        _require(good, "data.fold", "null" if fold is None else fold, f"0 to {folds - 1}, the fold to validate on")
        _require(size is None, "data.validation_size", size, "null with data.folds, which holds out a fold instead")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `MNISTDataModule`."""
        return {key: value for key, value in vars(self).items() if key != "effective_batch_size"}


@dataclass
class TrainerSettings:
    """`trainer`: arguments of Lightning's `Trainer`, under Lightning's names."""

    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    max_epochs: int = 4
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: Any = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    limit_train_batches: float | int = 1.0
    limit_val_batches: float | int = 1.0
    limit_test_batches: float | int = 1.0
    overfit_batches: float | int = 0.0
    fast_dev_run: bool | int = False
    val_check_interval: float | int = 1.0
    check_val_every_n_epoch: int | None = 1
    log_every_n_steps: int = 20
    num_sanity_val_steps: int = 0
    detect_anomaly: bool = False
    deterministic: bool | str = False
    benchmark: bool | None = None
    sync_batchnorm: bool = False
    inference_mode: bool = True
    profiler: str | None = None
    enable_progress_bar: bool = True
    enable_model_summary: bool = False

    def __post_init__(self) -> None:
        counts = ("log_every_n_steps", "accumulate_grad_batches", "check_val_every_n_epoch", "min_epochs", "min_steps")
        _at_least_1(self, *counts, prefix="trainer.")
        steps, limit, clip = self.max_steps, self.limit_train_batches, self.gradient_clip_val
        epochs, endless = self.max_epochs, self.max_time is None and steps == -1
        good = epochs >= 1 or (epochs == -1 and not endless)
        _require(good, "trainer.max_epochs", epochs, "at least 1, or -1 with trainer.max_time or trainer.max_steps")
        good = self.min_epochs is None or epochs == -1 or self.min_epochs <= epochs
        _require(good, "trainer.min_epochs", self.min_epochs, f"at most trainer.max_epochs, {epochs}")
        _require(steps == -1 or steps >= 1, "trainer.max_steps", steps, "-1 (no limit) or at least 1")
        _require(limit > 0, "trainer.limit_train_batches", limit, "more than 0")
        _require(clip is None or clip > 0, "trainer.gradient_clip_val", clip, "more than 0, or null")
        good = self.devices == "auto" or isinstance(self.devices, (int, list))
        _require(good, "trainer.devices", self.devices, "auto, a number of devices, or a list of their indices")
        _one_of(_PRECISIONS, "trainer.precision", self.precision)
        _one_of(_ACCELERATORS, "trainer.accelerator", self.accelerator)
        _one_of(("simple", "advanced", "pytorch", None), "trainer.profiler", self.profiler)
        _one_of(("norm", "value", None), "trainer.gradient_clip_algorithm", self.gradient_clip_algorithm)
        good = self.deterministic in (True, False, "warn")
        _require(good, "trainer.deterministic", self.deterministic, "true, false or warn")


@dataclass
class TrainSettings:
    """`python -m mnist_cls.train`."""

    model: dict[str, Any]
    data: DataSettings
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    trainer: TrainerSettings
    callbacks: dict[str, Any] | None
    logger: dict[str, Any] | None
    seed: int
    label_smoothing: float
    temperature: float | int | str | None
    compile: str | None
    checkpoint: str | None
    save_every_seconds: float | None
    save_every_steps: int | None
    model_file: str | None
    output_dir: str

    def __post_init__(self) -> None:
        _require("name" in self.model, "model", self.model, "a mapping with the key name")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "0 to less than 1")
        good = self.temperature in (None, "auto") or (not isinstance(self.temperature, str) and self.temperature > 0)
        _require(good, "temperature", self.temperature, "auto, a number above 0, or null")
        _one_of(("default", "reduce-overhead", "max-autotune", None), "compile", self.compile)
        trainer = self.trainer
        good = self.scheduler is None or trainer.max_epochs != -1 or trainer.max_steps != -1
        _require(
            good, "trainer.max_epochs", -1, "at least 1, for the learning rate schedule; or set scheduler=constant"
        )
        seconds, steps = self.save_every_seconds, trainer.accumulate_grad_batches
        _require(seconds is None or seconds >= 0, "save_every_seconds", seconds, "0 or more, or null")
        _at_least_1(self, "save_every_steps")
        sized = self.data.effective_batch_size is not None or self.data.batch_size == "auto"
        other = "1 with data.batch_size=auto or data.effective_batch_size"
        _require(steps == 1 or not sized, "trainer.accumulate_grad_batches", steps, other)


@dataclass
class EvalSettings:
    """`python -m mnist_cls.eval`."""

    data: DataSettings
    trainer: TrainerSettings
    split: str
    early_exit: bool
    shifts: int
    report: bool
    checkpoint: Any
    model_file: str | None
    output_dir: str

    def __post_init__(self) -> None:
        _require(isinstance(self.data.batch_size, int), "data.batch_size", "auto", "a number; auto is for training")
        _one_of(("val", "test"), "split", self.split)
        _require(self.shifts >= 0, "shifts", self.shifts, "0 or more")
        self.checkpoint = _checkpoints(self.checkpoint)


@dataclass
class PredictSettings:
    """`python -m mnist_cls.predict`; `PredictOptions` checks the ranges of the fields that it shares."""

    input: str | None
    output: str | None
    checkpoint: Any
    early_exit: bool
    shifts: int
    min_confidence: float | None
    is_digit: bool | str
    model_file: str | None
    device: str
    batch_size: int | None
    engine: str
    preprocess: str
    split: bool
    save_preprocessed: str | None
    format: str | None
    resume: bool
    output_dir: str | None

    def __post_init__(self) -> None:
        _require(self.is_digit != "", "is_digit", self.is_digit, "true, false or an autoencoder's checkpoint")
        self.checkpoint = _checkpoints(self.checkpoint)


@dataclass
class ForwardSettings:
    """`python -m mnist_cls.forward`."""

    input: str
    checkpoint: str | None
    model_file: str | None
    network_mode: str
    early_exit: bool
    values: bool
    pictures: bool
    device: str
    seed: int
    output_dir: str
    model: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")
        _require(self.network_mode in ("train", "eval"), "mode", self.network_mode, "train or eval")


@dataclass
class ExportSettings:
    """`python -m mnist_cls.export`."""

    output: str | None
    checkpoint: Any
    format: str | None
    model_file: str | None
    output_dir: str | None

    def __post_init__(self) -> None:
        self.checkpoint = _checkpoints(self.checkpoint)
        if self.output:
            export_format(self.output, self.format)


@dataclass
class ServeSettings:
    """`python -m mnist_cls.serve`; `PredictOptions` checks the ranges of the fields that it shares."""

    host: str
    port: int
    workers: int
    hosts: list[str]
    checkpoint: Any
    model_file: str | None
    is_digit: bool | str
    min_confidence: float | None
    preprocess: str
    device: str
    engine: str
    output_dir: str | None

    def __post_init__(self) -> None:
        _require(0 <= self.port < 2**16, "port", self.port, "0 to 65535")
        _require(1 <= self.workers <= 64, "workers", self.workers, "1 to 64")
        _require(self.is_digit != "", "is_digit", self.is_digit, "true, false or an autoencoder's checkpoint")
        self.checkpoint = _checkpoints(self.checkpoint)


# By name of the command.
SETTINGS: dict[str, type] = {
    "train": TrainSettings,
    "eval": EvalSettings,
    "predict": PredictSettings,
    "forward": ForwardSettings,
    "export": ExportSettings,
    "serve": ServeSettings,
}
