"""What an engine is, and which one computes a prediction. PyTorch is imported only when an engine needs it."""

from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...errors import InputError
from ...images import SIZE
from ..options import PredictOptions
from .onnx import OnnxEngine, onnx_is_installed, require_onnx

if TYPE_CHECKING:
    from torch import nn

    from .eager import EagerEngine


class Engine(Protocol):
    """A classifier that is ready to run, on a `device` such as "cpu" or "cuda:0"."""

    name: str
    device: str

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute probabilities, float32 (B, 10), for images in MNIST's form, uint8 (B, 28, 28).

        Raises:
            MemoryError: If the batch does not fit into memory; a smaller one may.
        """


def load_engine(options: PredictOptions, network: "nn.Module | None" = None) -> Engine:
    """Load the checkpoint, or the given network, into the engine that `options` name; "auto" is PyTorch at first.

    Raises:
        InputError: If the network cannot be loaded, is no classifier, or the engine does not support what the options
            ask for.
    """
    from .eager import EagerEngine, load_network

    eager = EagerEngine(load_network(options, network), options.device, options.early_exit)
    if options.engine in ("auto", "eager"):
        return eager
    if eager.device != "cpu" or eager.options:
        conflict = f"device={eager.device}" if eager.device != "cpu" else "early_exit=true"
        raise InputError(f"engine={options.engine} does not support {conflict}; use engine=eager")
    eager(np.zeros((1, SIZE, SIZE), np.uint8))  # says so if the network is no classifier
    if options.engine == "onnx":
        return _onnx_engine(eager)
    from .int8 import calibration_images, int8_network

    images = calibration_images(options.checkpoint if network is None else None)
    return EagerEngine(int8_network(eager.network, images), name="int8")


def faster_engine(engine: Engine) -> Engine:
    """Return the fastest engine for very many images: ONNX Runtime if it can run the network, else `engine` itself."""
    from .eager import EagerEngine

    if not isinstance(engine, EagerEngine) or engine.device != "cpu" or engine.options or not onnx_is_installed():
        return engine
    try:
        return _onnx_engine(engine)
    except InputError:  # the network cannot be exported, or not be loaded
        return engine


def _onnx_engine(eager: "EagerEngine") -> Engine:
    import torch

    from ..whole_pass import onnx_model

    require_onnx("engine=onnx")
    try:
        return OnnxEngine(onnx_model(eager.network), torch.get_num_threads())
    except InputError as error:
        raise InputError(f"engine=onnx: {error}; use engine=eager") from error
