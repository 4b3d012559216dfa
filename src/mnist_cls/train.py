"""Train a network: `python -m mnist_cls.train [model=mlp] [trainer.max_epochs=2] [experiment=NAME] ...`

Writes into the run's folder: checkpoints/best.ckpt and last.ckpt, model.safetensors (the best weights), metrics.json,
TensorBoard's event files and Hydra's record of the config. `--help` lists all choices.
"""

from pathlib import Path

from .cli.entry_point import entry_point
from .cli.settings import TrainSettings
from .memory import importing
from .training.resume import choose_folder


def train(settings: TrainSettings, folder: Path | None) -> float | None:
    """Train, test, and return the best epoch's validation accuracy (or loss), by which a sweep compares runs."""
    if folder is None:  # the run to resume is finished
        return None
    with importing():
        from .training import fit  # here, since --help must not wait for Lightning

    return fit.train(settings, folder)


main = entry_point("train", train, choose_folder)


if __name__ == "__main__":
    main()
