"""Train, evaluate and use MNIST digit classifiers."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from .checkpoints.build import load_model
    from .checkpoints.find import list_weights
    from .inference.predictions import Predictions
    from .inference.predictor import Predictor
    from .models.registry import create_model, list_models, register_model
    from .tracing.recorder import trace_forward
    from .training.datamodule import MNISTDataModule
    from .training.module import MNISTModule

__all__ = [
    "MNISTDataModule",
    "MNISTModule",
    "Predictions",
    "Predictor",
    "create_model",
    "list_models",
    "list_weights",
    "load_model",
    "register_model",
    "trace_forward",
]

_HOMES = {
    "MNISTDataModule": "training.datamodule",
    "MNISTModule": "training.module",
    "Predictions": "inference.predictions",
    "Predictor": "inference.predictor",
    "create_model": "models",
    "list_models": "models",
    "list_weights": "checkpoints.find",
    "load_model": "checkpoints.build",
    "register_model": "models",
    "trace_forward": "tracing.recorder",
}


def __getattr__(name: str) -> object:
    # Imported on first use: `python -m mnist_cls.train --help` must not wait for torch.
    if name == "__version__":
        from importlib.metadata import version

        return version("mnist-cls")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES, "__version__"]
