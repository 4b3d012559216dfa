"""Callbacks: checkpoints, pictures and histograms for TensorBoard, a stop at the first NaN or Inf."""

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
