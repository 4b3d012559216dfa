"""Run ONNX files in ONNX Runtime, without PyTorch, and recognize those that this package wrote.

Each holds a whole pass, from uint8 images to probabilities and labels. The ONNX file of a `.safetensors` is beside it,
under the same name, and records the digest of the weights that it was made from.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, first_line

# Key in a file's metadata: the SHA-256 of the weights that the file was made from.
WEIGHTS_DIGEST = "checkpoint_sha256"

# For up to this many images, several threads are hardly faster than one, and can have to wait for a core.
FEW = 4

# The last bytes of a file: an entry of its metadata, in the encoding of Protocol Buffers, whose value is the digest of
# all bytes before it. Metadata is field 14 of a model, of entries with the fields key, 1, and value, 2.
_SEAL = b"\x72\x52\x0a\x0econtent_sha256\x12\x40"
_HEX = 64


class Network:
    """An ONNX file in ONNX Runtime: with one thread for few images, with all for many.

    Raises:
        InputError: If ONNX Runtime cannot load it.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.process = content, os.getpid()
        # A session's number of threads is fixed. The second session is created with the first large batch.
        self.for_few: Any = _session(content, 1)
        self.for_many: Any = None

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata."""
        metadata: dict[str, str] = self.for_few.get_modelmeta().custom_metadata_map
        return metadata

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return [output.name for output in self.for_few.get_outputs()]

    def run(self, outputs: Sequence[str], images: np.ndarray) -> list[np.ndarray]:
        """Compute outputs by their names for images, uint8 (B, 28, 28).

        Raises:
            MemoryError: If the batch does not fit into memory.
        """
        session = self._session_for(len(images))
        try:
            results: list[np.ndarray] = session.run(outputs, {"images": images})
        except Exception as error:
            if "allocate" in str(error):  # ONNX Runtime has no type of its own for it
                raise MemoryError(str(error)) from error
            raise
        return results

    def _session_for(self, count: int) -> Any:
        # A forked process does not have its parent's threads, for which the session for many would wait forever.
        if count <= FEW or os.getpid() != self.process:
            return self.for_few
        if self.for_many is None:
            threads = _thread_count()
            self.for_many = self.for_few if threads == 1 else _session(self.content, threads)
        return self.for_many


def _thread_count() -> int:
    """Return the number of threads for many images: `OMP_NUM_THREADS`, as for PyTorch, or the CPUs of this process."""
    requested = os.environ.get("OMP_NUM_THREADS", "")
    if requested.isdecimal() and int(requested):
        return int(requested)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_beside(weights: Path) -> Network | None:
    """Load the ONNX file beside a `.safetensors`; return None if there is none that was made from these weights.

    A file that cannot be used is reported on standard error.
    """
    path = onnx_beside(weights)
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        if not is_whole(content):
            raise InputError("it is damaged; delete it")
        network = Network(content)
    except InputError as error:
        print(f"{path}: not used; PyTorch is used instead, which takes longer: {error}", file=sys.stderr)
        return None
    made_from = network.metadata.get(WEIGHTS_DIGEST)
    return network if made_from == hashlib.sha256(weights.read_bytes()).hexdigest() else None


def onnx_beside(weights: Path) -> Path:
    """Return the path of the ONNX file of a `.safetensors`, whether it exists or not."""
    return weights.with_suffix(".onnx")


def seal(content: bytes) -> bytes:
    """Add the digest of an ONNX file to its metadata, so that `is_whole` can tell whether it is damaged."""
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def is_whole(content: bytes) -> bool:
    """Return whether the content of an ONNX file ends with its digest, as this package writes it."""
    return content == seal(content[: -len(_SEAL) - _HEX])


def _session(content: bytes, threads: int) -> Any:
    # Otherwise version 1.29 and later send telemetry to Microsoft, and store a device ID in ~/.cache.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # fatal only: other errors are raised as well
        # Threads that spin while they wait would take the cores from the processes that decode the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # An ONNX file can keep weights in other files. Ours do not, and a forged one must not read any.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    # Versions that do not match and missing system libraries raise many kinds of errors.
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot load the network: {first_line(error)}") from error
