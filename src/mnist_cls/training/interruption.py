"""How a training that ends early tells its user, in one line, why it ended and how to resume it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..cli.messages import display_path, overrides, program
from ..cli.torchrun import hosts, world_size
from ..errors import InputError
from .callbacks.saving import LastCheckpoint
from .distributed import lost, print_once


@contextmanager
def resumable(folder: Path, last: LastCheckpoint) -> Iterator[None]:
    """Turn what interrupts a training in a run's folder into one line that says how to resume it.

    Raises:
        InputError: If a file cannot be written, or another process of the training is gone.
        SystemExit: If a signal has ended the training, with status 128 + the signal's number.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # Lightning turns a KeyboardInterrupt into a SystemExit
        if last.signal is None:
            raise
        print_once(f"{last.cause} at step {last.step}; {_how_to_resume(folder, last.path)}", sys.stderr)
        sys.exit(128 + last.signal)
    except RuntimeError as error:
        if not lost(error):
            raise
        raise InputError(
            f"lost another process of this training, or the network between them; {_how_to_resume(folder, last.path)}"
        ) from error
    except BrokenPipeError:  # `... | head` has seen enough
        raise
    except OSError as error:
        where = os.fsdecode(error.filename or folder)
        raise InputError(f"{where}: {error.strerror or error}; {_how_to_resume(folder, last.path)}") from error


def _how_to_resume(folder: Path, last: Path) -> str:
    if not last.is_file():
        return "nothing was saved yet"
    options = overrides(checkpoint="last", output_dir=display_path(folder))
    if options is None:  # called from Python
        return f"resume from {last}"
    if hosts() > 1:
        return f"resume with the same torchrun command, on any number of hosts, and: -m mnist_cls.train {options}"
    launcher = f"torch.distributed.run --nproc-per-node {world_size()} -m " if world_size() > 1 else ""
    return f"resume with: {program(f'{launcher}mnist_cls.train')} {options}"
