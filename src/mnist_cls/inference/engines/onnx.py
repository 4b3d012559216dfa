"""What computes the forward pass of a prediction on the CPU besides PyTorch as it is: ONNX Runtime.

An extra, `pip install mnist-cls[onnx]`. How fast it is, and after how many images its preparation has paid:
docs/benchmarks.md.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..whole_pass import _reason, onnx_model

ENGINES = ("auto", "eager", "onnx", "int8")


# Where ONNX Runtime is there, "auto" takes it for so many images and more: well over what repays its preparation
# (docs/benchmarks.md).
LONG = 150_000


def onnx_is_there() -> bool:
    """Whether the extra `onnx` is installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


def require_onnx(wanted: str) -> None:
    """Check that the extra `onnx` is installed.

    Args:
        wanted: what needs it, as the user has said it.

    Raises:
        InputError: it is not.
    """
    if not onnx_is_there():
        raise InputError(f"{wanted}: ONNX Runtime is not installed; pip install 'mnist-cls[onnx]'")


def onnx_engine(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Make ONNX Runtime compute what a network computes.

    Args:
        network: in evaluation mode, on the CPU; gives logits (B, 10).

    Returns:
        A function from uint8 images (B, 28, 28) on the CPU to probabilities float32 (B, 10).

    Raises:
        InputError: the extra is not installed, or PyTorch cannot export the network, or ONNX Runtime not load it.
    """
    require_onnx("engine=onnx")
    try:
        session = onnx_session(onnx_model(network))
    except InputError as error:
        raise InputError(f"engine=onnx: {error}; use engine=eager") from error

    def run(images: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(["probabilities"], {"images": images.numpy()})[0])
        except Exception as error:
            raise (MemoryError if "allocate" in str(error) else RuntimeError)(str(error)) from error

    return run


def onnx_session(content: bytes) -> Any:
    """Load the content of an ONNX file into ONNX Runtime, on the CPU, with as many threads as PyTorch has.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        InputError: ONNX Runtime cannot load it.
    """
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin while they wait would take the cores from whatever decodes the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    # Versions that do not fit together, or a library of the system that is missing, show in many ways.
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot load the network: {_reason(error)}") from error
