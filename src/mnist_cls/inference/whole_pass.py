"""What computes the forward pass of a prediction on the CPU besides PyTorch as it is: ONNX Runtime.

An extra, `pip install mnist-cls[onnx]`. How fast it is, and after how many images its preparation has paid:
docs/benchmarks.md.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..data.normalization import normalize
from ..errors import InputError
from ..images import SIZE

# What a `WholePass` gives, in its order, and what an ONNX file calls it.
OUTPUTS = ("logits", "probabilities", "label")


class WholePass(nn.Module):
    """From uint8 images to logits, probabilities and labels, with a network in the middle.

    Args:
        network: gives logits (B, 10) for normalized images (B, 1, 28, 28).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Uint8 (B, 28, 28) -> logits and probabilities, float32 (B, 10) each, and labels, int64 (B,)."""
        logits: Tensor = self.network(normalize(images))
        probabilities = logits.softmax(1)
        return logits, probabilities, probabilities.argmax(1)


def exported_program(network: nn.Module) -> ExportedProgram:
    """The `WholePass` of a network as one graph, for batches of any size.

    Args:
        network: in evaluation mode, on the CPU; gives logits (B, 10).

    Raises:
        InputError: PyTorch cannot export the network.
    """
    example = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    with quiet_export(network):
        whole = WholePass(network).eval()
        shapes = ({0: torch.export.Dim("batch")},)
        # Not strict, as newer versions of PyTorch have it by default: it takes more of what Python can say.
        program = torch.export.export(whole, (example,), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        # Files made of the program would tell whoever gets them where on this machine the code lies.
        node.meta.pop("stack_trace", None)
    return program


def onnx_model(network: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """The `WholePass` of a network as the content of an ONNX file: `images` in, `OUTPUTS` out.

    Args:
        network: in evaluation mode, on the CPU; gives logits (B, 10).
        metadata: what the file's `metadata_props` shall hold.

    Raises:
        InputError: PyTorch cannot export the network.
    """
    program = exported_program(network)
    shapes = ({0: torch.export.Dim("batch")},)  # once more: for the name of the dimension in the file
    with quiet_export(network):
        exported: Any = torch.onnx.export(
            program,
            (torch.zeros(2, SIZE, SIZE, dtype=torch.uint8),),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["images"],
            output_names=list(OUTPUTS),
            verbose=False,
        )
        exported.model.metadata_props.update(metadata or {})
        content: bytes = exported.model_proto.SerializeToString()
    return content


@contextlib.contextmanager
def quiet_export(network: nn.Module) -> Iterator[None]:
    """Silence PyTorch's exporters, and say in one line why they cannot export a network.

    Raises:
        InputError: the block has failed.
    """
    # They print their progress and warn of deprecations in their own dependencies.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # a network of the user's own may be anything
        raise InputError(f"PyTorch cannot export {type(network).__name__}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
