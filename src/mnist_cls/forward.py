"""Show a forward pass: `python -m mnist_cls.forward [model=NAME] [checkpoint=RUN] [input=7] [values=true] ...`

Prints every operation in order, with its source line, shapes, cost and values, and draws its output. By default with
the packaged weights and the first test image.
"""

from pathlib import Path

from .cli.entry_point import entry_point
from .cli.run_folder import named_or_new_folder
from .cli.settings import ForwardSettings


def forward(settings: ForwardSettings, folder: Path | None) -> None:
    """Trace one forward pass, print it, and draw it in `folder`."""
    from .tracing.show import show_forward  # imports torch, for which --help must not wait

    show_forward(settings, folder)


def choose_folder(settings: ForwardSettings, named: bool) -> Path | None:
    """Return the folder for the pictures; None if there will be none."""
    return named_or_new_folder(settings, named) if settings.pictures else None


main = entry_point("forward", forward, choose_folder)

if __name__ == "__main__":
    main()
