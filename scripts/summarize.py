#!/usr/bin/env python
"""Put trainings side by side: `python scripts/summarize.py outputs/train/* [--json FILE]`

Runs that differ only in their seed share a row: parameters, FLOPs of one image, seconds of training, and the mean of
the test accuracies with the least and the greatest.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mnist_cls import create_model
from mnist_cls.checkpoints.build import check_known, load_user_models
from mnist_cls.checkpoints.weights import Weights, read_weights
from mnist_cls.errors import InputError
from mnist_cls.files import whole_file
from mnist_cls.tracing.flops import FlopCount

Row = dict[str, Any]


def main() -> int:
    """Read the command line, print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a training's folder, or its model.safetensors")
    parser.add_argument("--model-file", help="a Python file of your own that registers the runs' network")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    try:
        load_user_models(arguments.model_file)
        rows = summarize([read_weights(run) for run in arguments.runs])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, (int, float)) else str(cell) for cell in row.values()))
    Console(width=160).print(table)
    if arguments.json:
        with whole_file(arguments.json) as temporary:
            temporary.write_text(json.dumps(rows, indent=2))
    return 0


def summarize(runs: list[Weights]) -> list[Row]:
    """A row for each recipe, in the order in which the runs name them."""
    recipes: dict[str, list[Weights]] = defaultdict(list)
    for run in runs:
        check_known(run)
        if "test/accuracy" not in run.provenance.get("metrics", {}):
            print(f"{run.path}: left out, no test accuracy is in it", file=sys.stderr)
            continue
        config = {key: value for key, value in run.provenance["config"].items() if key != "seed"}
        recipes[json.dumps(config, sort_keys=True)].append(run)
    if not recipes:
        raise InputError("none of these is a training that was tested")
    return [_row(same) for same in recipes.values()]


def _row(runs: list[Weights]) -> Row:
    metrics = [run.provenance["metrics"] for run in runs]
    accuracies = [figures["test/accuracy"] for figures in metrics]
    words = (runs[0].provenance["command"] or "").split()[3:]
    network = create_model(**runs[0].model).eval()
    with torch.inference_mode(), FlopCount() as count:
        network(torch.zeros(1, 1, 28, 28))
    return {
        "recipe": " ".join(word for word in words if not word.startswith("seed=")) or "defaults",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "MFLOP": round((count.flops or 0) / 1e6, 1),
        "training, s": round(statistics.median(figures["train/seconds"] for figures in metrics), 1),
        "runs": len(runs),
        "test accuracy": f"{statistics.mean(accuracies):.2%}",
        "least": f"{min(accuracies):.2%}",
        "greatest": f"{max(accuracies):.2%}",
    }


if __name__ == "__main__":
    sys.exit(main())
