"""How a command ends: its exit status, and errors in one line."""

import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from ..errors import InputError, described, first_line
from .streams import flush_output, messages_anyway
from .torchrun import is_first, should_report_error


def run_command(command: Callable[[], int | None], tracebacks: bool = False) -> None:
    """Run a command, and exit with its status unless that is 0; with 2 after an error, with 130 after Ctrl-C."""
    with messages_anyway():
        try:
            try:
                status: str | int | None = command()
            except SystemExit as error:
                status = error.code
            flush_output()
        except KeyboardInterrupt:
            if is_first():
                print("interrupted", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            leave(error, tracebacks)
    if status:
        sys.exit(status)


def leave(error: Exception, tracebacks: bool = False) -> NoReturn:
    """Report an error and exit with status 2; if the reader of the output has closed it, exit silently with status 1.

    Under torchrun, one process on each host reports.
    """
    try:
        flush_output()
    except OSError as full:  # `error` is most likely the same failure, without the stream's name
        if isinstance(full, BrokenPipeError) or (isinstance(error, OSError) and error.filename is None):
            error = full
    if isinstance(error, BrokenPipeError):  # `... | head` has seen enough
        sys.exit(1)
    if should_report_error():
        report(error, tracebacks)
    sys.exit(2)


def report(error: Exception, tracebacks: bool = False) -> str:
    """Print an error in one line, or with a traceback if it is a defect or `tracebacks` is set; return its reason."""
    if tracebacks or not isinstance(error, (InputError, OSError)):
        print("".join(traceback.format_exception(error)).rstrip(), file=sys.stderr)
        return f"{type(error).__name__}: {first_line(error)}"
    print(f"error: {described(error)}", file=sys.stderr)
    return described(error)


def print_version() -> None:
    """Print the version of the package."""
    from .. import __version__  # reads the installed package's metadata

    print(f"mnist_cls {__version__}")
