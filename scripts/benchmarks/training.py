"""Speed of training: the fast recipe and its ideas beside others, the loop's overhead, and the whole command."""

import argparse
import contextlib
import copy
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import lightning.pytorch as pl
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.measure import Row, fresh, in_turns, median, peak_memory, timed
from benchmarks.peers import Recipe, Trained, standard_example, synchronized_time, train_plainly
from mnist_cls.cli.entry_point import compose
from mnist_cls.cli.settings import TrainSettings
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.loader import BatchLoader
from mnist_cls.data.normalization import normalize
from mnist_cls.training.fit import train

# From the published recipe to `experiment=fast`; each line adds one idea.
IDEAS = {
    "the published recipe": Recipe(),
    "channels_last": Recipe(channels_last=True),
    "freed memory kept": Recipe(channels_last=True, keep_memory=True),
    "crop, pool first, batch norm, third convolution": Recipe("fast", True, True),
    "label smoothing": Recipe("fast", True, True, label_smoothing=0.1),
    "batches of 384": Recipe("fast", True, True, 384, 1.5e-2, 0.1),
    "three fifths of an epoch": Recipe("fast", True, True, 384, 1.5e-2, 0.1, 0.6),
}
# The root of the repository.
ROOT = Path(__file__).parents[2]

GPU = ["trainer=cuda", "trainer.precision=bf16-mixed", "compile=reduce-overhead"]


def training(arguments: argparse.Namespace) -> list[Row]:
    """The fast recipe beside the published one and PyTorch's example, on the test images."""
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    seeds = [iter(range(arguments.rounds)) for _ in range(3)]
    plain = partial(fresh, train_plainly)
    variants = {
        "published recipe": lambda: plain(Recipe(), next(seeds[0]), "test", device),
        "published recipe, channels_last": lambda: plain(Recipe(channels_last=True), next(seeds[1]), "test", device),
        "experiment=fast": lambda: run_train(
            ["experiment=fast", *(GPU if gpu else ["trainer=cpu"])], seed=next(seeds[2])
        ),
    }
    results: dict[str, list[Trained]] = in_turns(variants, arguments.rounds)
    rows: list[Row] = []
    if not gpu:
        examples = 3000
        epoch = 60_000 / fresh(standard_example, examples)
        rows.append(
            {"way": f"standard example ({examples:,} images)", "seconds": round(epoch, 1), "relative time": "an epoch"}
        )
    base = median([run.seconds for run in results["published recipe"]])
    for name, runs in results.items():
        seconds, accuracies = median([run.seconds for run in runs]), [run.accuracy for run in runs]
        mean, worst = round(statistics.mean(accuracies), 5), round(min(accuracies), 4)
        row = {
            "way": name,
            "seconds": seconds,
            "relative time": round(seconds / base, 3),
            "accuracy": mean,
            "worst": worst,
        }
        rows.append({**row, "runs": len(runs)})
    return rows


def run_train(overrides: Sequence[str], seed: int) -> Trained:
    """Run `python -m mnist_cls.train`, and return its `train/seconds` and `test/accuracy`."""
    with tempfile.TemporaryDirectory() as folder:
        time_command(["-m", "mnist_cls.train", *overrides, f"seed={seed}", f"output_dir={folder}"])
        metrics = json.loads(Path(folder, "metrics.json").read_text())
    return Trained(metrics["train/seconds"], metrics["test/accuracy"])


def ideas(arguments: argparse.Namespace) -> list[Row]:
    """What each idea of the fast recipe contributes, in a plain loop, on the validation images."""
    seeds = {name: iter(range(10**6)) for name in IDEAS}
    variants = {
        name: lambda name=name, recipe=recipe: fresh(train_plainly, recipe, next(seeds[name]), "val")
        for name, recipe in IDEAS.items()
    }
    rows: list[Row] = []
    for name, runs in in_turns(variants, arguments.rounds).items():
        accuracy = round(statistics.mean(run.accuracy for run in runs), 5)
        seconds = median([run.seconds for run in runs])
        rows.append({"idea": name, "seconds": seconds, "validation accuracy": accuracy})
    return rows


