"""Throughput of prediction with Ray, beside the local engine, and of the reader that feeds Ray's workers."""

import argparse
import pickle
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Row, fresh, in_turns, median, timed
from benchmarks.prediction import write_inputs
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.ray import predict_on_ray
from mnist_cls.inference.sinks.shards import PART_SIZE, shards_of
from mnist_cls.inference.sources.detect import open_source
from mnist_cls.inference.summary import Summary

# Number of images in the array.
ARRAY = 40_000
INPUTS = [("array.npy", "eager"), ("array.npy", "int8"), ("small", "eager"), ("table.parquet", "eager")]
# Inputs per shard: few, so that two workers get several shards each, as with a large input on a cluster.
SHARD_SIZES = {"array.npy": 2048, "small": 1024, "table.parquet": 1024}


class Predicted(NamedTuple):
    """Rows/s between the first worker's start and the last row, and the seconds of the whole call."""

    speed: float
    whole: float


def ray(arguments: argparse.Namespace) -> list[Row]:
    """Prediction with one and two Ray workers beside the local engine: an array, 28x28 PNGs, a Parquet file."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        np.save(folder / "array.npy", np.load(folder / "array.npy")[:ARRAY])
        images = [path.read_bytes() for path in sorted((folder / "small").rglob("*.png"))]
        pq.write_table(pa.table({"image": images}), folder / "table.parquet")
        for input, engine in INPUTS:
            variants: dict[str, Callable[[], Predicted]] = {
                "the local engine": partial(fresh, local, folder / input, engine),
                "1 worker": partial(fresh, on_ray, folder / input, engine, 1),
                "2 workers": partial(fresh, on_ray, folder / input, engine, 2),
            }
            results = in_turns(variants, arguments.rounds)
            base = median([run.speed for run in results["the local engine"]], 9)
            for way, runs in results.items():
                speed = median([run.speed for run in runs], 9)
                row = {"input": f"{input}, {engine}", "way": way, "rows/s": round(speed)}
                whole = median([run.whole for run in runs])
                rows.append({**row, "ratio": round(speed / base, 2), "the whole call, s": whole})
        for input in SHARD_SIZES:
            speed = median([fresh(reader_alone, folder / input) for _ in range(arguments.rounds)], 0)
            rows.append({"input": input, "way": "the reader alone", "rows/s": round(speed)})
    return rows


def _measure(predict: Callable[[Path], Summary]) -> Predicted:
    with tempfile.TemporaryDirectory() as folder:
        summary, whole = timed(lambda: predict(Path(folder)))
    return Predicted(summary.inputs / summary.seconds, whole)


def local(input: Path, engine: str) -> Predicted:
    """Run `predict_files` on all cores."""
    return _measure(
        lambda folder: predict_files(input, folder / "rows.parquet", PredictOptions(device="cpu", engine=engine))
    )


def on_ray(input: Path, engine: str, workers: int) -> Predicted:
    """Run `predict_on_ray` on a cluster that it starts here; each worker's network has one core."""
    options, size = PredictOptions(device="cpu", engine=engine), SHARD_SIZES[input.name]
    return _measure(lambda folder: predict_on_ray(input, folder / "rows", options, workers=workers, part_size=size))


def reader_alone(input: Path) -> float:
    """Rows/s of the work that a cluster of any size does once: reading, cutting into shards, pickling."""

    def read() -> int:
        count = 0
        for shard in shards_of(open_source(input), PART_SIZE):
            pickle.dumps(shard, protocol=5)
            count += sum(len(block.names) for block in shard.blocks)
        return count

    count, seconds = timed(read)
    return count / seconds
