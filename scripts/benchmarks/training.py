"""How fast trainings are: ours beside others', idea by idea, the loop's overhead, the whole command."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch.nn import functional as F

from benchmarks.measure import Row, fresh, in_turns, median, peak_memory
from benchmarks.peers import Recipe, Trained, standard_example, train_plainly
from mnist_cls import create_model
from mnist_cls.config import compose
from mnist_cls.data.datamodule import MNISTDataModule
from mnist_cls.images import normalize
from mnist_cls.memory import keep_freed_memory
from mnist_cls.train import train

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


class Clock(pl.Callback):
    """Measures a training's steps: from the end of the 10th to the end of the last, validation left out."""

    seconds, first = 0.0, 10

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        """Start after the first steps, which prepare things."""
        if trainer.global_step == self.first:
            Clock.seconds = -time.perf_counter()
        elif trainer.is_last_batch:
            Clock.seconds += time.perf_counter()


def loop(arguments: argparse.Namespace) -> list[Row]:
    """`train` with all that it does by default against a plain loop: same network, batches and optimizer."""
    rows: list[Row] = []
    for overrides in (["model=image_classifier"], ["experiment=fast", "trainer.limit_train_batches=1.0"]):
        ways = {
            "plain loop": partial(fresh, plain_loop, overrides),
            "train": partial(fresh, clocked_train, overrides),
        }
        results: dict[str, list[float]] = in_turns(ways, arguments.rounds)
        for name, speeds in results.items():
            ratio = round(statistics.median(speeds) / statistics.median(results["plain loop"]), 3)
            rows.append({"network": overrides[0], "way": name, "images/s": median(speeds, 0), "ratio": ratio})
    return rows


def clocked_train(overrides: Sequence[str]) -> float:
    """Images/s of the steps of one epoch, progress bar, logging and callbacks included."""
    with tempfile.TemporaryDirectory() as folder:
        clock = ["+callbacks.clock._target_=benchmarks.training.Clock"]
        if "experiment=fast" in overrides:
            clock = ["+callbacks={clock:{_target_:benchmarks.training.Clock}}"]
        fixed = ["trainer=cpu", "data.augmentation=null", "trainer.max_epochs=1"]
        settings = compose("train", [*overrides, *clock, *fixed])
        train(settings, Path(folder))
    size = int(settings.data.batch_size)
    return (55_000 // size * size - Clock.first * size) / Clock.seconds


def plain_loop(overrides: Sequence[str]) -> float:
    """The same steps written by hand: nothing is counted, logged, shown or watched."""
    keep_freed_memory()
    settings = compose("train", [*overrides, "data.augmentation=null"])
    data = MNISTDataModule(batch_size=settings.data.batch_size)
    data.setup("fit")
    options = {key: value for key, value in settings.optimizer.items() if key != "_target_"}
    kind = getattr(torch.optim, settings.optimizer["_target_"].rsplit(".", 1)[1])
    network = create_model(**settings.model).to(memory_format=torch.channels_last)
    optimizer = kind(network.parameters(), **options)
    loader = data.train_dataloader()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.optimizer["lr"], len(loader))
    seen, began = 0, 0.0
    for number, (images, labels) in enumerate(loader):
        logits = network(normalize(images))
        loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if number + 1 == Clock.first:
            began = time.perf_counter()
        elif number + 1 > Clock.first and len(labels) == loader.batch_size:
            seen += len(labels)
    return seen / (time.perf_counter() - began)


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
