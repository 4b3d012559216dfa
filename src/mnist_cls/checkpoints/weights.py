"""Weights in files: found by a path or a name, read without running any code, checked against their network."""

import importlib.metadata
import io
import json
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, shortened
from ..files import whole_file
from .archive import check_archive, check_values
from .find import find_checkpoint
from .integrity import UNSEALED, check_safetensors, check_zip, seal_safetensors, seal_zip

# One key holds all that is ours, in a .ckpt as a dict and in a .safetensors as JSON in its metadata.
KEY = "mnist_cls"


# Of a network's options as JSON: each of them may become a layer.
_LONGEST_OPTIONS = 100_000


# The LightningModule keeps its network under this name.
NETWORK_PREFIX = "model."


@dataclass(frozen=True)
class Weights:
    """The contents of a checkpoint.

    Attributes:
        model: the network's name and options, as `create_model(**model)` takes them.
        state: its parameters and buffers by name, on the CPU.
        provenance: where the weights come from: config, seed, versions, accuracy. Plain values.
        path: the file.
        resumable: whether the file also holds the optimizer, the schedule and the loops of a training.
    """

    model: dict[str, Any]
    state: dict[str, Tensor]
    provenance: dict[str, Any]
    path: Path
    resumable: bool = False


def read_weights(checkpoint: str | Path | None = None) -> Weights:
    """Read a checkpoint. Nothing in it is run: tensors and plain values are all that is accepted.

    Args:
        checkpoint: see `find_checkpoint`.

    Raises:
        InputError: there is no such file, it is damaged, it holds anything else, or it is not of this package.
    """
    path = find_checkpoint(checkpoint)
    with path.open("rb") as file:
        start = file.read(9)
    # A .safetensors starts with its header's length and a brace; what a file is called proves nothing.
    if len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < path.stat().st_size:
        return _read_safetensors(path)
    return weights_of(read_ckpt(path), path)


def save_weights(
    path: str | Path,
    model: nn.Module,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    further: Mapping[str, str] | None = None,
) -> None:
    """Write a network's weights as `.safetensors`, with all that prediction needs in the file's metadata.

    Args:
        path: the file, written whole or not at all.
        model: the network.
        config: its name and options, as `create_model(**config)` takes them.
        provenance: plain values that say where the weights come from.
        further: metadata for other readers; `read_weights` passes over it.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    ours = json.dumps({"model": dict(config), "provenance": dict(provenance)})
    metadata = {**(further or {}), "format": "pt", KEY: ours, "sha256": UNSEALED}
    content = seal_safetensors(save(state, metadata))
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def save_ckpt(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a whole Lightning checkpoint with its digest, as `read_ckpt` reads it.

    Args:
        path: the file, written whole or not at all.
        content: tensors and plain values.

    Raises:
        OSError: the file cannot be written.
    """
    archive = io.BytesIO()
    torch.save(dict(content), archive)
    sealed = seal_zip(archive.getvalue())
    with whole_file(path) as temporary:
        temporary.write_bytes(sealed)


def versions() -> dict[str, str]:
    """The versions of what a training depends on, for the provenance."""
    return {name: importlib.metadata.version(name) for name in ("mnist-cls", "torch", "lightning")}


def _read_safetensors(path: Path) -> Weights:
    from safetensors.torch import load

    # Read once: what is checked is what is loaded, and a file that shrinks meanwhile ends no process by a signal.
    content = path.read_bytes()
    check_safetensors(content, path)
    try:
        state = load(content)
        header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    except Exception as error:  # its own exception, and Python's where it knows a dtype that PyTorch does not
        raise InputError(f"{path}: not a whole .safetensors file ({shortened(error, 200)})") from error
    try:
        ours = json.loads(header["__metadata__"][KEY])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata name no network; expected a file that mnist_cls.train wrote") from error
    return _weights(ours, state, path)


def weights_of(content: Mapping[str, Any], path: Path) -> Weights:
    """The weights that a whole checkpoint holds.

    Args:
        content: as `read_ckpt` gives it.
        path: where it comes from.

    Raises:
        InputError: it holds none, or does not say of which network they are.
    """
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds no state_dict; expected a checkpoint that mnist_cls.train wrote")
    network = {
        name.removeprefix(NETWORK_PREFIX): tensor
        for name, tensor in state.items()
        if isinstance(name, str) and name.startswith(NETWORK_PREFIX)
    }
    return _weights(content.get(KEY), network, path, resumable="loops" in content)


def read_ckpt(path: str | Path) -> dict[str, Any]:
    """Read a whole Lightning checkpoint, tensors and plain values only.

    Raises:
        InputError: it is no checkpoint, it is cut off or damaged, or it holds anything that could run code.
    """
    path = Path(path)
    archive = path.read_bytes()  # once: what is checked is what is loaded
    check_zip(archive, path)
    check_archive(archive, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in a pickle: here it is an error, or does not matter
            content = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    # Torch reports broken zip archives and broken pickles with many types of exception.
    except Exception as error:
        reason = shortened((str(error).splitlines() or [type(error).__name__])[0], 200)
        raise InputError(f"{path}: not a whole checkpoint ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a checkpoint that mnist_cls.train wrote")
    check_values(content, len(archive), path)
    return content


def _weights(ours: object, state: Mapping[str, object], path: Path, resumable: bool = False) -> Weights:
    if not isinstance(ours, dict) or not isinstance(ours.get("model"), dict):
        raise InputError(f"{path}: does not say which network it is of; expected a file that mnist_cls.train wrote")
    tensors = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    model = {str(name): value for name, value in ours["model"].items()}
    try:
        length = len(json.dumps(model))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its network's options are no plain values ({shortened(error)})") from error
    if length > _LONGEST_OPTIONS:
        raise InputError(f"{path}: its network's options have {length:,} characters, more than {_LONGEST_OPTIONS:,}")
    provenance = ours.get("provenance") or {}
    if not isinstance(provenance, dict):
        raise InputError(f"{path}: its provenance is a {type(provenance).__name__}; expected names with values")
    return Weights(model, tensors, provenance, path, resumable)
