"""Cost of looking inside a forward pass."""

import argparse
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.measure import Row, fresh, median, timed
from mnist_cls import create_model, list_models, load_model, trace_forward
from mnist_cls.checkpoints.find import list_weights
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.normalization import normalize

REPEATS = 21


def trace(arguments: argparse.Namespace) -> list[Row]:
    """The forward pass of one image through each network: plain, traced, and shown in a notebook."""
    return [fresh(one_network, name) for name in list_models()]


@torch.no_grad()
def one_network(name: str) -> Row:
    """Median times with one thread, after a first call that is not counted."""
    torch.set_num_threads(1)
    model = load_model(name) if name in list_weights() else create_model(name).eval()
    x = normalize(load_dataset("mnist", "test").images[:1])
    recorded = trace_forward(model, x)
    calls: dict[str, Callable[[], object]] = {
        "plain": partial(model, x),
        "traced": partial(trace_forward, model, x),
        "shown": recorded._repr_html_,
    }
    row: Row = {"network": name, "operations": len(recorded)}
    for way, call in calls.items():
        call()
        row[f"{way}, ms"] = round(1000 * median([timed(call)[1] for _ in range(REPEATS)], 9), 2)
    return {**row, "HTML, bytes": len(recorded._repr_html_().encode())}
