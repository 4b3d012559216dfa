"""What computes the forward pass of a prediction on the CPU besides PyTorch itself: ONNX Runtime, in fp32 or int8.

An extra, `pip install mnist-cls[onnx]`. How fast each is, and after how many images its preparation has paid:
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
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..data.datasets import load_dataset
from ..errors import InputError
from ..images import SIZE, normalize

Engine = Literal["auto", "eager", "onnx", "int8"]
ENGINES: tuple[str, ...] = get_args(Engine)

# Where ONNX Runtime is there, "auto" takes it for so many images and more. Its preparation, 5 to 8 s, is repaid by some
# 25 microseconds an image (scripts/benchmark.py engines).
LONG = 300_000

# How many training images tell int8 the range of each layer's values, and of how many the label must not change.
_CALIBRATION = 1000
_SAME_LABELS = 0.998


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


def onnx_engine(network: nn.Module, engine: str) -> Callable[[Tensor], Tensor]:
    """Make ONNX Runtime compute what a network computes.

    Args:
        network: in evaluation mode, on the CPU; gives logits (B, 10).
        engine: "onnx" for float32, "int8" for weights and activations of 8 bits.

    Returns:
        A function from uint8 images (B, 28, 28) on the CPU to probabilities float32 (B, 10).

    Raises:
        InputError: the extra is not installed, PyTorch cannot export the network, or int8 changes its answers.
    """
    if not onnx_is_there():
        raise InputError(f"engine={engine}: ONNX Runtime is not installed; pip install 'mnist-cls[onnx]'")
    whole = WholePass(network).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        _export(whole, path, engine)
        if engine == "onnx":
            return _session(path)
        images = load_dataset("mnist", "train").images[:_CALIBRATION]
        _quantize(path, images)
        run = _session(path)
    with torch.inference_mode():
        same = (run(images).argmax(1) == whole(images).argmax(1)).float().mean().item()
    if same < _SAME_LABELS:
        raise InputError(
            f"engine=int8: {type(network).__name__} loses too much in 8 bits: {same:.1%} of {_CALIBRATION} training"
            f" images keep their label, expected {_SAME_LABELS:.1%}; use engine=onnx"
        )
    return run


def _export(whole: nn.Module, path: Path, engine: str) -> None:
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
        raise InputError(f"engine={engine}: PyTorch cannot export {name}: {reason}; use engine=eager") from error


def _session(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait would take the cores from whatever decodes the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _quantize(path: Path, images: Tensor) -> None:
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(torch.split(images, 100))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    options: dict[str, Any] = {"per_channel": True, "weight_type": quantization.QuantType.QInt8}
    logging.disable(logging.WARNING)  # it gives advice about preprocessing, to the root logger
    try:
        quantization.quantize_static(path, path, Images(), **options)
    finally:
        logging.disable(logging.NOTSET)
