"""Callbacks: checkpoints, pictures and histograms for TensorBoard, a stop at the first NaN or Inf."""

from .inspection import TensorBoardInspection
from .pictures import TensorBoardPictures

__all__ = ["TensorBoardInspection", "TensorBoardPictures"]
