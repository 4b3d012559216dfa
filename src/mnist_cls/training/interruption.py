"""One line for the user when training ends early: why it ended, and how to resume it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

from ..cli.messages import display_path, overrides, program
from ..cli.torchrun import hosts, world_size
from ..errors import InputError, shortened
from .callbacks.saving import LastCheckpoint
from .distributed import lost, print_once
from .loggers import of_a_logger


@contextmanager
def resumable(folder: Path, last: LastCheckpoint) -> Iterator[None]:
    """Report what ends the training of the block in one line, with the command that resumes it.

    Raises:
        InputError: If Lightning or a logger refuses a setting, a file cannot be written, a logger's server does not
            answer, or another process of the training is lost.
        SystemExit: If a signal has ended the training, with status 128 + the signal's number.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # Lightning turns a KeyboardInterrupt into a SystemExit
        if last.signal is None:
            raise
        print_once(f"{last.cause} at step {last.step}; {_how_to_resume(folder, last.path)}", sys.stderr)
        sys.exit(128 + last.signal)
    except BrokenPipeError:  # the reader of `... | head` has exited
        raise
    except Exception as error:
        reason = _reason(error, folder)
        if reason is None:
            raise
        raise InputError(reason + (f"; {_how_to_resume(folder, last.path)}" if last.path.is_file() else "")) from error


def _reason(error: Exception, folder: Path) -> str | None:
    """Return in one line why training has ended; None for a defect, or an error that already is one line."""
    if isinstance(error, InputError):
        return None
    if of_a_logger(error):
        package = type(error).__module__.partition(".")[0]
        hint = "; logger.wandb.offline=true needs no account and no network" if package == "wandb" else ""
        return f"logger ({package}): {shortened(' '.join(str(error).split()), 500).rstrip('.')}{hint}"
    if isinstance(error, MisconfigurationException) or "conditioned on metric" in str(error):  # from early stopping
        hint = "; choose one, such as logger=csv" if "no logger" in str(error) else ""
        return f"Lightning: {' '.join(str(error).split()).rstrip('.')}{hint}"
    if lost(error):
        return "lost another process of this training, or the network between them"
    # Lightning's logger for TensorBoard hides an OSError behind a ValueError about types.
    problem = error.__cause__ if isinstance(error, ValueError) else error
    if isinstance(problem, OSError):
        return f"{os.fsdecode(problem.filename or folder)}: {problem.strerror or problem}"
    return None


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
