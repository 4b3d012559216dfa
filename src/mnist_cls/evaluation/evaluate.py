"""Evaluate a network on a labelled set: the work of `python -m mnist_cls.eval`."""

from pathlib import Path

from ..checkpoints.build import build_all, forward_options, load_user_models
from ..checkpoints.find import each
from ..checkpoints.weights import Weights, read_weights
from ..cli.messages import display_path
from ..cli.settings import EvalSettings
from ..errors import InputError
from ..files import write_json
from ..memory import keep_freed_memory
from ..training.callbacks.outputs import KeepOutputs
from ..training.datamodule import MNISTDataModule
from ..training.distributed import print_once
from ..training.module import MNISTModule
from ..training.trainer import make_trainer
from .report import write_report


def evaluate(settings: EvalSettings, folder: Path) -> float:
    """Compute accuracy and loss, print them, and write `metrics.json` and a report into `folder`.

    Returns:
        The accuracy, 0 to 1; the loss of a network that does not classify.

    Raises:
        InputError: If a checkpoint cannot be read, or there are no images to evaluate.
    """
    split = settings.split
    if split == "val" and settings.data.validation_size == 0:
        raise InputError("split=val with data.validation_size=0: no images are held out; use split=test")
    keep_freed_memory()
    load_user_models(settings.model_file)
    weights = [read_weights(checkpoint) for checkpoint in each(settings.checkpoint)]
    module = MNISTModule(build_all(weights, settings.shifts))
    module.forward_options = forward_options(module.model, settings.early_exit)
    with_report = settings.report and module.classifies
    outputs = KeepOutputs()
    trainer = make_trainer(settings.trainer, folder, [outputs] if with_report else [])
    run = trainer.test if split == "test" else trainer.validate
    data, part = _data(settings)
    run(module, data, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    if not metrics:
        option = f"limit_{split}_batches"
        raise InputError(f"trainer.{option}={getattr(settings.trainer, option)} leaves no images to evaluate")
    result = metrics[f"{split}/{'accuracy' if module.classifies else 'loss'}"]
    if not trainer.is_global_zero:
        return result

    accuracy = f"accuracy {result:.2%}, " if module.classifies else ""
    title = _title(settings, weights, part)
    print(f"{title}: {accuracy}loss {metrics[f'{split}/loss']:.4f}")
    if with_report and trainer.world_size > 1:
        print("no report: each device has seen only some of the images; use trainer.devices=1")
    elif with_report:
        facts = {
            "network": "; ".join(", ".join(f"{key}={value}" for key, value in one.model.items()) for one in weights),
            "weights": ", ".join(one.path.name for one in weights),
            "images": f"{_images(settings)} ({part})",
            "accuracy": f"{result:.2%}",
            "loss": f"{metrics[f'{split}/loss']:.4f}",
        }
        metrics |= {f"{split}/{name}": value for name, value in _report(folder, outputs, title, facts).items()}
    write_json(folder / "metrics.json", metrics)
    print(f"metrics in {display_path(folder) / 'metrics.json'}")
    return result


def _data(settings: EvalSettings) -> tuple[MNISTDataModule, str]:
    """Return the images to evaluate, and which part of the dataset they are: "test", "val" or "all"."""
    arguments = settings.data.arguments()
    data = MNISTDataModule(**arguments)
    if settings.split == "val" or data.has_test_images:
        return data, settings.split
    part = "val" if "val" in data.source.parts else "all"
    images = "its validation images" if part == "val" else "all of its images"
    print_once(f"{settings.data.dir} has no test images: evaluating on {images}")
    return MNISTDataModule(**arguments | {"test_dir": settings.data.dir}), part


def _images(settings: EvalSettings) -> str:
    """Return the name of the images that are evaluated."""
    data = settings.data
    return (data.test_dir if settings.split == "test" else None) or data.dir or data.name


def _report(folder: Path, outputs: KeepOutputs, title: str, facts: dict[str, str]) -> dict[str, float]:
    """Write the report if the outputs are finite, and return its metrics."""
    images, labels, probabilities = outputs.result()
    if not probabilities.isfinite().all():
        print("no report: the network's output has NaN or infinite values; inspect it with mnist_cls.forward")
        return {}
    facts = {**facts, "images": f"{len(labels):,} of {facts['images']}"}
    metrics = write_report(folder, images, labels, probabilities, f"mnist_cls: {title}", facts)
    print(f"report in {display_path(folder) / 'report.html'}")
    return metrics


def _title(settings: EvalSettings, weights: list[Weights], part: str) -> str:
    checkpoints = zip(each(settings.checkpoint), weights, strict=True)
    names = ", ".join(str(name or one.path.stem) for name, one in checkpoints)
    shifts = f", shifts={settings.shifts}" if settings.shifts else ""
    return f"{names}{shifts} on {_images(settings)} ({part})"
