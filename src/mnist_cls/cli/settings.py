"""The typed shape of the configs: which keys there are, of which type and in which range."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError


def _require(ok: bool, key: str, value: object, expected: str) -> None:
    if not ok:
        raise InputError(f"{key}={value}: expected {expected}")


def _checkpoints(checkpoint: Any) -> str | list[str] | None:
    """One checkpoint or several; on the command line a folder's name may look like a number."""
    several = checkpoint if isinstance(checkpoint, list) else [checkpoint]
    good = bool(several) and all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in several)
    expected = "a path, a name, or several in brackets, separated by commas"
    _require(checkpoint is None or good, "checkpoint", checkpoint, expected)
    return (
        [str(one) for one in several]
        if isinstance(checkpoint, list)
        else None
        if checkpoint is None
        else str(checkpoint)
    )


# The formats of exported files, and how such a file's name ends.
EXPORT_ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


def export_format(output: str | Path, format: str | None = None) -> str:
    """The format that a file is to be exported in, a key of `EXPORT_ENDINGS`.

    Args:
        output: the file's name.
        format: what the user says it is; None: the ending tells.

    Raises:
        InputError: there is no such format or ending, or they contradict each other.
    """
    _require(format in (None, *EXPORT_ENDINGS), "format", format, f"one of {', '.join(EXPORT_ENDINGS)}, or null")
    ending = Path(output).suffix.lower()
    wanted = [ending for name, ending in EXPORT_ENDINGS.items() if format in (None, name)]
    asked = "" if format is None else f" for format={format}"
    _require(ending in wanted, "output", output, f"a name that ends in {', '.join(wanted)}{asked}")
    return next(name for name, its_ending in EXPORT_ENDINGS.items() if its_ending == ending)


# Images for a step of the optimizer when `data.batch_size=auto` is asked for no other number.
STEP_SIZE_OF_AUTO = 128


_DEVICES = "auto, a number of devices, or a list of their numbers"


@dataclass
class DataSettings:
    """`data`: the arguments of `MNISTDataModule`, see there; and how batches add up to a step of the optimizer.

    `batch_size` "auto" is the largest that fits into memory, up to `effective_batch_size`, whose default is then
    `STEP_SIZE_OF_AUTO`.
    """

    name: str = "mnist"
    dir: str | None = None
    batch_size: int | str = 128
    effective_batch_size: int | None = None
    shuffle: bool = True
    train_size: int | None = None
    validation_size: int | None = None
    augmentation: dict[str, float] | None = None

    def __post_init__(self) -> None:
        size = self.batch_size
        good = size == "auto" or (isinstance(size, int) and size >= 1)
        _require(good, "data.batch_size", size, "at least 1, or auto")
        effective, size = self.effective_batch_size, 1 if isinstance(size, str) else size
        multiple = f"a multiple of data.batch_size, {size}"
        good = effective is None or (effective >= 1 and effective % size == 0)
        _require(good, "data.effective_batch_size", effective, multiple)
        _require(self.train_size is None or self.train_size >= 1, "data.train_size", self.train_size, "at least 1")
        for key in self.augmentation or {}:
            known = ("rotation", "scale", "shear", "shift", "elastic", "brightness", "noise")
            _require(key in known, f"data.augmentation.{key}", "...", f"one of {', '.join(known)}")

    def arguments(self) -> dict[str, Any]:
        """What `MNISTDataModule` takes of it."""
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
    max_steps: int = -1
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    limit_train_batches: float | int = 1.0
    limit_val_batches: float | int = 1.0
    limit_test_batches: float | int = 1.0
    val_check_interval: float | int = 1.0
    check_val_every_n_epoch: int = 1
    log_every_n_steps: int = 20
    num_sanity_val_steps: int = 0
    detect_anomaly: bool = False
    deterministic: bool = False
    profiler: str | None = None
    enable_progress_bar: bool = True

    def __post_init__(self) -> None:
        _require(self.max_epochs >= 1, "trainer.max_epochs", self.max_epochs, "at least 1")
        steps = self.max_steps
        _require(steps == -1 or steps >= 1, "trainer.max_steps", steps, "-1 (no limit) or at least 1")
        limit = self.limit_train_batches
        _require(limit > 0, "trainer.limit_train_batches", limit, "more than 0")
        _require(self.log_every_n_steps >= 1, "trainer.log_every_n_steps", self.log_every_n_steps, "at least 1")
        steps = self.accumulate_grad_batches
        _require(steps >= 1, "trainer.accumulate_grad_batches", steps, "at least 1")
        _require(
            self.devices == "auto" or isinstance(self.devices, (int, list)), "trainer.devices", self.devices, _DEVICES
        )
        clip = self.gradient_clip_val
        _require(clip is None or clip > 0, "trainer.gradient_clip_val", clip, "more than 0, or null")
        # The network's own numbers stay float32: checkpoints and prediction rely on it.
        precisions = ("32-true", "32", "16-mixed", "bf16-mixed")
        _require(self.precision in precisions, "trainer.precision", self.precision, f"one of {', '.join(precisions)}")
        kinds = ("auto", "cpu", "cuda", "gpu", "mps")
        _require(self.accelerator in kinds, "trainer.accelerator", self.accelerator, f"one of {', '.join(kinds)}")
        profilers = (None, "simple", "advanced", "pytorch")
        _require(self.profiler in profilers, "trainer.profiler", self.profiler, "null, simple, advanced or pytorch")


