"""Evaluate a network: `python -m mnist_cls.eval [checkpoint=RUN] [data=NAME] [split=val]`

By default the weights that the package carries, on MNIST's 10,000 test images. Leaves in the run's folder:
metrics.json, report.html, the pictures in it, classes.csv and predictions.parquet.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ..cli.messages import display_path
from ..cli.settings import EvalSettings
from ..errors import InputError

if TYPE_CHECKING:
    from ..checkpoints.weights import Weights
    from ..training.callbacks.outputs import KeepOutputs


def evaluate(settings: EvalSettings, folder: Path) -> float:
    """Measure accuracy and loss, print them, and write a report of them.

    Args:
        settings: of what, and on which images.
        folder: the run's folder.

    Returns:
        The accuracy, 0 to 1; of a network that does not classify, the loss.
    """
    # Imported here, because `--help` must not wait for seconds of torch and Lightning.
    from ..checkpoints.build import build_all, forward_options, load_user_models
    from ..checkpoints.find import each
    from ..checkpoints.weights import read_weights
    from ..data.datamodule import MNISTDataModule
    from ..files import write_json
    from ..memory import keep_freed_memory
    from ..training.callbacks.outputs import KeepOutputs
    from ..training.module import MNISTModule
    from ..training.trainer import make_trainer

    keep_freed_memory()
    load_user_models(settings.model_file)
    weights = [read_weights(one) for one in each(settings.checkpoint)]
    module = MNISTModule(build_all(weights, settings.shifts))
    module.forward_options = forward_options(module.model, settings.early_exit)
    data = MNISTDataModule(**settings.data.arguments())
    if settings.split == "val" and settings.data.validation_size == 0:
        raise InputError("split=val with data.validation_size=0: no images are held out; use split=test")
    report = settings.report and module.classifies
    keep = KeepOutputs()
    trainer = make_trainer(settings.trainer, folder, [keep] if report else [])
    (trainer.test if settings.split == "test" else trainer.validate)(module, data, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    if not metrics:
        limit = f"trainer.limit_{settings.split}_batches={getattr(settings.trainer, f'limit_{settings.split}_batches')}"
        raise InputError(f"{limit} leaves no image to evaluate: expected more")
    figure = metrics[f"{settings.split}/{'accuracy' if module.classifies else 'loss'}"]
    if not trainer.is_global_zero:
        return figure
    names = ", ".join(str(name or one.path.stem) for name, one in zip(each(settings.checkpoint), weights, strict=True))
    moved = f", shifts={settings.shifts}" if settings.shifts else ""
    what = f"{names}{moved} on {settings.data.name} ({settings.split})"
    accuracy = f"accuracy {figure:.2%}, " if module.classifies else ""
    print(f"{what}: {accuracy}loss {metrics[f'{settings.split}/loss']:.4f}")
    if report and trainer.world_size > 1:
        print("no report: with several devices each saw a part of the images; trainer.devices=1 writes one")
    elif report and not keep.result()[2].isfinite().all():
        print("no report: the network gives NaN or infinite values; look at them with mnist_cls.forward")
    elif report:
        figures = _report(settings, weights, metrics, keep, what, folder)
        metrics |= {f"{settings.split}/{name}": figure for name, figure in figures.items()}
        print(f"report in {display_path(folder) / 'report.html'}, with a picture of the worst errors")
    write_json(folder / "metrics.json", metrics)
    print(f"figures in {display_path(folder) / 'metrics.json'}")
    return figure


def _report(
    settings: EvalSettings,
    weights: list["Weights"],
    metrics: dict[str, float],
    keep: "KeepOutputs",
    what: str,
    folder: Path,
) -> dict[str, float]:
    from .report import write_report

    facts = {
        "network": "; ".join(str(one.model) for one in weights),
        "weights": ", ".join(one.path.name for one in weights),
        "images": f"{len(keep.result()[1]):,} of {settings.data.name} ({settings.split})",
        "accuracy": f"{metrics[f'{settings.split}/accuracy']:.2%}",
        "loss": f"{metrics[f'{settings.split}/loss']:.4f}",
    }
    return write_report(folder, *keep.result(), f"mnist_cls: {what}", facts)
