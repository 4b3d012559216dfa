#!/usr/bin/env python
"""Compare training runs: `python scripts/summarize.py outputs/train/* [--json FILE]`

Each row combines runs that differ only in their seed: number of parameters, FLOPs per image, median training time, and
mean, least and greatest test accuracy.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict

import torch
from benchmarks.measure import Row, print_table

from mnist_cls import create_model
from mnist_cls.checkpoints.build import check_known, load_user_models
from mnist_cls.checkpoints.weights import Weights, read_weights
from mnist_cls.errors import InputError
from mnist_cls.files import whole_file
from mnist_cls.tracing.flops import FlopCount


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder, or its model.safetensors")
    parser.add_argument("--model-file", help="a Python file that registers the network of the runs")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    try:
        load_user_models(arguments.model_file)
        rows = summarize([read_weights(run) for run in arguments.runs])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(rows)
    if arguments.json:
        with whole_file(arguments.json) as temporary:
            temporary.write_text(json.dumps(rows, indent=2))
    return 0


def summarize(runs: list[Weights]) -> list[Row]:
    """Return one row per recipe, in the order of the runs.

    Raises:
        InputError: If no run has a test accuracy, or the network of one is not registered.
    """
    recipes: dict[str, list[Weights]] = defaultdict(list)
    for run in runs:
        check_known(run)
        if "test/accuracy" not in run.provenance.get("metrics", {}):
            print(f"{run.path}: skipped, it has no test accuracy", file=sys.stderr)
            continue
        config = {key: value for key, value in run.provenance["config"].items() if key != "seed"}
        recipes[json.dumps(config, sort_keys=True)].append(run)
    if not recipes:
        raise InputError("none of these runs has a test accuracy")
    return [_row(same) for same in recipes.values()]


def _row(runs: list[Weights]) -> Row:
    metrics = [run.provenance["metrics"] for run in runs]
    accuracies = [figures["test/accuracy"] for figures in metrics]
    overrides = (runs[0].provenance["command"] or "").split()[3:]
    network = create_model(**runs[0].model).eval()
    with torch.inference_mode(), FlopCount() as count:
        network(torch.zeros(1, 1, 28, 28))
    return {
        "recipe": " ".join(text for text in overrides if not text.startswith("seed=")) or "defaults",
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
