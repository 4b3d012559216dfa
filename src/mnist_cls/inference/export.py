"""A network as a file for other programs: ONNX, PyTorch's exported program, safetensors; checked before it appears."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.build import build_all, load_model
from ..checkpoints.find import Checkpoint, each
from ..checkpoints.weights import KEY, Weights, read_weights, save_weights
from ..cli.settings import export_format
from ..data.datasets import load_dataset
from ..errors import InputError
from ..files import expand, whole_file
from ..images import CLASSES, MEAN, SIZE, STD
from .engines.onnx import onnx_session, require_onnx
from .whole_pass import OUTPUTS, WholePass, exported_program, onnx_model, quiet_export

# What stands in `format_version`: it goes up when inputs, outputs or metadata change their names or their meaning.
FORMAT_VERSION = 1


# How the metadata are called among the extra files of a .pt2.
METADATA_FILE = "metadata.json"


# On so many of MNIST's test images a file is compared with its network, and so far the probabilities may differ.
CHECKED, TOLERANCE = 1000, 1e-4


_EXAMPLES = {
    "onnx": """\
import numpy, onnxruntime
session = onnxruntime.InferenceSession({path!r}, providers=['CPUExecutionProvider'])
logits, probabilities, label = session.run(None, {{'images': numpy.zeros((1, 28, 28), numpy.uint8)}})""",
    "torch": """\
import torch
network = torch.export.load({path!r}).module()
logits, probabilities, label = network(torch.zeros(1, 28, 28, dtype=torch.uint8))""",
    "safetensors": """\
