"""Prediction: where images come from, the network that reads them, where the rows go; networks for other programs."""

from .exporting import Exported, export_model
from .pipeline import Summary, predict_files
from .predictor import Predictions, Predictor, find_device

__all__ = ["Exported", "Predictions", "Predictor", "Summary", "export_model", "find_device", "predict_files"]
