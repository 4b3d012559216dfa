"""Export networks for other programs: ONNX, PyTorch's exported program, safetensors. Each file is checked first."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.build import build_all, computes_logits, load_model
from ..checkpoints.find import Checkpoint, each
from ..checkpoints.weights import KEY, Weights, read_weights, save_weights
from ..cli.settings import export_format
from ..data.datasets import load_dataset
from ..errors import InputError, first_line
from ..files import expand, whole_file
from ..images import CLASSES, MEAN, STD
from .onnx_file import WEIGHTS_DIGEST, Network, seal
from .whole_pass import DetectorPass, WholePass, exported_program, one_line_export_errors, onnx_model, whole_pass

# Written as `format_version`: the version of the names and meanings of inputs, outputs and metadata.
FORMAT_VERSION = 1

# The name of the metadata among the extra files of a .pt2.
METADATA_FILE = "metadata.json"

# Number of test images on which a file is compared with its network, and by how much probabilities may differ.
CHECKED, TOLERANCE = 1000, 1e-4

_EXAMPLES = {
    "onnx": """\
import numpy, onnxruntime
session = onnxruntime.InferenceSession({path!r}, providers=['CPUExecutionProvider'])
{outputs} = session.run(None, {{'images': numpy.zeros((1, 28, 28), numpy.uint8)}})""",
    "torch": """\
import torch
network = torch.export.load({path!r}).module()
{outputs} = network(torch.zeros(1, 28, 28, dtype=torch.uint8))""",
    "safetensors": """\
