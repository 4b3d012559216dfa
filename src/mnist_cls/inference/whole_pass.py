"""The whole pass, from uint8 images to probabilities and labels, as one graph that other runtimes can execute."""

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
from ..errors import InputError, first_line
from ..images import SIZE

# The example input that exporters run a whole pass with, and the axis that can have any length.
_EXAMPLE = (torch.zeros(2, SIZE, SIZE, dtype=torch.uint8),)
_ANY_BATCH_SIZE = ({0: torch.export.Dim("batch")},)


class WholePass(nn.Module):
    """A network, from normalized images (B, 1, 28, 28) to logits (B, 10), with its normalization and softmax.

    Attributes:
        outputs: names of what it returns, in order; an ONNX file has the same names.
    """

    outputs: tuple[str, ...] = ("logits", "probabilities", "label")

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Uint8 (B, 28, 28) -> logits and probabilities, float32 (B, 10) each, and labels, int64 (B,)."""
        logits: Tensor = self.network(normalize(images))
        probabilities = logits.softmax(1)
        return logits, probabilities, probabilities.argmax(1)


class DetectorPass(WholePass):
    """An autoencoder that tells digits from other images, with its normalization and its threshold."""

    outputs = ("error", "is_digit")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Uint8 (B, 28, 28) -> errors of the reconstruction, float32 (B,), and whether each is a digit, bool (B,)."""
        network: Any = self.network
        error: Tensor = network.reconstruction_error(normalize(images))
        return error, error <= network.threshold


def whole_pass(network: nn.Module) -> WholePass:
    """Return the whole pass of a network: a `DetectorPass` for an autoencoder, a `WholePass` for any other."""
    return DetectorPass(network) if hasattr(network, "reconstruction_error") else WholePass(network)


def exported_program(network: nn.Module) -> ExportedProgram:
    """Export the whole pass of a network, in evaluation mode and on the CPU, for batches of any size.

    Raises:
        InputError: If PyTorch cannot export the network.
    """
    with one_line_export_errors(network):
        # strict=False, the default of newer versions of PyTorch, accepts more of Python.
        program = torch.export.export(
            whole_pass(network).eval(), _EXAMPLE, dynamic_shapes=_ANY_BATCH_SIZE, strict=False
        )
    for node in program.graph.nodes:
        # Exported files would reveal the paths of source files on this machine.
        node.meta.pop("stack_trace", None)
    return program


def onnx_model(network: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the whole pass of a network as the content of an ONNX file: `images` in, `WholePass.outputs` out.

    The network is in evaluation mode, on the CPU. The metadata become the file's `metadata_props`.

    Raises:
        InputError: If PyTorch cannot export the network.
    """
    program = exported_program(network)
    with one_line_export_errors(network):
        exported: Any = torch.onnx.export(
            program,
            _EXAMPLE,
            dynamo=True,
            dynamic_shapes=_ANY_BATCH_SIZE,  # again, for the dimension's name in the file
            input_names=["images"],
            output_names=list(whole_pass(network).outputs),
            verbose=False,
        )
        exported.model.metadata_props.update(metadata or {})
        content: bytes = exported.model_proto.SerializeToString()
    return content


@contextlib.contextmanager
def one_line_export_errors(network: nn.Module) -> Iterator[None]:
    """Silence PyTorch's exporters in the block, and turn their errors into an InputError of one line."""
    # The exporters print their progress, and warn about deprecations in their own dependencies.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # a user's own network may fail in any way
        raise InputError(f"PyTorch cannot export {type(network).__name__}: {first_line(error)}") from error
