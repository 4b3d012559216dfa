"""Speed of distributed training: one and two processes, the parts of a step, and an estimate for more machines."""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import distributed

from benchmarks.measure import Row, in_turns, median, median_seconds

BATCH, STEPS = 128, 60
PARAMETERS = 421_642
# Assumed network for the estimate: 10 Gbit/s Ethernet, in bytes/s, and the latency of a message in seconds.
BANDWIDTH, LATENCY = 1.25e9, 50e-6
# Median seconds of a "step"; with several processes also of an all-reduce of the "gradients" and of two "numbers".
Times = dict[str, float]


class Stopwatch(pl.Callback):
    """Write the `Times` of a training run to the file $STOPWATCH."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        """Record the time, except after an epoch's last batch, which includes other work."""
        if not trainer.is_last_batch:
            self.ends.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time the messages alone, and write the file."""
        ends = self.ends[10:]
        times = {"step": statistics.median(later - earlier for earlier, later in itertools.pairwise(ends))}
        if trainer.world_size > 1:
            times["gradients"] = _all_reduce(torch.zeros(PARAMETERS))
            times["numbers"] = _all_reduce(torch.zeros(2))
        if trainer.is_global_zero:
            Path(os.environ["STOPWATCH"]).write_text(json.dumps(times))


def _all_reduce(tensor: torch.Tensor) -> float:
    return median_seconds(partial(distributed.all_reduce, tensor), calls=50, warm_up=10)


def scaling(arguments: argparse.Namespace) -> list[Row]:
    """`image_classifier` on one and two processes with one thread each, and an estimate for more machines."""
    variants = {
        "1 process": partial(time_steps, BATCH),
        "1 process, half a batch": partial(time_steps, BATCH // 2),
        "2 independent processes at once, half a batch each": partial(time_steps, BATCH // 2, independent=2),
        "2 processes together": partial(time_steps, BATCH, processes=2),
    }
    times = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in in_turns(variants, arguments.rounds).items()
    }
    whole, half, apart, together = times.values()
    rows: list[Row] = []
    for (name, found), images, processes in zip(times.items(), (1, 0.5, 1, 1), (1, None, 2, 2), strict=True):
        row: Row = {"way": name, "ms a step": _ms(found["step"]), "images/s": round(images * BATCH / found["step"])}
        if processes:
            row["efficiency"] = round(whole["step"] / processes / found["step"], 2)
        rows.append(row)
    constant = max(2 * half["step"] - whole["step"], 0)
    contention = apart["step"] / half["step"]
    together_estimated = contention * half["step"] + together["gradients"] + together["numbers"]
    rows += [
        {"way": "constant part of a step", "ms a step": _ms(constant)},
        {"way": "all-reduce of 1.7 MB of gradients, 2 processes", "ms a step": _ms(together["gradients"])},
        {"way": "all-reduce of two numbers, 2 processes", "ms a step": _ms(together["numbers"])},
        {"way": "2 processes together, estimated", "ms a step": _ms(together_estimated)},
    ]
    for machines in (2, 4, 8, 16, 32):
        rows.append({"way": f"{machines} machines, estimated", **estimate(whole["step"], constant, machines)})
    return rows


def estimate(whole: float, constant: float, machines: int) -> Row:
    """Estimate a step on several machines with one process each, without overlap of messages and computation.

    Args:
        whole: Seconds of a step of one process.
        constant: Part of these seconds that does not depend on the batch size.
        machines: Number of machines.

    Returns:
        The figures for one batch divided among all machines ("ms a step", "images/s", "efficiency"), and for a batch
        of that size on each machine ("efficiency, a whole batch each").
    """
    # Ring all-reduce: each machine sends 1/N of the gradients to its neighbour 2 (N - 1) times; likewise the numbers.
    messages = 2 * (machines - 1) * (4 * PARAMETERS / machines / BANDWIDTH + 2 * LATENCY)
    step = constant + (whole - constant) / machines + messages
    return {
        "ms a step": _ms(step),
        "images/s": round(BATCH / step),
        "efficiency": round(whole / machines / step, 2),
        "efficiency, a whole batch each": round(whole / (whole + messages), 2),
    }


def _ms(seconds: float) -> float:
    return median([seconds * 1000])


def time_steps(batch: int, processes: int = 1, independent: int = 1) -> Times:
    """Run a short training on several processes together, or several independent trainings at once."""
    with tempfile.TemporaryDirectory() as folder:
        trainings = [_start(Path(folder, str(number)), batch, processes) for number in range(independent)]
        for training in trainings:
            _, errors = training.communicate()
            if training.returncode:
                raise RuntimeError(errors)
        times: list[Times] = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    return {key: statistics.mean(run[key] for run in times) for key in times[0]}


def _start(folder: Path, batch: int, processes: int) -> "subprocess.Popen[str]":
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] * (processes > 1)
    overrides = [
        *("trainer=cpu", "trainer.max_epochs=1", f"data.train_size={BATCH * STEPS}", f"data.batch_size={batch}"),
        *("data.validation_size=500", "trainer.limit_test_batches=0", "trainer.enable_progress_bar=false"),
        *("logger=none", "data.augmentation=null", f"output_dir={folder}"),
        "++callbacks={stopwatch:{_target_:benchmarks.scaling.Stopwatch}}",
    ]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, *torchrun, "-m", "mnist_cls.train", *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "STOPWATCH": f"{folder}.json"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
