"""Read and write weights: `.safetensors` files and the `.ckpt` files of a training."""

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
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.serialization import get_crc32_options, set_crc32_options

from ..errors import InputError, shortened
from ..files import whole_file
from .find import find_checkpoint
from .integrity import check_values, checked_archive, digest, unreadable

# The key of this package's entry: a dict in a .ckpt, JSON in the metadata of a .safetensors.
KEY = "mnist_cls"

# The key of the digest in the metadata of a .safetensors.
_DIGEST = "digest"

# The LightningModule keeps its network under this name.
NETWORK_PREFIX = "model."


@dataclass(frozen=True)
class Weights:
    """The content of a checkpoint.

    Attributes:
        model: The network's name and options, as `create_model(**model)` takes them.
        state: The network's parameters and buffers by name, on the CPU.
        provenance: Plain values that describe the training: config, seed, versions, metrics.
        path: The file.
        resumable: Whether the file also holds the state of the optimizer, the schedule and the loops.
    """

    model: dict[str, Any]
    state: dict[str, Tensor]
    provenance: dict[str, Any]
    path: Path
    resumable: bool = False


def read_weights(checkpoint: str | Path | None = None) -> Weights:
    """Read a checkpoint, see `find_checkpoint`. It can only hold tensors and plain values; nothing in it is executed.

    Raises:
        InputError: If the file does not exist, is damaged, holds anything else, or was not written by this package.
    """
    return read_checkpoint(checkpoint)[0]


def read_checkpoint(checkpoint: str | Path | None = None) -> tuple[Weights, dict[str, Any]]:
    """Read a checkpoint as `read_weights` does; also return the whole content of a `.ckpt`, or {} for other files."""
    path = find_checkpoint(checkpoint)
    content = path.read_bytes()  # once: the bytes that are checked are the bytes that are loaded
    # A .safetensors begins with eight bytes, the length of its JSON header. The file's name does not matter.
    if content[8:9] == b"{":
        return _read_safetensors(content, path), {}
    loaded = _read_ckpt(content, path)
    return weights_of(loaded, path), loaded


def save_weights(
    path: str | Path,
    model: nn.Module,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    extra_metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network as a `.safetensors` file with everything that prediction needs, atomically.

    Args:
        path: The file. An existing one is replaced.
        model: The network.
        config: Its name and options, as `create_model(**config)` takes them.
        provenance: Plain values that describe the training.
        extra_metadata: Strings for other programs; `read_weights` ignores them.

    Raises:
        OSError: If the file cannot be written.
    """
    # Copies, because safetensors refuses tensors that share memory, as tied layers do.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    entry = json.dumps({"model": dict(config), "provenance": dict(provenance)})
    metadata = {**(extra_metadata or {}), "format": "pt", KEY: entry}
    content = save(state, {**metadata, _DIGEST: digest(state, metadata)})
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def save_ckpt(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a Lightning checkpoint of tensors and plain values, atomically.

    Raises:
        OSError: If the file cannot be written.
    """
    archive = io.BytesIO()  # not the file: PyTorch reports a full disk with a RuntimeError
    crc = get_crc32_options()
    set_crc32_options(True)  # `read_ckpt` needs them, and a program may have switched them off
    try:
        torch.save(dict(content), archive)
    finally:
        set_crc32_options(crc)
    with whole_file(path) as temporary:
        temporary.write_bytes(archive.getbuffer())


def read_ckpt(path: str | Path) -> dict[str, Any]:
    """Read a Lightning checkpoint of tensors and plain values.

    Raises:
        InputError: If the file is damaged, is no checkpoint, or holds anything that could run code.
    """
    return _read_ckpt(Path(path).read_bytes(), Path(path))


def weights_of(content: Mapping[str, Any], path: Path) -> Weights:
    """Take the weights from a Lightning checkpoint, as `read_ckpt` returns it.

    Raises:
        InputError: If it holds no weights, or does not name their network.
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


def versions() -> dict[str, str]:
    """Return the versions of the packages that a training depends on."""
    return {name: importlib.metadata.version(name) for name in ("mnist-cls", "torch", "lightning")}


def _read_safetensors(content: bytes, path: Path) -> Weights:
    try:
        state = load(content)
        # safetensors only reads metadata from a mapped file, and one that is truncated meanwhile kills the process.
        header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    except Exception as error:  # safetensors raises its own type, and others for dtypes that PyTorch does not have
        raise unreadable(path, error, content) from error
    metadata = header.get("__metadata__") or {}
    expected = metadata.pop(_DIGEST, None)
    if expected is None:
        raise InputError(
            f"{path}: its metadata hold no {_DIGEST}; another program or an earlier version of mnist_cls wrote it:"
            " export the training's checkpoints/best.ckpt again with mnist_cls.export, or train again"
        )
    if digest(state, metadata) != expected:
        raise InputError(f"{path}: is damaged: its tensors or metadata do not match its {_DIGEST}; copy it again")
    try:
        entry = json.loads(metadata[KEY])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata name no network; expected a file that mnist_cls.train wrote") from error
    return _weights(entry, state, path)


def _read_ckpt(content: bytes, path: Path) -> dict[str, Any]:
    archive = checked_archive(content, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles: they fail or do no harm
            loaded = torch.load(archive, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises many types for broken archives and pickles
        raise unreadable(path, error, content) from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__}; expected a checkpoint that mnist_cls.train wrote")
    check_values(loaded, len(content), path)
    return loaded


def _weights(entry: object, state: Mapping[str, object], path: Path, resumable: bool = False) -> Weights:
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), dict):
        raise InputError(f"{path}: does not name its network; expected a file that mnist_cls.train wrote")
    tensors = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    model = {str(name): value for name, value in entry["model"].items()}
    try:
        json.dumps(model)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its network's options are not plain values ({shortened(error)})") from error
    provenance = entry.get("provenance") or {}
    if not isinstance(provenance, dict):
        raise InputError(f"{path}: its provenance is a {type(provenance).__name__}; expected names with values")
    return Weights(model, tensors, provenance, path, resumable)
