"""What happens beside the training: pictures for TensorBoard, and an orderly end to one that goes astray."""

from .finite import StopOnNonFinite
from .inspection import TensorBoardInspection
from .interrupt import StopOnInterrupt
from .outputs import KeepOutputs
from .pictures import TensorBoardPictures

__all__ = ["KeepOutputs", "StopOnInterrupt", "StopOnNonFinite", "TensorBoardInspection", "TensorBoardPictures"]
