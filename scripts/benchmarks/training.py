"""How fast trainings are: ours beside others', idea by idea, the loop's overhead, the whole command."""

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
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import lightning.pytorch as pl
import torch
from torch.nn import functional as F

from benchmarks.measure import Row, fresh, in_turns, median, peak_memory
from benchmarks.peers import Recipe, Trained, standard_example, train_plainly
from mnist_cls.cli.entry_point import compose
from mnist_cls.cli.settings import TrainSettings
from mnist_cls.data.loader import BatchLoader
from mnist_cls.data.normalization import normalize
from mnist_cls.training.fit import train

# What a step of the ladder from the published recipe to ours adds. Judged on the validation images.
IDEAS = {
    "the published recipe": Recipe(),
    "channels_last": Recipe(channels_last=True),
    "freed memory kept": Recipe(channels_last=True, keep_memory=True),
    "crop, pool first, batch norm, third convolution": Recipe("fast", True, True),
    "label smoothing": Recipe("fast", True, True, label_smoothing=0.1),
    "batches of 384": Recipe("fast", True, True, 384, 1.5e-2, 0.1),
    "three quarters of an epoch": Recipe("fast", True, True, 384, 1.5e-2, 0.1, 0.75),
}
GPU = ["trainer=cuda", "trainer.precision=bf16-mixed", "compile=cuda_graph"]


def training(arguments: argparse.Namespace) -> list[Row]:
    """The fast recipe against the published one and the standard example, on the test images."""
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    ours = partial(run_train, ["experiment=fast", *(GPU if gpu else ["trainer=cpu"])])
    plain = partial(fresh, train_plainly)
    seeds = [iter(range(arguments.rounds)) for _ in range(3)]
    ways = {
        "published recipe": lambda: plain(Recipe(), next(seeds[0]), "test", device),
        "published recipe, channels_last": lambda: plain(Recipe(channels_last=True), next(seeds[1]), "test", device),
        "experiment=fast": lambda: ours(next(seeds[2])),
    }
    results: dict[str, list[Trained]] = in_turns(ways, arguments.rounds)
    first = median([result.seconds for result in results["published recipe"]])
    rows: list[Row] = []
    if not gpu:
        examples = 3000
        epoch = 60_000 / fresh(standard_example, examples)
        rows.append({"way": f"standard example ({examples:,} images)", "seconds": round(epoch, 1), "share": "an epoch"})
    for name, found in results.items():
        seconds = median([result.seconds for result in found])
        accuracies = [result.accuracy for result in found]
        rows.append(
            {
                "way": name,
                "seconds": seconds,
                "share": round(seconds / first, 3),
                "accuracy": round(statistics.mean(accuracies), 5),
                "worst": round(min(accuracies), 4),
                "runs": len(found),
            }
        )
    return rows


def run_train(overrides: Sequence[str], seed: int) -> Trained:
    """One training by the command that anybody would type: its `train/seconds` and `test/accuracy`."""
    with tempfile.TemporaryDirectory() as folder:
        time_command(["-m", "mnist_cls.train", *overrides, f"seed={seed}", f"output_dir={folder}"])
        metrics = json.loads(Path(folder, "metrics.json").read_text())
    return Trained(metrics["train/seconds"], metrics["test/accuracy"])


def ideas(arguments: argparse.Namespace) -> list[Row]:
    """What each idea of the fast recipe buys: a plain loop over our 55,000 training images, and the 5,000 others."""
    seeds = {name: iter(range(10**6)) for name in IDEAS}
    ways = {
        name: lambda name=name, recipe=recipe: fresh(train_plainly, recipe, next(seeds[name]), "val")
        for name, recipe in IDEAS.items()
    }
    rows: list[Row] = []
    for name, found in in_turns(ways, arguments.rounds).items():
        accuracies = [result.accuracy for result in found]
        seconds = median([result.seconds for result in found])
        rows.append({"idea": name, "seconds": seconds, "validation accuracy": round(statistics.mean(accuracies), 5)})
    return rows