import mnist_cls
predictor = mnist_cls.Predictor({option}{path!r})
predictions = predictor("mnist:test")""",
}

_DESCRIBED = {
    "logits": "logits float32 (batch, 10), probabilities float32 (batch, 10), label int64 (batch)",
    "error": "error float32 (batch), is_digit bool (batch)",
}


class Exported(NamedTuple):
    """A file that was written, its size in bytes, and how much it differs from its network on `CHECKED` test images.

    Attributes:
        format: "onnx", "torch" or "safetensors".
        outputs: the names of its outputs, see `WholePass` and `DetectorPass`.
        difference: greatest absolute difference of a probability, or of an autoencoder's reconstruction error.
        differing: number of labels, or of `is_digit` values, that differ: 0, or the file would not have been written.
    """

    path: Path
    format: str
    size: int
    outputs: tuple[str, ...]
    difference: float
    differing: int

    @property
    def example(self) -> str:
        """Three lines of Python that run the file."""
        option = "" if "label" in self.outputs else "is_digit="
        return _EXAMPLES[self.format].format(path=str(self.path), outputs=", ".join(self.outputs), option=option)

    def __str__(self) -> str:
        outputs = _DESCRIBED[self.outputs[0]]
        if self.format == "safetensors":
            outputs = "labels, confidences, probabilities, is_digit of mnist_cls.Predictor"
        values, answers = ("probabilities", "labels") if "label" in self.outputs else ("errors", "answers")
        return (
            f"{self.path}: {self.format}, {self.size:,} bytes\n"
            f"inputs   images uint8 (batch, 28, 28), 0 to 255, bright digits on black\n"
            f"outputs  {outputs}\n"
            f"checked  on {CHECKED:,} test images: the {values} differ from the network's by at most"
            f" {self.difference:.1e}, {self.differing} {answers} differ"
        )


def export_model(output: str | Path, checkpoint: Checkpoint = None, format: str | None = None) -> Exported:
    """Write a network to a file that other programs can run.

    A `.onnx` and a `.pt2` hold the whole pass: `images`, uint8 (B, 28, 28) in MNIST's form (bright digits on black),
    to `logits` and `probabilities`, float32 (B, 10) each, and `label`, int64 (B,), 0 to 9, for any B. The outputs of an
    autoencoder are `error`, float32 (B,), and `is_digit`, bool (B,). A `.safetensors` holds the weights,
    for `load_model` and `Predictor`. Each carries the same metadata: `model`, the network's name; `mnist_cls`, JSON of
    its name, options and provenance; `checkpoint_sha256`; `classes`; `mean` and `std` of the normalization;
    `format_version`. For several networks, `model` and `checkpoint_sha256` are separated by commas, and `mnist_cls` is
    a list. A `.onnx` ends with an entry `content_sha256`, the digest of all bytes before it.

    `Predictor` uses a `.onnx` that lies beside the `.safetensors` it was made from, under the same name.

    The file is read back and compared with the network on 1,000 of MNIST's test images before it appears.

    Example::

        print(export_model("model.onnx", "accurate").example)

    Args:
        output: a `.onnx`, `.pt2` or `.safetensors` file. An existing one is replaced once the new one is checked.
        checkpoint: as `load_model` takes it. The probabilities of several are averaged; a `.safetensors` holds
            only one.
        format: "onnx", "torch" or "safetensors"; None: by the ending of `output`.

    Raises:
        InputError: If format and ending contradict each other; several checkpoints are given for a `.safetensors`; a
            checkpoint cannot be read, or its network computes no logits, is an autoencoder without a threshold, or
            cannot be exported; or the file's outputs differ from the network's.
        OSError: If the file cannot be written.
    """
    path = expand(output)
    kind = export_format(path, format)
    if path.is_dir():
        raise InputError(f"output={path}: is a folder; expected a file's name")
    weights = [read_weights(one) for one in each(checkpoint)]
    if kind == "safetensors" and len(weights) > 1:
        raise InputError(f"output={path}: a .safetensors holds one network, not {len(weights)}; use .onnx or .pt2")
    # Outputs of a .pt2 that require gradients could not be converted to NumPy arrays.
    network = build_all(weights).requires_grad_(False)
    whole = whole_pass(network)
    if isinstance(whole, DetectorPass) and bool(network.get_buffer("threshold").isnan()):
        raise InputError(f"{weights[0].path}: its threshold was never set; use the run's model.safetensors")
    if not isinstance(whole, DetectorPass) and not computes_logits(network):
        name = weights[0].model["name"]
        raise InputError(
            f"{weights[0].path}: {name} computes no logits (B, 10); only classifiers and autoencoders can be exported"
        )
    with whole_file(path) as temporary:
        _write(temporary, kind, network, weights)
        difference, differing = _compare(temporary, kind, whole)
        if not (difference <= TOLERANCE and differing == 0):  # not with NaN, either
            raise InputError(
                f"{path}: not written: the {kind} file differs from the network on {CHECKED:,} test images, in"
                f" {differing} labels, expected 0, and in the probabilities by up to {difference:.1e}, expected at"
                f" most {TOLERANCE:.0e}; try another format, or look at the network with mnist_cls.forward"
            )
        size = temporary.stat().st_size
    return Exported(path, kind, size, whole.outputs, difference, differing)


def _write(path: Path, kind: str, network: nn.Module, weights: Sequence[Weights]) -> None:
    described = [{"model": one.model, "provenance": one.provenance} for one in weights]
    metadata = {
        KEY: json.dumps(described if len(described) > 1 else described[0]),
        "format_version": str(FORMAT_VERSION),
        "model": ",".join(one.model["name"] for one in weights),
        WEIGHTS_DIGEST: ",".join(hashlib.sha256(one.path.read_bytes()).hexdigest() for one in weights),
        "classes": json.dumps([str(digit) for digit in range(CLASSES)]),
        "mean": str(MEAN),
        "std": str(STD),
    }
    if kind == "onnx":
        path.write_bytes(seal(onnx_model(network, metadata)))
    elif kind == "torch":
        path.write_bytes(_torch_model(network, metadata))
    else:
        save_weights(path, network, weights[0].model, weights[0].provenance, metadata)


def _torch_model(network: nn.Module, metadata: dict[str, str]) -> bytes:
    program = exported_program(network)
    # They would be pickled into the file, where nobody needs them.
    program.example_inputs = None
    file = io.BytesIO()
    with one_line_export_errors(network):
        torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(metadata)})
    return file.getvalue()


@torch.inference_mode()
def _compare(path: Path, kind: str, whole: WholePass) -> tuple[float, int]:
    """Return the greatest difference of a value between a file and its network, and how many answers differ."""
    images = load_dataset("mnist", "test").images[:CHECKED]
    *expected, expected_answers = whole(images)
    try:
        run = _open(path, kind, whole.outputs)
        # A batch of one image, too: the file must accept any batch size.
        batches = [run(images[:1]), run(images[1:])]
        *found, answers = (torch.cat(outputs) for outputs in zip(*batches, strict=True))
    except Exception as error:  # runtimes raise errors of their own
        raise InputError(f"not written: the {kind} file does not run: {first_line(error)}") from error
    if "logits" in whole.outputs:
        # Probabilities, not logits: the logits of confident networks are large, and so are their differences.
        found[0], expected[0] = found[0].softmax(1), expected[0].softmax(1)
    # With NaN the maximum is NaN.
    difference = torch.stack([(one - other).abs().max() for one, other in zip(found, expected, strict=True)]).max()
    return difference.item(), int((answers != expected_answers).sum())


def _open(path: Path, kind: str, outputs: Sequence[str]) -> Callable[[Tensor], Sequence[Tensor]]:
    """Return a function that runs the file: uint8 images (B, 28, 28) -> its outputs."""
    if kind == "onnx":
        network = Network(path.read_bytes())
        return lambda images: [torch.from_numpy(array) for array in network.run(outputs, images.numpy())]
    if kind == "torch":
        # torch.export.load can unpickle parts of a file, so it is called only here, on a file just written.
        program = torch.export.load(io.BytesIO(path.read_bytes()))
        return program.module()
    return whole_pass(load_model(path))