import mnist_cls, numpy
predictor = mnist_cls.Predictor({path!r})
predictions = predictor(numpy.zeros((1, 28, 28), numpy.uint8))""",
}


class Exported(NamedTuple):
    """A file that was written, and how far it was found to be from its network.

    Attributes:
        path: the file.
        format: "onnx", "torch" or "safetensors".
        size: in bytes.
        difference: the greatest of the probabilities, on `CHECKED` test images.
        differing: how many of their labels are not the network's: 0, or there would be no file.
    """

    path: Path
    format: str
    size: int
    difference: float
    differing: int

    @property
    def example(self) -> str:
        """Three lines of Python that run the file, from where `path` leads to it."""
        return _EXAMPLES[self.format].format(path=str(self.path))

    def __str__(self) -> str:
        gives = "labels, confidences, probabilities of mnist_cls.Predictor"
        if self.format != "safetensors":
            gives = "logits float32 (batch, 10), probabilities float32 (batch, 10), label int64 (batch)"
        return (
            f"{self.path}: {self.format}, {self.size:,} bytes\n"
            f"inputs   images uint8 (batch, 28, 28), 0 to 255, bright digits on black\n"
            f"outputs  {gives}\n"
            f"checked  on {CHECKED:,} test images: the probabilities differ from the network's by at most"
            f" {self.difference:.1e}, {self.differing} labels differ"
        )


def export_model(output: str | Path, checkpoint: Checkpoint = None, format: str | None = None) -> Exported:
    """Write a network into a file that other programs run.

    A `.onnx` and a `.pt2` hold the whole pass: `images`, uint8 (B, 28, 28) in MNIST's form (bright digits on black),
    to `logits` and `probabilities`, float32 (B, 10) each, and `label`, int64 (B,), 0 to 9; B may be any number. A
    `.safetensors` holds the weights, for `load_model` and `Predictor`. Each carries the same metadata: `model`, the
    network's name; `mnist_cls`, JSON of its name, options and provenance; `checkpoint_sha256`; `classes`; `mean` and
    `std` of the normalization; `format_version`. Of several networks, `model` and `checkpoint_sha256` are separated
    by commas, and `mnist_cls` is a list.

    The file is read back and compared with the network on 1,000 of MNIST's test images before it appears.

    Example::

        print(export_model("model.onnx", "accurate").example)

    Args:
        output: a `.onnx`, `.pt2` or `.safetensors` file; what stood there stays until the new one is checked.
        checkpoint: as `load_model` takes it; of several the file gives the mean of the probabilities, but there is no
            `.safetensors` of several.
        format: "onnx", "torch" or "safetensors"; None: the ending of `output` tells.

    Returns:
        What was written, and how far it is from the network.

    Raises:
        InputError: format and ending do not fit; a checkpoint cannot be read, or its network gives no logits or cannot
            be exported; the extra `onnx` is wanted and not installed; what was written differs from the network.
        OSError: the file cannot be written.
    """
    path = expand(output)
    kind = export_format(path, format)
    if path.is_dir():
        raise InputError(f"output={path}: is a folder; expected a file's name")
    if kind == "onnx":
        require_onnx(f"output={path}")
    weights = [read_weights(one) for one in each(checkpoint)]
    if kind == "safetensors" and len(weights) > 1:
        raise InputError(f"output={path}: a .safetensors holds one network, not {len(weights)}; use .onnx or .pt2")
    # Parameters that want gradients would do so in the .pt2, and its outputs could not become NumPy arrays.
    network = build_all(weights).requires_grad_(False)
    _check_gives_logits(network, weights[0])
    with whole_file(path) as temporary:
        _write(temporary, kind, network, weights)
        difference, differing = _compare(temporary, kind, network)
        if not (difference <= TOLERANCE and differing == 0):  # NaN is no agreement
            raise InputError(
                f"{path}: not written: what {kind} gives differs from the network on {CHECKED:,} test images, in"
                f" {differing} labels, expected 0, and in the probabilities by up to {difference:.1e}, expected at"
                f" most {TOLERANCE:.0e}; try another format, or look at the network with mnist_cls.forward"
            )
        size = temporary.stat().st_size
    return Exported(path, kind, size, difference, differing)


def _check_gives_logits(network: nn.Module, weights: Weights) -> None:
    given = network(torch.zeros(2, 1, SIZE, SIZE))
    if not isinstance(given, Tensor) or given.shape != (2, CLASSES):
        name = weights.model["name"]
        raise InputError(f"{weights.path}: {name} gives no ten logits for each image; only classifiers are exported")


def _metadata(weights: Sequence[Weights]) -> dict[str, str]:
    ours = [{"model": one.model, "provenance": one.provenance} for one in weights]
    return {
        KEY: json.dumps(ours if len(ours) > 1 else ours[0]),
        "format_version": str(FORMAT_VERSION),
        "model": ",".join(one.model["name"] for one in weights),
        "checkpoint_sha256": ",".join(hashlib.sha256(one.path.read_bytes()).hexdigest() for one in weights),
        "classes": json.dumps([str(digit) for digit in range(CLASSES)]),
        "mean": str(MEAN),
        "std": str(STD),
    }


def _write(path: Path, kind: str, network: nn.Module, weights: Sequence[Weights]) -> None:
    metadata = _metadata(weights)
    if kind == "onnx":
        path.write_bytes(onnx_model(network, metadata))
    elif kind == "torch":
        path.write_bytes(_torch_model(network, metadata))
    else:
        save_weights(path, network, weights[0].model, weights[0].provenance, metadata)


def _torch_model(network: nn.Module, metadata: dict[str, str]) -> bytes:
    program = exported_program(network)
    # They would be pickled into the file, and whoever runs it has images of their own.
    program.example_inputs = None
    file = io.BytesIO()
    with quiet_export(network):
        torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(metadata)})
    return file.getvalue()


@torch.inference_mode()
def _compare(path: Path, kind: str, network: nn.Module) -> tuple[float, int]:
    """The greatest difference of the probabilities between a file and its network, and how many labels differ."""
    images = load_dataset("mnist", "test").images[:CHECKED]
    wanted = WholePass(network)(images)
    run = _open(path, kind)
    try:
        # One image alone, too: that the size of the batch is free is a promise.
        parts = [run(images[:1]), run(images[1:])]
        logits, probabilities, labels = (torch.cat(both) for both in zip(*parts, strict=True))
        # The logits may differ more than the probabilities: a network that is sure has large ones.
        found = torch.stack([probabilities, logits.softmax(1)])
        return (found - wanted[1]).abs().max().item(), int((labels != wanted[2]).sum())
    except Exception as error:  # a runtime fails in ways of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"not written: what {kind} has of the network does not run: {reason}") from error


def _open(path: Path, kind: str) -> Callable[[Tensor], Sequence[Tensor]]:
    """What runs a file that was written a moment ago."""
    if kind == "onnx":
        session = onnx_session(path.read_bytes())
        return lambda images: [torch.from_numpy(array) for array in session.run(OUTPUTS, {"images": images.numpy()})]
    if kind == "torch":
        # torch.export.load may unpickle what a file brings along. It is for files of our own, never for a stranger's:
        # nothing else in this package calls it.
        program = torch.export.load(io.BytesIO(path.read_bytes()))
        return program.module()
    return WholePass(load_model(path))
