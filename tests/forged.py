"""Checkpoints as an attacker would write them: anything inside, with correct CRCs and digests."""

import copy
import hashlib
import io
import json
import struct
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from mnist_cls import create_model
from mnist_cls.checkpoints.integrity import digest

# Stands for the digest.
UNSIGNED = "0" * 64

# A network of kilobytes, so that mutations hit more than its weights.
MODEL: dict[str, Any] = {"name": "mlp", "widths": [784, 2, 10]}


@cache
def _training() -> dict[str, Any]:
    torch.manual_seed(0)
    network = create_model(**MODEL)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=10)
    network(torch.zeros(2, 784)).sum().backward()
    optimizer.step()
    scheduler.step()
    counts = {"total": {"ready": 1, "completed": 1}, "current": {"ready": 1, "completed": 1}}
    paths = {"best_model_path": "/run/checkpoints/best.ckpt", "best_k_models": {"/run/checkpoints/best.ckpt": 0.5}}
    return {
        "epoch": 0,
        "global_step": 1,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": OrderedDict((f"model.{name}", tensor) for name, tensor in network.state_dict().items()),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": counts}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val/accuracy'}": {**paths, "dirpath": "/run/checkpoints"}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "mnist_cls": {"model": MODEL, "steps": 10},
    }


def training() -> dict[str, Any]:
    """What a checkpoint of Lightning's holds, of a small training."""
    return copy.deepcopy(_training())


def archive_of(content: object) -> bytes:
    """What `torch.save` writes."""
    archive = io.BytesIO()
    torch.save(content, archive)
    return archive.getvalue()


def zip_of(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of any entries."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)
    return archive.getvalue()


def entries_of(archive: bytes) -> dict[str, bytes]:
    """The entries of an archive, by name."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def checkpoint_with(pickled: bytes, **others: bytes) -> bytes:
    """A checkpoint with this pickle, and storages by their numbers: `_0=b"..."`."""
    storages = [(f"archive/data/{name[1:]}", content) for name, content in others.items()]
    first = [("archive/data.pkl", pickled), ("archive/version", b"3\n"), ("archive/byteorder", b"little")]
    return zip_of([*first, *storages])


def safetensors_of(header: object, values: bytes = b"") -> bytes:
    """A `.safetensors` file with any header; `UNSIGNED` in it becomes the correct digest if there can be one."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return signed(struct.pack("<Q", len(text)) + text + values)


def signed(content: bytes) -> bytes:
    """A `.safetensors` file with its correct digest instead of `UNSIGNED`, or as it is if it cannot be read."""
    try:
        state, metadata = load(content), header_of(content)[0]["__metadata__"]
        del metadata["digest"]
        return content.replace(UNSIGNED.encode(), digest(state, metadata).encode(), 1)
    except Exception:  # whatever a forged file makes these raise
        return content


def header_of(content: bytes) -> tuple[Any, bytes]:
    """The header of a `.safetensors` file, its digest taken out, and its values."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["digest"] = UNSIGNED
    return header, content[8 + length :]


def exactly(value: object) -> str:
    """Text that is the same for two values if they are the same to the bit, tensors in containers included."""
    if isinstance(value, torch.Tensor):
        content = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(content).hexdigest()}"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key!r}:{exactly(item)}' for key, item in sorted(value.items(), key=repr))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(exactly, value))}]"
    return repr(value)


def write(path: Path, content: bytes) -> Path:
    """A file with that content."""
    path.write_bytes(content)
    return path
