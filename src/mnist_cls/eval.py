"""Evaluate a network: `python -m mnist_cls.eval [checkpoint=RUN] [data=NAME] [split=val]`

By default the weights that the package carries, on MNIST's 10,000 test images. Leaves metrics.json in the run's folder.
"""

from pathlib import Path

from .config import entry_point, shown
from .settings import EvalSettings


def evaluate(settings: EvalSettings, folder: Path) -> float:
    """Measure accuracy and loss, print them and write them to metrics.json.

    Args:
        settings: of what, and on which images.
        folder: the run's folder.

    Returns:
        The accuracy, 0 to 1.
    """
    # Imported here, because `--help` must not wait for seconds of torch and Lightning.
    from .checkpoint import read_weights
    from .data.datamodule import MNISTDataModule
    from .files import write_json
    from .module import ClassifierModule, make_trainer

    weights = read_weights(settings.checkpoint)
    module = ClassifierModule(weights.model)
    module.load_weights(weights)
    data = MNISTDataModule(**vars(settings.data))
    trainer = make_trainer(settings.trainer, folder)
    (trainer.test if settings.split == "test" else trainer.validate)(module, data, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        write_json(folder / "metrics.json", metrics)
        accuracy, loss = metrics[f"{settings.split}/accuracy"], metrics[f"{settings.split}/loss"]
        what = f"{settings.checkpoint or weights.path.stem} on {settings.data.name} ({settings.split})"
        print(f"{what}: accuracy {accuracy:.2%}, loss {loss:.4f}")
        print(f"figures in {shown(folder) / 'metrics.json'}")
    return metrics[f"{settings.split}/accuracy"]


main = entry_point("eval", evaluate)

if __name__ == "__main__":
    main()
