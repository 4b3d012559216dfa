"""The networks, one a file, each a plain `nn.Module`; and their registry."""

from .autoencoder import Autoencoder
from .conditional import Conditional
from .image_classifier import ImageClassifier
from .mlp import MLP
from .registry import create_model, list_models, register_model
from .residual import Residual

__all__ = [
    "MLP",
    "Autoencoder",
    "Conditional",
    "ImageClassifier",
    "Residual",
    "create_model",
    "list_models",
    "register_model",
]
