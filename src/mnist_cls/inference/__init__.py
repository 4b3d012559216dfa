"""Prediction: where images come from, the network that reads them, where the rows go."""

from .pipeline import Summary, predict_files
from .predictor import Predictions, Predictor, find_device

__all__ = ["Predictions", "Predictor", "Summary", "find_device", "predict_files"]
