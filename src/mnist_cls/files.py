"""Files that appear whole or not at all."""

import contextlib
import glob
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_UNFINISHED = ".unfinished-"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` once the block has ended without an exception.

    What stood at `path` before stays untouched until then, and for ever if the block fails.

    Args:
        path: where the file shall appear. Missing folders above it are made.

    Yields:
        The path to write to: an empty file in the same folder.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The extension stays last: some writers choose their format by it.
        handle, name = tempfile.mkstemp(prefix=f"{_UNFINISHED}{target.stem}-", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise type(error)(error.errno, f"cannot be written ({error.strerror})", str(target)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        # A write that fails names no file, and the temporary one would tell nobody anything.
        if error.filename in (None, str(temporary)) and error.errno is not None:
            raise type(error)(error.errno, f"cannot be written ({error.strerror})", str(target)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove what a killed process has left of files that it was writing, or of one of that name only."""
    stem = glob.escape(Path(name).stem) + "-" if name else ""
    for left in folder.glob(f"{_UNFINISHED}{stem}*"):
        left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Let a file's new name in a folder survive a power failure, where folders can be synchronized."""
    with contextlib.suppress(OSError):  # Windows opens no folders, some network file systems synchronize none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Take an open, writable file for this process alone, until it is closed; where there are no locks, hope.

    Returns:
        Whether it was to be had: no other process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        # Not flock: its locks are inherited, and processes that we have started may outlive us by a moment.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # some network file systems
        return True
    return True


def write_json(path: str | Path, values: Mapping[str, float]) -> None:
    """Write numbers to `path` as indented JSON, whole or not at all. NaN and Inf, which JSON lacks, become null.

    Raises:
        OSError: the file cannot be written.
    """
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    text = json.dumps(finite, indent=2, allow_nan=False) + "\n"
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def expand(path: str | Path) -> Path:
    """A path with its `~` replaced, where there is somebody of that name; `~draft.png` may be just a file."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _umask() -> int:
    # The mask can only be read by setting it; mkstemp's own mode, 0600, would hide results from colleagues.
    mask = os.umask(0)
    os.umask(mask)
    return mask
