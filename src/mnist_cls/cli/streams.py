"""Make standard output and standard error safe: nothing that is printed there ends a run."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator

_REPLACEMENTS = {"stdout": "replace", "stderr": "backslashreplace"}


class _Messages(io.TextIOWrapper):
    """A standard stream that drops everything after its first failed write, so that the run goes on.

    Attributes:
        failure: error of that write, until it has been reported.
    """

    failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Write what is still buffered."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        self.failure = self.failure or error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


@contextlib.contextmanager
def messages_anyway() -> Iterator[None]:
    """Let the standard streams accept any text in the block: characters that their encoding lacks are replaced.

    What cannot be written is dropped; `flush_output` reports it. A stream that was closed when the process started
    (`>&-`) becomes the null device. Otherwise the next file to be opened would get its descriptor, and a C library
    would print into that file.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is the stream's own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8"))
    with contextlib.ExitStack() as stack:
        for name, errors in _REPLACEMENTS.items():
            stream = getattr(sys, name)  # a notebook's streams have another type, and accept any text
            if isinstance(stream, io.TextIOWrapper):
                stack.enter_context(_replaced(name, stream, errors))
        yield


@contextlib.contextmanager
def _replaced(name: str, stream: io.TextIOWrapper, errors: str) -> Iterator[None]:
    chosen = stream.errors if stream.errors not in ("strict", "surrogateescape") else None  # of PYTHONIOENCODING
    own = _Messages(stream.buffer, stream.encoding, chosen or errors, line_buffering=stream.line_buffering)
    setattr(sys, name, own)
    try:
        yield
    finally:
        own.flush()
        own.detach()  # otherwise the buffer would be closed with it
        setattr(sys, name, stream)


def flush_output() -> None:
    """Flush standard output.

    Raises:
        OSError: If something that was printed could not be written, for example to a full disk.
    """
    sys.stdout.flush()
    if not isinstance(sys.stdout, _Messages):
        return
    failure, sys.stdout.failure = sys.stdout.failure, None  # reported once
    if isinstance(failure, BrokenPipeError):
        raise failure
    if failure is not None:
        raise OSError(failure.errno, f"cannot be written ({failure.strerror})", "standard output") from failure
