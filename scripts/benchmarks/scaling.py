"""How much faster two processes train than one, what each part of a step takes, and what follows for more machines."""

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
from typing import Any

import lightning.pytorch as pl
import torch
from torch import distributed

from benchmarks.measure import Row, in_turns, median

BATCH, STEPS = 128, 60
PARAMETERS = 421_642
# What a network between machines gives, for the reckoning: 10 Gbit/s Ethernet, a message from process to process.
BANDWIDTH, LATENCY = 1.25e9, 50e-6
# Times in seconds, each a median over the steps of a run: "step", and with several processes what their messages take.
Times = dict[str, float]


class Stopwatch(pl.Callback):
    """Writes into $STOPWATCH how long a step takes, and how long processes take to add up gradients, or two numbers."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        """Take the time; the last batch of an epoch has other things to do."""
        if not trainer.is_last_batch:
            self.ends.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time the messages alone, and write all down."""
        ends = self.ends[10:]
        times = {"step": statistics.median(later - earlier for earlier, later in itertools.pairwise(ends))}
        if trainer.world_size > 1:
            times["gradients"] = _all_reduce(torch.zeros(PARAMETERS))
            times["numbers"] = _all_reduce(torch.zeros(2))
        if trainer.is_global_zero:
            Path(os.environ["STOPWATCH"]).write_text(json.dumps(times))


def _all_reduce(tensor: torch.Tensor) -> float:
    seconds = []
    for _ in range(60):
        began = time.perf_counter()
        distributed.all_reduce(tensor)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[10:])


def scaling(arguments: argparse.Namespace) -> list[Row]:
    """`image_classifier` by one and by two processes of one thread each, and reckoned from that by more."""
    ways = {
        "1 process": partial(time_steps, BATCH),
        "1 process, half a batch": partial(time_steps, BATCH // 2),
        "2 strangers at once, half a batch each": partial(time_steps, BATCH // 2, strangers=2),
        "2 processes together": partial(time_steps, BATCH, processes=2),
    }
    results = in_turns(ways, arguments.rounds)
    times = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]} for name, found in results.items()
    }
    whole, half, strangers, together = (times[name] for name in ways)
    rows: list[Row] = []
    for (name, found), share in zip(times.items(), (1, 2, 1, 1), strict=True):
        row: Row = {"way": name, "ms a step": _ms(found["step"]), "images/s": round(BATCH / share / found["step"])}
        rows.append(row if share == 2 else row | {"efficiency": _efficiency(whole, found, 1 if found is whole else 2)})
    own = max(2 * half["step"] - whole["step"], 0)  # what a step takes however small its share of the batch
    rows += [
        {"way": "of a step, whatever the batch", "ms a step": _ms(own)},
        {"way": "gradients of 2, 1.7 MB, added up", "ms a step": _ms(together["gradients"])},
        {"way": "two numbers of 2 agreed on", "ms a step": _ms(together["numbers"])},
    ]
    slower = strangers["step"] / half["step"]
    reckoned = slower * half["step"] + together["gradients"] + together["numbers"]
    rows.append({"way": "2 processes together, reckoned", "ms a step": _ms(reckoned)})
    for machines in (2, 4, 8, 16, 32):
        rows.append({"way": f"{machines} machines, reckoned", **reckon(whole["step"], own, machines)})
    return rows


def reckon(whole: float, own: float, machines: int) -> Row:
    """What a step would take on so many machines of one process each, if nothing is sent while it is computed.

    Args:
        whole: seconds of a step of one process.
        own: the part of them that does not depend on the batch.
        machines: how many.

    Returns:
        The same batch shared by all ("ms a step", "efficiency"), and a batch as large as one has for each of them
        ("efficiency, a whole batch each").
    """
    hops = 2 * (machines - 1)
    # A ring: each sends its N-th of the gradients on to its neighbour 2 (N - 1) times; and the two numbers likewise.
    messages = hops * (4 * PARAMETERS / machines / BANDWIDTH + 2 * LATENCY)
    step = own + (whole - own) / machines + messages
    return {
        "ms a step": _ms(step),
        "images/s": round(BATCH / step),
        "efficiency": round(whole / machines / step, 2),
        "efficiency, a whole batch each": round(whole / (whole + messages), 2),
    }


def _ms(seconds: float) -> float:
    return median([seconds * 1000], 2)


def _efficiency(whole: Times, found: Times, processes: int) -> float:
    return round(whole["step"] / processes / found["step"], 2)


def time_steps(batch: int, processes: int = 1, strangers: int = 1) -> Times:
    """One short training by processes that train together, or several at the same time that do not know each other."""
    with tempfile.TemporaryDirectory() as folder:
        running = [_start(Path(folder, str(number)), batch, processes) for number in range(strangers)]
        for one in running:
            _, said = one.communicate()
            if one.returncode:
                raise RuntimeError(said)
        found: list[Times] = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    return {key: statistics.mean(one[key] for one in found) for key in found[0]}


def _start(place: Path, batch: int, processes: int) -> "subprocess.Popen[str]":
    together = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] * (processes > 1)
    overrides = [
        *("trainer=cpu", "trainer.max_epochs=1", f"data.train_size={BATCH * STEPS}", f"data.batch_size={batch}"),
        *("data.validation_size=500", "trainer.limit_test_batches=0", "trainer.enable_progress_bar=false"),
        *("logger=none", "data.augmentation=null", f"output_dir={place}"),
        "++callbacks={stopwatch:{_target_:benchmarks.scaling.Stopwatch}}",
    ]
    scripts = str(Path(__file__).parents[1])
    path = os.pathsep.join([scripts, *filter(None, [os.environ.get("PYTHONPATH")])])
    more: dict[str, Any] = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "STOPWATCH": f"{place}.json"}
    return subprocess.Popen(
        [sys.executable, *together, "-m", "mnist_cls.train", *overrides],
        env=os.environ | more,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
