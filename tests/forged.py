"""Checkpoints as an attacker would write them: anything inside, and every digest right."""

import copy
import io
import json
import struct
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mnist_cls import create_model
from mnist_cls.checkpoints.integrity import UNSEALED, seal_safetensors, seal_zip

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
    """What torch.save writes, with the right digest."""
    archive = io.BytesIO()
    torch.save(content, archive)
    return seal_zip(archive.getvalue())


def zip_of(entries: list[tuple[str | zipfile.ZipInfo, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of any entries, with the right digest."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)
    return seal_zip(archive.getvalue())


def entries_of(archive: bytes) -> dict[str, bytes]:
    """What an archive holds, by name."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def checkpoint_with(pickled: bytes, **others: bytes) -> bytes:
    """A checkpoint with this for its pickle, and storages by their numbers: `_0=b"..."`."""
    storages: list[tuple[str | zipfile.ZipInfo, bytes]] = [
        (f"archive/data/{name[1:]}", content) for name, content in others.items()
    ]
    ours = [("archive/data.pkl", pickled), ("archive/version", b"3\n"), ("archive/byteorder", b"little")]
    return zip_of([*ours, *storages])


def safetensors_of(header: object, values: bytes = b"") -> bytes:
    """A `.safetensors` file with any header, and the right digest if the header has a place for it."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    content = struct.pack("<Q", len(text)) + text + values
    return seal_safetensors(content) if b'"sha256":"' + UNSEALED.encode() in text else content


def header_of(content: bytes) -> tuple[Any, bytes]:
    """The header of a `.safetensors` file with an empty digest, and its values."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["sha256"] = UNSEALED
    return header, content[8 + length :]


def write(path: Path, content: bytes) -> Path:
    """A file with that content."""
    path.write_bytes(content)
    return path
