"""What is to be done with each input, by whatever process does it: one network, its options, and the rows it gives."""

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.find import DETECTOR, Checkpoint, each, find_checkpoint
from ..errors import InputError
from .decoding.batches import Chunk
from .predictor import Predictor
from .progress import Progress
from .rows import COLUMNS, READING_COLUMNS, Rows, prediction_rows, reading_rows
from .sources.blocks import Source


@dataclass(frozen=True)
class PredictOptions:
    """The options of a prediction that decide what its rows say, see `predict_files`.

    Raises:
        InputError: one of them is out of range, or two do not go together.
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

    def __post_init__(self) -> None:
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise InputError(f"min_confidence={self.min_confidence}: expected 0 to 1")
        if self.preprocess not in ("auto", "none"):
            raise InputError(f"preprocess={self.preprocess}: expected auto or none")
        if self.split and self.is_digit is not False:
            raise InputError("is_digit does not go with split=true; leave one of them out")

    def predictor(self) -> Predictor:
        """The network, loaded."""
        return Predictor(
            self.checkpoint, self.device, self.batch_size, self.early_exit, self.is_digit, self.engine, self.shifts
        )

    def further(self, source: Source) -> list[str]:
        """The columns that rows have after the usual ones."""
        asked = {"is_digit": self.is_digit is not False, "undecided": self.min_confidence is not None}
        return [name for name, wanted in {**asked, "target": source.labelled and not self.split}.items() if wanted]

    def columns(self, source: Source) -> list[str]:
        """All columns of the rows."""
        return [*(READING_COLUMNS if self.split else COLUMNS), *self.further(source)]

    def identity(self, source: Source) -> dict[str, Any]:
        """What must be the same in two runs for the rows of both to be those of one."""
        return {
            "input": source.identity,
            "weights": self._digest(),
            "version": importlib.metadata.version("mnist_cls"),
            **{"batch_size": self.batch_size, "early_exit": self.early_exit, "shifts": self.shifts},
            **{"min_confidence": self.min_confidence, "preprocess": self.preprocess, "split": self.split},
        }

    def _digest(self) -> str:
        """A digest of all files with weights."""
        files = [find_checkpoint(one) for one in each(self.checkpoint)]
        if self.is_digit is not False:
            files.append(find_checkpoint(DETECTOR if self.is_digit is True else self.is_digit))
        return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:16]

    def answer(self, predictor: Predictor, chunk: Chunk, labelled: bool) -> Rows:
        """The rows of a chunk, of a source that is labelled or not."""
        decoded = chunk.decoded
        predictions = predictor.predict(decoded.images, None if self.split else decoded.errors)
        if self.split:
            rows = reading_rows(chunk.names, predictions, decoded.counts, decoded.boxes, decoded.errors)
        else:
            further = {} if predictions.is_digit is None else {"is_digit": predictions.is_digit.tolist()}
            rows = prediction_rows(chunk.names, predictions, further)
        if self.min_confidence is not None:
            given = zip(rows.columns["confidence"], rows.errors, strict=True)
            least = self.min_confidence
            rows.columns["undecided"] = [None if error is not None else not sure >= least for sure, error in given]
        if labelled and not self.split:
            known = zip(chunk.targets or [], rows.errors, strict=True)
            rows.columns["target"] = [target if error is None else None for target, error in known]
        return rows


def progress_after(before: Progress, chunk: Chunk, rows: Rows) -> Progress:
    """How far a run is after a chunk."""
    labels, targets = rows.columns.get("label", []), rows.columns.get("target", [])
    known = [(label, target) for label, target in zip(labels, targets, strict=False) if target is not None]
    return Progress(
        before.inputs + len(chunk.names),
        before.errors + sum(error is not None for error in rows.errors),
        before.undecided + sum(value is True for value in rows.columns.get("undecided", [])),
        before.labelled + len(known),
        before.right + sum(label == target for label, target in known),
        chunk.names_digest,
    )