class InTurns(pl.Callback):
    """Alternate blocks of ten steps of `train` with ten steps of a plain loop on a copy of the network, for an epoch.

    The machine's speed drifts within seconds, but hardly between neighbouring blocks.
    """

    # Class attributes, because the config creates the instance.
    settings: ClassVar[TrainSettings]
    seconds: ClassVar[dict[str, list[float]]] = {"plain loop": [], "train": []}
    block = 10

    def __init__(self) -> None:
        self.steps: Iterator[None] = iter(())
        self.start: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare the plain loop."""
        loader, network = copy.copy(trainer.train_dataloader), copy.deepcopy(pl_module.model)
        self.steps = plain_steps(self.settings, cast(torch.nn.Module, network), cast(BatchLoader, loader))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        """Run a block of the plain loop after each block of `train`; the first one and the last batch do not count."""
        if trainer.global_step % self.block or trainer.is_last_batch:
            return
        if self.start is not None:
            self.seconds["train"].append(synchronized_time(pl_module.device.type) - self.start)
        start = synchronized_time(pl_module.device.type)
        for _ in range(self.block):
            next(self.steps)
        now = synchronized_time(pl_module.device.type)
        if self.start is not None:
            self.seconds["plain loop"].append(now - start)
        self.start = now


def plain_steps(settings: TrainSettings, network: torch.nn.Module, loader: BatchLoader) -> Iterator[None]:
    """Train by hand, one step at a time, without metrics, logging or callbacks."""
    options = {key: value for key, value in settings.optimizer.items() if key != "_target_"}
    kind = getattr(torch.optim, settings.optimizer["_target_"].rsplit(".", 1)[1])
    optimizer = kind(network.parameters(), **options)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.optimizer["lr"], len(loader) + 1)
    for images, labels in loader:
        logits = network(normalize(images))
        loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield


def loop(arguments: argparse.Namespace) -> list[Row]:
    """`train` with its defaults beside a plain loop with the same network, batches and optimizer."""
    rows: list[Row] = []
    for overrides in (["model=image_classifier"], ["experiment=fast", "trainer.limit_train_batches=1.0"]):
        runs = in_turns({overrides[0]: partial(fresh, loops_in_turns, overrides)}, arguments.rounds)[overrides[0]]
        ratios = [plain / ours for _, seconds in runs for plain, ours in zip(*seconds.values(), strict=True)]
        for name in InTurns.seconds:
            speeds = [InTurns.block * size / each for size, seconds in runs for each in seconds[name]]
            row: Row = {"network": overrides[0], "way": name, "images/s": median(speeds, 0)}
            rows.append(row | ({"ratio": median(ratios, 3), "blocks": len(ratios)} if name == "train" else {}))
    return rows


def loops_in_turns(overrides: Sequence[str]) -> tuple[int, dict[str, list[float]]]:
    """Run an epoch of `train` in turns with the plain loop.

    Returns:
        The batch size, and the seconds of each block of the plain loop and of `train`.
    """
    os.environ["FORCE_COLOR"] = "1"  # draws the progress bar, as in a terminal
    device = GPU[:1] if torch.cuda.is_available() else ["trainer=cpu"]
    turns = "{turns:{_target_:benchmarks.training.InTurns}}"
    fixed = [f"++callbacks={turns}", "data.augmentation=null", "trainer.max_epochs=1"]
    InTurns.settings = compose("train", [*overrides, *device, *fixed])
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(InTurns.settings, Path(folder))
    return int(InTurns.settings.data.batch_size), InTurns.seconds


def command(arguments: argparse.Namespace) -> list[Row]:
    """The whole command, from Enter to the prompt, beside the imports of PyTorch and Lightning."""
    with tempfile.TemporaryDirectory() as folder:
        png = f"{folder}/digit.png"
        Image.fromarray(load_dataset("mnist", "test").images[0].numpy()).save(png)
        commands = {
            "import torch": ["-c", "import torch"],
            "import lightning.pytorch": ["-c", "import lightning.pytorch"],
            "train --help": ["-m", "mnist_cls.train", "--help"],
            "train experiment=fast": [
                *("-m", "mnist_cls.train", "experiment=fast", "trainer=cpu", f"output_dir={folder}/run")
            ],
            "predict, one PNG": ["-m", "mnist_cls.predict", f"input={png}"],
            "predict_batch, one PNG": [str(ROOT / "scripts" / "predict_batch.py"), png, "-"],
        }
        variants = {name: partial(time_command, options) for name, options in commands.items()}
        results = in_turns(variants, arguments.rounds)
    return [
        {"command": name, "seconds": median(found), "slowest": round(max(found), 2)} for name, found in results.items()
    ]


def time_command(options: Sequence[str]) -> float:
    """Seconds of a Python process."""
    return timed(partial(subprocess.run, [sys.executable, *options], check=True, capture_output=True))[1]


def memory_of_train(overrides: Sequence[str]) -> float:
    """Peak memory of a training process, in MB."""
    run_train(overrides, seed=0)
    return peak_memory()
