"""The commands of this package: `python -m mnist_cls [COMMAND ...]`

Without a command it lists them. `python -m mnist_cls train ...` is the same as `python -m mnist_cls.train ...`.
"""

import difflib
import runpy
import sys

from .cli.status import print_version, run_command
from .errors import InputError

COMMANDS = {
    "train": "Train a network",
    "eval": "Evaluate a network on labelled images",
    "predict": "Read digits in images, folders, tables and archives",
    "predict_batch": "The same for pipelines, with plain arguments",
    "forward": "Show what happens inside a forward pass",
    "export": "Export a network as ONNX, .pt2 or .safetensors",
    "serve": "Show the forward pass of what you draw in a browser; read digits over HTTP",
}


def main() -> None:
    """List the commands, or run the one named by the first argument."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    command = name.replace("-", "_")
    if command not in COMMANDS:
        run_command(lambda: _answer(name))
        return
    sys.argv[:2] = [f"{sys.argv[0]} {name}"]
    # As the main module, since the processes that Lightning or a pool starts run the main module again.
    runpy.run_module(f"{__package__}.{command}", run_name="__main__", alter_sys=True)


def _answer(name: str) -> None:
    if name == "--version":
        print_version()
    elif name in ("-h", "--help", "help"):
        print("python -m mnist_cls COMMAND ...\n")
        for command, summary in COMMANDS.items():
            print(f"  {command:15}{summary}")
        print("\nOptions of a command: python -m mnist_cls COMMAND --help. Version: --version.")
        print("From Python: from mnist_cls import Predictor; help(Predictor). Documentation: README.md, docs/.")
    else:
        near = difflib.get_close_matches(name.replace("-", "_"), COMMANDS, n=1)
        guess = f", did you mean {near[0]!r}?" if near else ";"
        raise InputError(f"no command {name!r}{guess} known commands: {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