class InTurns(pl.Callback):
    """Ten steps of the training, ten of the same written by hand on a copy of its network, and so on for an epoch.

    A machine's speed drifts within seconds; between neighbouring blocks it is the same.
    """

    # Of the class, since it is the config that makes the instance.
    settings: ClassVar[TrainSettings]
    seconds: ClassVar[dict[str, list[float]]] = {"plain loop": [], "train": []}
    block = 10

    def __init__(self) -> None:
        self.steps: Iterator[None] = iter(())
        self.began: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare the plain loop."""
        loader, network = copy.copy(trainer.train_dataloader), copy.deepcopy(pl_module.model)
        self.steps = plain_steps(self.settings, cast(torch.nn.Module, network), cast(BatchLoader, loader))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        """After each block of the training, one of the plain loop; the first ones and the last batch are left out."""
        if trainer.global_step % self.block or trainer.is_last_batch:
            return
        if self.began is not None:
            self.seconds["train"].append(_now(pl_module.device) - self.began)
        began = _now(pl_module.device)
        for _ in range(self.block):
            next(self.steps)
        now = _now(pl_module.device)
        if self.began is not None:
            self.seconds["plain loop"].append(now - began)
        self.began = now


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def plain_steps(settings: TrainSettings, network: torch.nn.Module, loader: BatchLoader) -> Iterator[None]:
    """The training written by hand, a step at a time: nothing is counted, logged, shown or watched."""
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
    """`train` with all that it does by default against a plain loop: same network, batches and optimizer."""
    rows: list[Row] = []
    for overrides in (["model=image_classifier"], ["experiment=fast", "trainer.limit_train_batches=1.0"]):
        speeds: dict[str, list[float]] = {"plain loop": [], "train": []}
        ratios: list[float] = []
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}: {overrides[0]}", file=sys.stderr)
            size, seconds = fresh(loops_in_turns, overrides)
            for name, found in seconds.items():
                speeds[name] += [InTurns.block * size / each for each in found]
            ratios += [plain / ours for plain, ours in zip(seconds["plain loop"], seconds["train"], strict=True)]
        for name, found in speeds.items():
            row: Row = {"network": overrides[0], "way": name, "images/s": median(found, 0)}
            rows.append(row | ({"ratio": median(ratios, 3), "blocks": len(ratios)} if name == "train" else {}))
    return rows


def loops_in_turns(overrides: Sequence[str]) -> tuple[int, dict[str, list[float]]]:
    """An epoch of `train`, progress bar, logging and callbacks included, in turns with the plain loop.

    Returns:
        The size of a batch, and for each the seconds of its blocks.
    """
    os.environ["FORCE_COLOR"] = "1"  # the progress bar is drawn, as in a terminal
    device = GPU[:1] if torch.cuda.is_available() else ["trainer=cpu"]
    turns = "{turns:{_target_:benchmarks.training.InTurns}}"
    fixed = [f"++callbacks={turns}", "data.augmentation=null", "trainer.max_epochs=1"]
    InTurns.settings = compose("train", [*overrides, *device, *fixed])
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(InTurns.settings, Path(folder))
    return int(InTurns.settings.data.batch_size), InTurns.seconds


def command(arguments: argparse.Namespace) -> list[Row]:
    """From Enter to the prompt: the whole command, beside the import of PyTorch and of Lightning alone."""
    with tempfile.TemporaryDirectory() as folder:
        fast = ["-m", "mnist_cls.train", "experiment=fast", "trainer=cpu", f"output_dir={folder}/run"]
        programs = {
            "import torch": ["-c", "import torch"],
            "import lightning.pytorch": ["-c", "import lightning.pytorch"],
            "train --help": ["-m", "mnist_cls.train", "--help"],
            "train experiment=fast": fast,
        }
        ways = {name: partial(time_command, options) for name, options in programs.items()}
        results = in_turns(ways, arguments.rounds)
    slowest = {name: round(max(found), 2) for name, found in results.items()}
    return [{"command": name, "seconds": median(results[name]), "slowest": slowest[name]} for name in ways]


def time_command(options: Sequence[str]) -> float:
    """Seconds of a Python process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *options], check=True, capture_output=True)
    return time.perf_counter() - began


def memory_of_train(overrides: Sequence[str]) -> float:
    """Peak memory, in MB, of a process that trains."""
    run_train(overrides, 0)
    return peak_memory()
