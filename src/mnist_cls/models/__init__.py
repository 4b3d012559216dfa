"""The networks, one a file, each a plain `nn.Module`; and their registry."""

from .image_classifier import ImageClassifier
from .mlp import MLP
from .registry import create_model, list_models, register_model

__all__ = ["MLP", "ImageClassifier", "create_model", "list_models", "register_model"]
