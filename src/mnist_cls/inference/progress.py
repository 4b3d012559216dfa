"""The progress of a prediction."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .rows import Rows


class Progress(NamedTuple):
    """The counts of a run so far.

    Attributes:
        inputs: inputs with a row.
        errors: how many of these rows are errors.
        undecided: how many predictions have a confidence below `min_confidence`.
        labelled: inputs with a label and no error.
        correct: how many of these were classified correctly.
        names: digest of all inputs' names.
    """

    inputs: int = 0
    errors: int = 0
    undecided: int = 0
    labelled: int = 0
    correct: int = 0
    names: str = ""

    def after(self, rows: "Rows", names: str) -> "Progress":
        """Count the rows of one more batch; `names` is the digest of all names, including the batch's."""
        labels, targets = rows.columns.get("label", []), rows.columns.get("target", [])
        labelled = [(label, target) for label, target in zip(labels, targets, strict=False) if target is not None]
        return Progress(
            self.inputs + len(rows.errors),
            self.errors + sum(error is not None for error in rows.errors),
            self.undecided + sum(value is True for value in rows.columns.get("undecided", [])),
            self.labelled + len(labelled),
            self.correct + sum(label == target for label, target in labelled),
            names,
        )
