"""The options of a prediction and their defaults."""

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.find import DETECTOR, Checkpoint, each, find_checkpoint
from ..errors import InputError

ENGINES = ("auto", "eager", "onnx", "int8")

# Options that change rows, besides the checkpoints.
_CHANGE_ROWS = ("batch_size", "early_exit", "shifts", "min_confidence", "preprocess", "split")


@dataclass(frozen=True)
class PredictOptions:
    """How inputs are prepared and predicted. `Predictor` describes the options that are not listed here.

    Args:
        is_digit: see `Predictor`; adds a column `is_digit`.
        min_confidence: add a column `undecided` that flags predictions whose confidence is below this threshold,
            0 to 1.
        preprocess: "auto" converts images to MNIST's form, "none" takes 28x28 images as they are, see `prepare`.
        split: whether images show rows of digits; the output then has the columns `READING_COLUMNS`.

    Raises:
        InputError: If an option is out of range, or two exclude each other.
    """

    checkpoint: Checkpoint = None
    device: str = "auto"
    batch_size: int | None = None
    early_exit: bool = False
    is_digit: bool | str | Path = False
    engine: str = "auto"
    shifts: int = 0
    min_confidence: float | None = None
    preprocess: str = "auto"
    split: bool = False
    model_file: str | Path | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch_size={self.batch_size}: expected at least 1")
        if self.engine not in ENGINES:
            raise InputError(f"engine={self.engine}: expected one of {', '.join(ENGINES)}")
        if self.shifts < 0:
            raise InputError(f"shifts={self.shifts}: expected 0 or more")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise InputError(f"min_confidence={self.min_confidence}: expected 0 to 1")
        if self.preprocess not in ("auto", "none"):
            raise InputError(f"preprocess={self.preprocess}: expected auto or none")
        if self.split and self.is_digit is not False:
            raise InputError("is_digit and split=true exclude each other; leave one of them out")

    def identity(self, source: str) -> dict[str, Any]:
        """Return what must not change between an interrupted run and the one that resumes it, as plain values.

        The argument is the identity of the input, see `Source`.
        """
        files = [find_checkpoint(one) for one in each(self.checkpoint)]
        if self.is_digit is not False:
            files.append(find_checkpoint(DETECTOR if self.is_digit is True else self.is_digit, key="is_digit"))
        digests = [hashlib.sha256(file.read_bytes()).digest() for file in files]
        return {
            "input": source,
            "weights": hashlib.sha256(b"".join(digests)).hexdigest()[:16],
            "version": importlib.metadata.version("mnist_cls"),
            **{name: getattr(self, name) for name in _CHANGE_ROWS},
        }
