"""Resuming: what an output of one file and a folder of shards have in common."""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import lock


def open_locked(path: Path, output: Path) -> int:
    """Create or open a file beside or in an output and lock it, so that no other run writes that output.

    Returns:
        A file descriptor for reading and writing. Closing it releases the lock, as does the end of this process.

    Raises:
        InputError: If another run is writing the output.
        OSError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise type(error)(error.errno, f"cannot be written ({error.strerror})", str(output)) from error
    if lock(descriptor):
        # Between opening and locking it, the run that held the lock may have renamed or removed the file.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
    os.close(descriptor)
    raise InputError(f"output={output}: another run is writing it; choose another name")


def check_same_run(output: Path, earlier: Mapping[str, Any], run: Mapping[str, Any], otherwise: str) -> None:
    """Check that a run can continue an earlier one: that both have the same identity, see `PredictOptions.identity`.

    Raises:
        InputError: If they differ. The message names the first difference, and the alternative `otherwise`.
    """
    for key, value in run.items():
        if earlier.get(key) != value:
            raise InputError(
                f"resume=true: {output} was started with {key}={earlier.get(key)}, this run has {key}={value};"
                f" use the same, or {otherwise}"
            )


def announce_kept(what: str) -> None:
    """Print on standard error that `what` is kept, and how to continue."""
    print(f"{what} are kept; the same command with resume=true (--resume) continues", file=sys.stderr)
