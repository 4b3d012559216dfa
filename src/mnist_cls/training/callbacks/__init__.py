"""What happens beside the training: checkpoints, pictures for TensorBoard, an orderly end to one that goes astray."""

from .finite import StopOnNonFinite
from .inspection import TensorBoardInspection
from .outputs import KeepOutputs
from .pictures import TensorBoardPictures
from .saving import BestCheckpoint, LastCheckpoint

__all__ = [
    "BestCheckpoint",
    "KeepOutputs",
    "LastCheckpoint",
    "StopOnNonFinite",
    "TensorBoardInspection",
    "TensorBoardPictures",
]
