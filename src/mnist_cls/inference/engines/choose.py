"""The interface of an engine, and the choice of one. PyTorch is imported only when an engine needs it."""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...checkpoints.find import DETECTOR, each, find_checkpoint
from ...errors import InputError
from ...images import SIZE
from ..onnx_file import Network, onnx_beside, read_beside
from ..options import PredictOptions
from .onnx import OnnxDetector, OnnxEngine

if TYPE_CHECKING:
    from torch import nn

    from .eager import EagerEngine

# A finished run has this file in its folder.
_FINISHED = "metrics.json"


class Engine(Protocol):
    """A classifier that is ready to run, on a `device` such as "cpu" or "cuda:0"."""

    name: str
    device: str

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute probabilities, float32 (B, 10), for images in MNIST's form, uint8 (B, 28, 28).

        Raises:
            MemoryError: If the batch does not fit into memory; a smaller one might.
        """


def load_engine(options: PredictOptions, network: "nn.Module | None" = None) -> Engine:
    """Load the checkpoint, or the given network, into the engine that `options` name.

    "auto" is PyTorch if there is a GPU; else ONNX Runtime for weights with an ONNX file, and PyTorch for others.

    Raises:
        InputError: If the network cannot be loaded, is no classifier, or the engine does not support what the options
            ask for.
    """
    if network is None and not options.early_exit and _prefers_onnx(options):
        networks = _onnx_networks(options)
        if networks:
            return OnnxEngine(networks, options.shifts)
    from .eager import EagerEngine, load_network

    eager = EagerEngine(load_network(options, network), options.device, options.early_exit)
    if options.engine in ("auto", "eager"):
        return eager
    if eager.device != "cpu" or eager.options:
        conflict = f"device={eager.device}" if eager.device != "cpu" else "early_exit=true"
        raise InputError(f"engine={options.engine} does not support {conflict}; use engine=eager")
    eager(np.zeros((1, SIZE, SIZE), np.uint8))  # raises an InputError if the network is no classifier
    if options.engine == "onnx":
        return _exported(eager)
    from .int8 import calibration_images, int8_network

    images = calibration_images(options.checkpoint if network is None else None)
    return EagerEngine(int8_network(eager.network, images), name="int8")


def load_detector(options: PredictOptions) -> Callable[[np.ndarray], np.ndarray]:
    """Load the autoencoder that `options` name, as `load_engine` does: uint8 (B, 28, 28) -> is_digit, bool (B,)."""
    checkpoint = find_checkpoint(DETECTOR if options.is_digit is True else str(options.is_digit), key="is_digit")
    if _prefers_onnx(options):
        network = _onnx_network(checkpoint)
        if network is not None and "is_digit" in network.outputs:
            return OnnxDetector(network)
    from .eager import EagerDetector

    return EagerDetector(checkpoint, options.device)


def _prefers_onnx(options: PredictOptions) -> bool:
    """Return whether ONNX Runtime should run the networks that have an ONNX file."""
    if options.engine not in ("auto", "onnx"):
        return False
    return options.device == "cpu" or (options.device == "auto" and not _has_gpu())


def _onnx_networks(options: PredictOptions) -> Sequence[Network]:
    """Load the ONNX files of all checkpoints; return an empty list if one of them needs PyTorch."""
    if options.model_file is not None:
        return []
    networks = [_onnx_network(find_checkpoint(one)) for one in each(options.checkpoint)]
    found = [network for network in networks if network is not None and "probabilities" in network.outputs]
    return found if len(found) == len(networks) else []


def _onnx_network(weights: Path) -> Network | None:
    """Load the ONNX file of a checkpoint, or return None if it has none. A finished run gets one here."""
    network = read_beside(weights)
    path = onnx_beside(weights)
    if network is None and weights.suffix == ".safetensors" and (weights.parent / _FINISHED).is_file():
        from ..export import export_model

        # If the network cannot be exported, or the folder is read-only, PyTorch is used as for other checkpoints.
        with contextlib.suppress(InputError, OSError):
            export_model(path, weights)
            print(f"created {path}: predictions with these weights need no PyTorch from now on", file=sys.stderr)
            network = read_beside(weights)
    return network


def _exported(eager: "EagerEngine") -> Engine:
    from ..whole_pass import onnx_model

    try:
        return OnnxEngine([Network(onnx_model(eager.network))])
    except InputError as error:
        raise InputError(f"engine=onnx: {error}; use engine=eager") from error


def _has_gpu() -> bool:
    """Return whether there is a GPU that PyTorch can use, without importing PyTorch where there is none."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int()
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value:
            import torch

            return torch.cuda.is_available()
    return False
