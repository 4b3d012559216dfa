"""What happens beside the training: pictures for TensorBoard, and a checkpoint when somebody presses Ctrl-C."""

from .interrupt import StopOnInterrupt
from .pictures import TensorBoardPictures

__all__ = ["StopOnInterrupt", "TensorBoardPictures"]
