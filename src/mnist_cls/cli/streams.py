"""Standard output and standard error: nothing that is printed there ends a run."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator

_REPLACEMENTS = {"stdout": "replace", "stderr": "backslashreplace"}


class _Messages(io.TextIOWrapper):
    """A standard stream for messages: once it cannot be written, they are dropped, and the run goes on.

    Attributes:
        failure: the first error, if any.
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
        """Write what is still held."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        self.failure = self.failure or error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


@contextlib.contextmanager
def messages_anyway() -> Iterator[None]:
    """Let the standard streams accept any text in the block: what their encoding cannot show is replaced.

    What cannot be written is dropped; `flush_output` tells. A stream that the process was started without (`>&-`)
    becomes the null device. Otherwise the next file to be opened would get its number, and whatever a library in C
    prints would be written into that file.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is the stream's own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8"))
    with contextlib.ExitStack() as stack:
        for name, errors in _REPLACEMENTS.items():
            stream = getattr(sys, name)  # a notebook has streams of another kind, which accept any text
            if isinstance(stream, io.TextIOWrapper):
                stack.enter_context(_replaced(name, stream, errors))
        yield


@contextlib.contextmanager
def _replaced(name: str, stream: io.TextIOWrapper, errors: str) -> Iterator[None]:
    chosen = stream.errors if stream.errors not in ("strict", "surrogateescape") else None  # by PYTHONIOENCODING
    own = _Messages(stream.buffer, stream.encoding, chosen or errors, line_buffering=stream.line_buffering)
    setattr(sys, name, own)
    try:
        yield
    finally:
        own.flush()
        own.detach()  # or the buffer would be closed with it
        setattr(sys, name, stream)


def flush_output() -> None:
    """Write what standard output still holds.

    Raises:
        OSError: If something that was printed could not be written, for example to a full disk.
    """
    sys.stdout.flush()
    if not isinstance(sys.stdout, _Messages):
        return
    failure, sys.stdout.failure = sys.stdout.failure, None  # told once
    if isinstance(failure, BrokenPipeError):
        raise failure
    if failure is not None:
        raise OSError(failure.errno, f"cannot be written ({failure.strerror})", "standard output") from failure
