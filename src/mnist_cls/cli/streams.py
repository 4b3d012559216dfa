"""Standard output and standard error: nothing that is printed there ends a run."""

import io
import os
import sys
from typing import TextIO

_REPLACEMENTS = {"stdout": "replace", "stderr": "backslashreplace"}


def prepare_streams() -> None:
    """Let the standard streams accept any text: what their encoding cannot show is replaced.

    A stream that the process was started without (`>&-`) becomes the null device. Otherwise the next file to be opened
    would get its number, and whatever a library in C prints would be written into that file.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is the stream's own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8"))
    for name, errors in _REPLACEMENTS.items():
        stream = getattr(sys, name)  # a notebook has streams of another kind, which accept any text
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=errors)


def flush_output() -> None:
    """Write what standard output still holds.

    Raises:
        OSError: If it cannot be written, for example to a full disk. The rest is dropped: at its exit, Python would
            print an error of its own.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        _drop(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        raise OSError(error.errno, f"cannot be written ({error.strerror})", "standard output") from error


def print_error(text: str) -> None:
    """Print a line on standard error, if that can be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """Drop what a stream still holds, and whatever else is printed there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
