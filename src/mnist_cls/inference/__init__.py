"""Prediction: from images of any kind to rows."""
