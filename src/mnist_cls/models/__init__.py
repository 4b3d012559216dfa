"""The networks, each a plain `nn.Module` in a file of its own, and their registry."""

from .accurate import Accurate
from .autoencoder import Autoencoder
from .average import Average
from .conditional import Conditional
from .fast import Fast
from .image_classifier import ImageClassifier
from .mlp import MLP
from .registry import create_model, list_models, register_model
from .residual import Residual

__all__ = [
    "MLP",
    "Accurate",
    "Autoencoder",
    "Average",
    "Conditional",
    "Fast",
    "ImageClassifier",
    "Residual",
    "create_model",
    "list_models",
    "register_model",
]
