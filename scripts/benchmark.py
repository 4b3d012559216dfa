#!/usr/bin/env python
"""Measure what the README and docs/benchmarks.md state; prints a table, and with --json FILE writes the figures.

    python scripts/benchmark.py training      # the fast recipe beside the published one and the standard example
    python scripts/benchmark.py ideas         # what each idea of the fast recipe buys
    python scripts/benchmark.py loop          # `train` beside a hand-written loop
    python scripts/benchmark.py command       # the whole command, from Enter to the prompt
    python scripts/benchmark.py engines       # prediction beside the obvious loop
    python scripts/benchmark.py prediction    # arrays, folders of small images and of photos, beside what limits them
    python scripts/benchmark.py latency       # one image at a time
    python scripts/benchmark.py memory        # peak memory of training and prediction
    python scripts/benchmark.py growth        # a tenth, all and ten times the data, one and two threads
    python scripts/benchmark.py scaling       # one process and two that train together, and more of them reckoned
    python scripts/benchmark.py floor         # the share of the machine's rates that is reached
    python scripts/benchmark.py augmentation  # the share of a training step that distortions take
    python scripts/benchmark.py ray           # prediction by one and two of Ray's workers, beside the local engine
    python scripts/benchmark.py robustness    # accuracy on spoilt digits, and on scikit-learn's
    python scripts/benchmark.py scans         # accuracy on anybody's digits: scans of many kinds, fonts, strokes
    python scripts/benchmark.py rows          # how many rows of five digits are read right
    python scripts/benchmark.py early_exit    # images/s and accuracy with and without leaving at the first head
    python scripts/benchmark.py is_digit      # how well the autoencoder tells digits from other images
    python scripts/benchmark.py all           # all of them but the last six

What is compared runs in turns, --rounds times, in processes of its own; of the times the medians are given. memory
and the standard example run once, floor, latency and augmentation repeat within a process.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import distributed, growth, inference, prediction, quality, scaling, scans, training
from benchmarks.measure import Row
from rich.console import Console
from rich.table import Table

from mnist_cls.errors import InputError
from mnist_cls.files import whole_file

Benchmark = Callable[[argparse.Namespace], list[Row]]

SPEED: dict[str, Benchmark] = {
    "training": training.training,
    "ideas": training.ideas,
    "loop": training.loop,
    "command": training.command,
    "engines": inference.engines,
    "prediction": prediction.prediction,
    "latency": inference.latency,
    "memory": growth.memory,
    "growth": growth.growth,
    "scaling": scaling.scaling,
    "floor": growth.floor,
    "augmentation": growth.augmentation,
}
BENCHMARKS = SPEED | {
    "ray": distributed.ray,
    "robustness": quality.robustness,
    "scans": scans.scans,
    "rows": scans.rows,
    "early_exit": quality.early_exit,
    "is_digit": quality.is_digit,
}


def main() -> int:
    """Read the command line, measure, print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--checkpoint", help="other weights than those that the package carries")
    parser.add_argument("--rounds", type=int, default=7, help="how many times each is timed (default: %(default)s)")
    parser.add_argument("--images", type=int, default=2000, help="scans, rows: of so many test images (%(default)s)")
    parser.add_argument("--fashion-mnist", metavar="FOLDER", help="where Fashion-MNIST's files are")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--plot", metavar="FILE.png", help="growth: draw the figures there")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: expected at least 1")
    chosen = SPEED if arguments.benchmark == "all" else {arguments.benchmark: BENCHMARKS[arguments.benchmark]}
    results = {}
    try:
        for name, benchmark in chosen.items():
            results[name] = benchmark(arguments)
            _print(name, results[name])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if arguments.json:
        with whole_file(arguments.json) as temporary:
            temporary.write_text(json.dumps({"machine": machine(), "results": results}, indent=2))
    return 0


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    facts = {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _print(name: str, rows: list[Row]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(*columns, box=None, pad_edge=False, title=name, title_justify="left")
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        table.add_row(*(f"{cell:,}" if isinstance(cell, (int, float)) else cell for cell in cells))
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main())
