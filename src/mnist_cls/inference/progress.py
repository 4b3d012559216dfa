"""A file that appears when it is whole, and until then can be taken up again where an earlier run has stopped."""

from typing import NamedTuple


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        inputs: how many have their rows.
        errors: how many of these are errors.
        undecided: of how many the network was not sure enough.
        labelled: how many have a label and no error.
        right: of how many of these it was told.
        names: a digest of the inputs' names.
    """

    inputs: int = 0
    errors: int = 0
    undecided: int = 0
    labelled: int = 0
    right: int = 0
    names: str = ""
