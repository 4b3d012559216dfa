#!/usr/bin/env python
"""Measure the figures in README.md and docs/, and print them as a table; --json FILE also writes them to a file.

    python scripts/benchmark.py engines --rounds 5

Variants run in turns, --rounds times, in separate processes; times are medians. memory and the standard example run
once; floor, latency, augmentation and trace repeat within a process.

benchmarks:
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks import (
    digits,
    distributed,
    growth,
    inference,
    page,
    prediction,
    quality,
    scaling,
    scans,
    serving,
    tracing,
    training,
)
from benchmarks.measure import Row, print_table

from mnist_cls.errors import InputError
from mnist_cls.files import whole_file

SPEED: list[Callable[[argparse.Namespace], list[Row]]] = [
    *(training.training, training.ideas, training.loop, training.command),
    *(inference.engines, prediction.prediction, inference.latency),
    *(growth.memory, growth.growth, scaling.scaling, growth.floor, growth.augmentation),
]
OTHERS = [
    distributed.ray,
    serving.serve,
    page.page,
    quality.robustness,
    scans.scans,
    scans.rows,
    digits.digits,
    quality.early_exit,
    quality.is_digit,
    tracing.trace,
]
BENCHMARKS = {function.__name__: function for function in [*SPEED, *OTHERS]}


def main() -> int:
    """Run the benchmarks named on the command line; return the exit status."""
    summaries = [f"  {name:<13} {(run.__doc__ or '').splitlines()[0]}" for name, run in BENCHMARKS.items()]
    summaries.append(f"  {'all':<13} All of them except the last {len(OTHERS)}.")
    description = (__doc__ or "") + "\n".join(summaries)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=[*BENCHMARKS, "all"], metavar="BENCHMARK", help="one of the above")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="digits: a folder of labelled images")
    parser.add_argument("--checkpoint", help="weights to use instead of the packaged ones")
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds (default: %(default)s)")
    parser.add_argument("--images", type=int, default=2000, help="scans, rows: number of test images (%(default)s)")
    parser.add_argument("--fashion-mnist", metavar="FOLDER", help="folder with the files of Fashion-MNIST")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument(
        "--plot",
        metavar="FILE.png",
        help="picture to write; growth: a plot of the figures, digits: the misread images, page: a screenshot",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: expected at least 1")
    results = {}
    try:
        for run in SPEED if arguments.benchmark == "all" else [BENCHMARKS[arguments.benchmark]]:
            results[run.__name__] = run(arguments)
            print_table(results[run.__name__], run.__name__)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if arguments.json:
        with whole_file(arguments.json) as temporary:
            temporary.write_text(json.dumps({"machine": machine(), "results": results}, indent=2))
    return 0


def machine() -> dict[str, Any]:
    """Describe the hardware and the versions that produced the figures."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in cpus if line.startswith("model name")]
    facts = {
        "machine": f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    return facts | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


if __name__ == "__main__":
    sys.exit(main())
