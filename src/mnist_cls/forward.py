"""Show a forward pass: `python -m mnist_cls.forward [model=NAME] [checkpoint=RUN] [input=7] [values=true] ...`

Prints every operation in order, with its source line, shapes, cost and values, and draws its output. By default with
the packaged weights and the first test image.
"""

from pathlib import Path

from .cli.entry_point import entry_point
from .cli.settings import ForwardSettings


def forward(settings: ForwardSettings, folder: Path) -> None:
    """Trace one forward pass, print it, and draw it."""
    from .tracing.show import show_forward  # imports torch, for which --help must not wait

    show_forward(settings, folder)


main = entry_point("forward", forward)

if __name__ == "__main__":
    main()
