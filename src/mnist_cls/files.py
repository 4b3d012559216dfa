"""Atomic writes of files, file locks, and paths."""

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
    """Yield the path of an empty temporary file, and rename it to `path` if the block ends without an exception.

    Until then an existing file at `path` is not touched. Missing parent folders are created.

    Raises:
        OSError: If the folder is not writable, or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Some writers choose their format by the extension, so it stays last.
        handle, name = tempfile.mkstemp(prefix=f"{_UNFINISHED}{target.stem}-", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise type(error)(error.errno, f"cannot be written ({error.strerror})", str(target)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)  # it can only be read by setting it
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's own mode, 0600, would hide results from colleagues
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        # A failed write names no file, and the temporary name would not help anybody.
        if error.filename in (None, str(temporary)) and error.errno is not None:
            raise type(error)(error.errno, f"cannot be written ({error.strerror})", str(target)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove the temporary files of killed processes from a folder, or only those of the file `name`."""
    # mkstemp puts eight characters between the two. With `*` instead, `a.csv` would match the files of `a-2.csv`, too.
    pattern = f"{glob.escape(Path(name).stem)}-????????{glob.escape(Path(name).suffix)}" if name else "*"
    for temporary in folder.glob(f"{_UNFINISHED}{pattern}"):
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that new names in it survive a power failure."""
    with contextlib.suppress(OSError):  # Windows cannot open folders, some network file systems cannot flush them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open, writable file for this process until it is closed; return False if another process holds the lock.

    Where locks are not supported, return True.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        # Not flock: child processes would inherit its lock, and can outlive this process for a moment.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # some network file systems have no locks
        pass
    return True


def write_json(path: str | Path, values: Mapping[str, float]) -> None:
    """Write numbers as indented JSON, atomically. NaN and infinity, which JSON lacks, become null.

    Raises:
        OSError: If the file cannot be written.
    """
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    text = json.dumps(finite, indent=2, allow_nan=False) + "\n"
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def expand(path: str | Path) -> Path:
    """Replace `~` or `~user` at the start of a path with the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user: `~draft.png` may be just a file
        return Path(path)
