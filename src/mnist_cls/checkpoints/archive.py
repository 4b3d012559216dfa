"""What a `.ckpt` may be made of: a few kinds of entries in its archive, tensors and plain values in its pickle.

PyTorch's `weights_only=True` runs no code, but lets a few kilobytes ask for any amount of memory, and nests without
bounds. Here the file is looked through before PyTorch sees it, and what PyTorch made of it before anybody uses it.
"""

import io
import pickletools
import re
import stat
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError, shortened

# What torch.save writes into a stream.
_ENTRY = re.compile(r"archive/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/\w+|data/\d+)")


# A pickle has some hundred bytes for each tensor. A byte costs up to a hundred in memory.
_LARGEST_PICKLE = 4_000_000


# Nested so deep, tuples would overflow the stack of the process that hashes them; each tensor needs five.
_MOST_TUPLES = 50_000


_TYPES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")


_GLOBALS = {
    "torch._utils _rebuild_tensor_v2",
    "collections OrderedDict",
    "collections Counter",  # some schedules have one
    *(f"torch {name}Storage" for name in _TYPES),
}


_CONSTANTS = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}


_CONTAINERS = {"EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "MARK", "SETITEM", "SETITEMS", "APPEND", "APPENDS"}


_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}


_MEMO = {"BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT"}


_OPCODES = {"PROTO", "STOP", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"} | _CONSTANTS | _CONTAINERS | _TUPLES | _MEMO


# Of values and their nesting, far above any training's.
_MOST_VALUES, _DEEPEST = 1_000_000, 50


# Several tensors may share their memory, as tied layers do, but a network made of them has each for itself.
_SHARED = 256_000_000


def check_archive(content: bytes, path: Path) -> None:
    """Check the entries of a `.ckpt` and the instructions of its pickle, without running one of them.

    Args:
        content: the file's bytes.
        path: for the message.

    Raises:
        InputError: it holds anything that a checkpoint of tensors and plain values has not.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _check_entries(entries, len(content), path)
            pickled = archive.read("archive/data.pkl")
    except InputError:
        raise
    except Exception as error:  # zipfile reports broken archives with many types of exception
        raise InputError(f"{path}: not a whole checkpoint ({type(error).__name__}: {shortened(error)})") from error
    tuples = 0
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name not in _OPCODES:
                raise _refused(path, f"it holds more than tensors and plain values (the pickle's opcode {opcode.name})")
            if opcode.name == "GLOBAL" and argument not in _GLOBALS:
                raise _refused(path, f"it holds more than tensors and plain values (GLOBAL {shortened(argument)})")
            tuples += opcode.name in _TUPLES
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: not a whole checkpoint (its pickle is broken: {shortened(error)})") from error
    if tuples > _MOST_TUPLES:
        raise _refused(path, f"its pickle makes {tuples:,} tuples, more than {_MOST_TUPLES:,}")


def _check_entries(entries: list[zipfile.ZipInfo], size: int, path: Path) -> None:
    for entry in entries:
        if not _ENTRY.fullmatch(entry.filename):
            raise _refused(
                path, f"its archive has an entry {shortened(entry.filename)!r}, which torch.save never writes"
            )
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise _refused(path, f"the entry {entry.filename} of its archive is a link")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise _refused(path, f"the entry {entry.filename} of its archive is compressed or encrypted")
        if entry.filename == "archive/data.pkl" and entry.file_size > _LARGEST_PICKLE:
            found = f"{entry.file_size:,} bytes, more than {_LARGEST_PICKLE:,}"
            raise _refused(path, f"its pickle has {found}; tensors belong outside of it")
    names = Counter(entry.filename for entry in entries)
    if twice := [name for name, count in names.items() if count > 1]:
        raise _refused(path, f"its archive has the entry {twice[0]} twice")
    if (total := sum(entry.file_size for entry in entries)) > size:
        raise _refused(path, f"the entries of its archive claim {total:,} bytes, the file has {size:,}")


def check_values(content: object, size: int, path: Path) -> None:
    """Check what came out of a `.ckpt`.

    Args:
        content: what `torch.load` gave.
        size: how many bytes the file has.
        path: for the message.

    Raises:
        InputError: there is anything but tensors and plain values in it, it nests too deep or without end, or its
            tensors claim more memory than the file has.
    """
    waiting: list[tuple[object, int]] = [(content, 0)]
    count = run_lock = 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        # Counted once for each way to it, as whoever goes through it does.
        if count + len(waiting) > _MOST_VALUES or depth > _DEEPEST:
            raise _refused(path, f"it holds more than {_MOST_VALUES:,} values, or nests deeper than {_DEEPEST}")
        if type(value) is Tensor:
            run_lock += _checked(value, path)
            if run_lock > size + _SHARED:
                raise _refused(path, f"its tensors claim more than {run_lock:,} bytes, the file has {size:,}")
        elif isinstance(value, dict) and type(value) in (dict, OrderedDict, Counter):
            if odd := [key for key in value if type(key) not in (str, int)]:
                raise _refused(path, f"one of its dictionaries has a {type(odd[0]).__name__} for a key")
            attributes = getattr(value, "__dict__", {})  # PyTorch gives its own kind of them one
            if hidden := attributes.keys() - {"_metadata"}:
                raise _refused(path, f"one of its dictionaries has the attribute {shortened(min(hidden))!r}")
            waiting += [(part, depth + 1) for part in (*value.values(), *attributes.values())]
        elif isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            waiting += [(part, depth + 1) for part in value]
        elif value is not None and type(value) not in (str, int, float, bool):
            raise _refused(path, f"it holds more than tensors and plain values (a {type(value).__name__})")


def _checked(tensor: Tensor, path: Path) -> int:
    """How many bytes a tensor claims, which it must have: some of PyTorch's code goes through them in one go."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise _refused(path, f"it holds a tensor that is {tensor.layout} on {tensor.device}")
    run_lock = tensor.numel() * tensor.element_size()
    had = tensor.untyped_storage().nbytes() - tensor.storage_offset() * tensor.element_size()
    if run_lock > had:
        raise _refused(path, f"a tensor {shortened(tuple(tensor.shape))} claims {run_lock:,} bytes, it has {had:,}")
    return run_lock


def _refused(path: Path, why: str) -> InputError:
    return InputError(f"{path}: not loaded: {why}; expected a checkpoint that mnist_cls.train wrote")
