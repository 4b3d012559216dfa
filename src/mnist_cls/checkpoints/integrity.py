"""Check that a file with weights is undamaged, runs no code, and takes no more memory than its size explains.

CRC and digest detect damage, not intent: whoever forges a file computes them, too.
"""

import hashlib
import io
import json
import mimetypes
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from ..errors import InputError, first_line, shortened
from .find import AS_INPUT

# PyTorch ignores the case of names and reads from the first entry's folder, so one entry could hide another.
_ENTRY = re.compile(r"archive/[a-z0-9_./]+")

# A pickle can take a hundred times its size in memory. A checkpoint's has some hundred bytes for each tensor.
_LARGEST_PICKLE = 4_000_000

# Hashing deeply nested tuples overflows the stack. A tensor needs five.
_MOST_TUPLES = 50_000

# PyTorch allows more: `bytearray` and `torch.Tensor` turn a number into memory, QInt8Storage makes a broken tensor.
_GLOBALS = re.compile(r"torch\._utils _rebuild_tensor_v2|torch (?!Q)\w+Storage|collections (OrderedDict|Counter)")

# Limits, because lists can contain themselves, and a list in several places multiplies the paths to a value.
_MOST_VALUES, _DEEPEST = 1_000_000, 50

# First bytes of inputs that users pass as a checkpoint by mistake.
_INPUTS = {
    (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*"): "an image",
    (b"\x93NUMPY",): "an array",
    (b"PAR1",): "a table",
}

# Bytes by which tensors may exceed the file: tied layers share memory in it, but each gets its own in the network.
_MOST_SHARED = 256_000_000


def checked_archive(content: bytes, path: Path) -> io.BytesIO:
    """Check the bytes of a `.ckpt` before PyTorch reads it, without executing its pickle.

    Returns:
        A copy of the archive for `torch.load`. zipfile and PyTorch can find different entries in a forged archive, but
        not in this one.

    Raises:
        InputError: If the file is damaged, could run code, or could take any amount of memory.
    """
    try:
        archive, pickled = _copy(content, path)
        unsafe = get_unsafe_globals_in_checkpoint(archive)
        if unsafe:
            raise _refused(path, f"it could run code ({shortened(min(unsafe))})")
        tuples = 0
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument)):
                raise _refused(path, f"it holds more than tensors and plain values ({shortened(argument)})")
            tuples += opcode.name.startswith("TUPLE")
        if tuples > _MOST_TUPLES:
            raise _refused(path, f"its pickle makes {tuples:,} tuples, more than {_MOST_TUPLES:,}")
    except InputError:
        raise
    except Exception as error:  # zipfile, PyTorch and pickletools raise many types
        raise unreadable(path, error, content) from error
    archive.seek(0)
    return archive


def _copy(content: bytes, path: Path) -> tuple[io.BytesIO, bytes]:
    """Copy a zip archive entry by entry, which checks each entry's CRC; return the copy and its pickle."""
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(copy, "w") as target:
        names = dict.fromkeys(archive.namelist())
        if odd := [name for name in names if not _ENTRY.fullmatch(name)]:
            if odd[0].endswith(".npy") or _kind_by_name(odd[0]):
                raise _misplaced(path, "an archive of arrays, images or tables")
            raise _refused(path, f"its archive has an entry {shortened(odd[0])!r}, which torch.save never writes")
        entries = archive.infolist()
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if compressed or sum(entry.compress_size for entry in entries) > len(content):
            raise _refused(path, "the entries of its archive are compressed or overlap")
        pickled = archive.read("archive/data.pkl")
        if len(pickled) > _LARGEST_PICKLE:
            raise _refused(path, f"its pickle has {len(pickled):,} bytes, more than {_LARGEST_PICKLE:,}")
        for name in names:
            target.writestr(name, archive.read(name))
    copy.seek(0)
    return copy, pickled


def check_values(content: object, size: int, path: Path) -> None:
    """Check what `torch.load` made of a `.ckpt` of `size` bytes.

    Raises:
        InputError: If it has too many values, nests too deeply or contains itself, hides an attribute in a dictionary,
            or if its tensors claim more memory than the file has.
    """
    waiting = [(content, 0)]
    values = claimed = 0
    while waiting:
        value, depth = waiting.pop()
        values += 1
        # A value counts once for each path to it, because loading follows each path.
        if values + len(waiting) > _MOST_VALUES or depth > _DEEPEST:
            raise _refused(path, f"it holds more than {_MOST_VALUES:,} values, or nests deeper than {_DEEPEST}")
        if isinstance(value, Tensor):
            claimed += _checked_bytes(value, path)
            if claimed > size + _MOST_SHARED:
                raise _refused(path, f"its tensors claim more than {claimed:,} bytes, the file has {size:,}")
        elif isinstance(value, dict):
            # Instance attributes of an OrderedDict could hide its methods.
            if hidden := getattr(value, "__dict__", {}).keys() - {"_metadata"}:
                raise _refused(path, f"one of its dictionaries has the attribute {shortened(next(iter(hidden)))!r}")
            waiting += [(part, depth + 1) for part in value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += [(part, depth + 1) for part in value]


def _checked_bytes(tensor: Tensor, path: Path) -> int:
    # Not the bytes that the strides reach: PyTorch's fused optimizers ignore strides, and write this many.
    claimed = tensor.numel() * tensor.element_size()
    found = tensor.untyped_storage().nbytes() - tensor.storage_offset() * tensor.element_size()
    if claimed > found:
        raise _refused(path, f"a tensor {shortened(tuple(tensor.shape))} claims {claimed:,} bytes, it has {found:,}")
    return claimed


def digest(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Compute the SHA-256 of a network's tensors and metadata: names, dtypes, shapes, bytes, keys and values."""
    items = sorted(state.items())
    layout = [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in items]
    result = hashlib.sha256(json.dumps([layout, sorted(metadata.items())]).encode())
    for _, tensor in items:
        result.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


def unreadable(path: Path, error: Exception, content: bytes) -> InputError:
    """Build the error for a file that is damaged, or not a checkpoint."""
    by_content = (kind for beginnings, kind in _INPUTS.items() if content.startswith(beginnings))
    if kind := next(by_content, _kind_by_name(path.name)):
        return _misplaced(path, kind)
    reason = shortened(first_line(error), 200)
    return InputError(f"{path}: damaged, or not a checkpoint ({reason}); copy it again, or train again")


def _kind_by_name(name: str) -> str | None:
    """Return which kind of input a file is, by its extension; None if it is not an image or a table."""
    kind = mimetypes.guess_type(name)[0] or ""
    if kind in ("text/csv", "text/tab-separated-values"):
        return "a table"
    return "an image" if kind.startswith("image/") else None


def _misplaced(path: Path, kind: str) -> InputError:
    return InputError(f"{path}: {kind}, not a checkpoint; pass it {AS_INPUT}")


def _refused(path: Path, why: str) -> InputError:
    return InputError(f"{path}: not loaded: {why}; expected a checkpoint that mnist_cls.train wrote")