@dataclass
class TrainSettings:
    """`python -m mnist_cls.train`."""

    model: dict[str, Any]
    data: DataSettings
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    trainer: TrainerSettings
    callbacks: dict[str, Any] | None
    tensorboard: bool
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
        _require("name" in self.model, "model", self.model, "a name= among its keys")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")
        share = self.label_smoothing
        _require(0 <= share < 1, "label_smoothing", share, "0 to less than 1")
        heat = self.temperature
        good = heat in (None, "auto") or (not isinstance(heat, str) and heat > 0)
        _require(good, "temperature", heat, "auto, a number above 0, or null")
        ways = (None, "default", "reduce-overhead", "max-autotune", "cuda_graph")
        _require(self.compile in ways, "compile", self.compile, f"null, {', '.join(filter(None, ways))}")
        seconds, steps = self.save_every_seconds, self.save_every_steps
        _require(seconds is None or seconds >= 0, "save_every_seconds", seconds, "0 or more, or null")
        _require(steps is None or steps >= 1, "save_every_steps", steps, "at least 1, or null")
        steps = self.trainer.accumulate_grad_batches
        sized = self.data.effective_batch_size is not None or self.data.batch_size == "auto"
        other = "1 beside data.batch_size=auto or a data.effective_batch_size"
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
        _require(self.split in ("val", "test"), "split", self.split, "val or test")
        self.checkpoint = _checkpoints(self.checkpoint)
        _require(self.shifts >= 0, "shifts", self.shifts, "0 or more")


@dataclass
class PredictSettings:
    """`python -m mnist_cls.predict`."""

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
    resume: bool
    output_dir: str

    def __post_init__(self) -> None:
        size = self.batch_size
        _require(size is None or size >= 1, "batch_size", size, "at least 1, or null")
        least = self.min_confidence
        _require(least is None or 0 <= least <= 1, "min_confidence", least, "0 to 1, or null")
        _require(self.preprocess in ("auto", "none"), "preprocess", self.preprocess, "auto or none")
        self.checkpoint = _checkpoints(self.checkpoint)
        _require(self.shifts >= 0, "shifts", self.shifts, "0 or more")
        _require(self.is_digit != "", "is_digit", self.is_digit, "true, false or an autoencoder's checkpoint")


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
    output_dir: str

    def __post_init__(self) -> None:
        self.checkpoint = _checkpoints(self.checkpoint)
        if self.output:
            export_format(self.output, self.format)


# By the name of the command.
SETTINGS: dict[str, type] = {
    "train": TrainSettings,
    "eval": EvalSettings,
    "predict": PredictSettings,
    "forward": ForwardSettings,
    "export": ExportSettings,
}
