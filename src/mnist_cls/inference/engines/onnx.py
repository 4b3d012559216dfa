"""ONNX Runtime as an engine, on the CPU: an extra, `pip install mnist-cls[onnx]`, which needs no PyTorch to run.

docs/benchmarks.md says how fast it is, and after how many images its preparation has paid.
"""

import importlib.util
import os
from typing import Any

import numpy as np

from ...errors import InputError, first_line


def onnx_is_installed() -> bool:
    """Return whether the extra `onnx` is installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


def require_onnx(option: str) -> None:
    """Raise an InputError if the extra `onnx`, which the `option` of the user needs, is not installed."""
    if not onnx_is_installed():
        raise InputError(f"{option}: ONNX Runtime is not installed; pip install 'mnist-cls[onnx]'")


class OnnxEngine:
    """The content of an ONNX file in ONNX Runtime: `images`, uint8 (B, 28, 28), to `probabilities`, float32 (B, 10).

    Raises:
        InputError: If ONNX Runtime cannot load it.
    """

    name = "onnx"
    device = "cpu"

    def __init__(self, content: bytes, threads: int) -> None:
        # Otherwise version 1.29 and later report what runs to Microsoft, and keep a device's id in ~/.cache.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            # Threads that spin while they wait would take the cores from the processes that decode the next images.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self.session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        # Versions that do not match and missing system libraries raise many kinds of errors.
        except Exception as error:
            raise InputError(f"ONNX Runtime cannot load the network: {first_line(error)}") from error

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Uint8 (B, 28, 28) -> probabilities, float32 (B, 10)."""
        try:
            probabilities: np.ndarray = self.session.run(["probabilities"], {"images": images})[0]
        except Exception as error:
            if "allocate" in str(error):  # ONNX Runtime has no type of its own for it
                raise MemoryError(str(error)) from error
            raise
        return probabilities
