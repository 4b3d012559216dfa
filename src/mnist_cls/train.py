"""Train a network: `python -m mnist_cls.train [model=mlp] [trainer.max_epochs=2] [experiment=NAME] ...`

Leaves in the run's folder: checkpoints/best.ckpt and last.ckpt, model.safetensors (the best weights), metrics.json,
TensorBoard's event files and Hydra's record of the config. All the choices: `--help`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from .cli.entry_point import entry_point
from .cli.settings import TrainSettings
from .training.fit import train
from .training.startup import import_lightning

if TYPE_CHECKING:
    pass


def _train_in_a_process_of_our_own(settings: TrainSettings, folder: Path) -> float:
    from .data.datasets import read_ahead

    if settings.data.name == "mnist" and settings.data.dir is None:
        read_ahead()  # while Lightning is imported
    import_lightning()
    return train(settings, folder)


main = entry_point("train", _train_in_a_process_of_our_own)


if __name__ == "__main__":
    main()
