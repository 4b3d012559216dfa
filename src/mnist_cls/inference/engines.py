"""What computes the forward pass of a prediction on the CPU besides PyTorch as it is: ONNX Runtime.

An extra, `pip install mnist-cls[onnx]`. How fast it is, and after how many images its preparation has paid:
docs/benchmarks.md.
"""

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..images import SIZE, normalize

ENGINES = ("auto", "eager", "onnx", "int8")

# Where ONNX Runtime is there, "auto" takes it for so many images and more: well over what repays its preparation
# (docs/benchmarks.md).
LONG = 150_000


class WholePass(nn.Module):
    """From uint8 images (B, 28, 28) to probabilities (B, 10), with a network in the middle."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, 28, 28) -> float32 (B, 10)."""
        logits: Tensor = self.network(normalize(images))
        return logits.softmax(1)


def onnx_is_there() -> bool:
    """Whether the extra `onnx` is installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


def onnx_engine(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Make ONNX Runtime compute what a network computes.

    Args:
        network: in evaluation mode, on the CPU; gives logits (B, 10).

    Returns:
        A function from uint8 images (B, 28, 28) on the CPU to probabilities float32 (B, 10).

    Raises:
        InputError: the extra is not installed, or PyTorch cannot export the network, or ONNX Runtime not load it.
    """
    if not onnx_is_there():
        raise InputError("engine=onnx: ONNX Runtime is not installed; pip install 'mnist-cls[onnx]'")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        _export(WholePass(network).eval(), path)
        return _session(path)


def _export(whole: nn.Module, path: Path) -> None:
    example = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("batch")},)
    # The exporter prints its progress and warns of deprecations in its own dependencies.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                whole,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["images"],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # a network of the user's own may be anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        name = type(whole.network).__name__
        raise InputError(f"engine=onnx: PyTorch cannot export {name}: {reason}; use engine=eager") from error


def _session(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime

        session = _open(onnxruntime, path)
    # Versions that do not fit together, or a library of the system that is missing, show in many ways.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"engine=onnx: ONNX Runtime cannot load the network: {reason}; use engine=eager") from error

    def run(images: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        except Exception as error:
            raise (MemoryError if "allocate" in str(error) else RuntimeError)(str(error)) from error

    return run


def _open(onnxruntime: Any, path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait would take the cores from whatever decodes the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
