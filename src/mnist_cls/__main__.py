"""The commands of this package: `python -m mnist_cls [COMMAND ...]`

Without a command it lists them. `python -m mnist_cls train ...` is the same as `python -m mnist_cls.train ...`.
"""

import difflib
import importlib
import runpy
import shutil
import sys
import textwrap

from . import __version__
from .cli.streams import flush_output, prepare_streams, print_error

COMMANDS = ("train", "eval", "predict", "predict_batch", "forward", "export")


def main() -> None:
    """List the commands, or run the one that is named."""
    prepare_streams()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    command = name.replace("-", "_")
    if command in COMMANDS:
        sys.argv[:2] = [f"{sys.argv[0]} {name}"]
        # As the main module, because processes that Lightning or a pool starts run the main module again.
        runpy.run_module(f"{__package__}.{command}", run_name="__main__", alter_sys=True)
        return
    if name not in ("-h", "--help", "help", "--version"):
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        guess = f", did you mean {near[0]!r}?" if near else ""
        print_error(f"error: no command {name!r}{guess}; there are {', '.join(COMMANDS)}")
        sys.exit(2)
    try:
        print(f"mnist_cls {__version__}" if name == "--version" else _overview())
        flush_output()
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        print_error(f"error: {error.filename}: {error.strerror}")
        sys.exit(2)


def _overview() -> str:
    lines = ["python -m mnist_cls COMMAND ...", ""]
    width = min(shutil.get_terminal_size().columns, 100)
    for command in COMMANDS:
        summary = (importlib.import_module(f".{command}", __package__).__doc__ or "").splitlines()[0]
        what = summary.partition(": `")[0]
        lines += textwrap.wrap(f"{command:15}{what}", width, initial_indent="  ", subsequent_indent=" " * 17)
    lines += ["", "Options of a command: python -m mnist_cls COMMAND --help. Version: --version.", ""]
    lines += ["From Python: from mnist_cls import Predictor; help(Predictor). Documentation: README.md, docs/."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
