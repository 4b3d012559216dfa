"""How fast Ray's workers predict, beside the local engine, and how fast the reader is that feeds them."""

import argparse
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Row, fresh, in_turns, median
from benchmarks.prediction import write_inputs
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.ray import predict_on_ray
from mnist_cls.inference.sinks.shards import PART, shards_of
from mnist_cls.inference.sources.detect import open_source

# Images of the array.
ARRAY = 40_000
# Inputs of a part: few, so that two workers have as many parts each of what is a small input for a cluster.
PART_SIZES = {"array.npy": 2048, "small": 1024, "table.parquet": 1024}


class Predicted(NamedTuple):
    """Rows/s once the workers stand, and all seconds, with starting and stopping."""

    speed: float
    whole: float


def ray(arguments: argparse.Namespace) -> list[Row]:
    """An array, a folder of 28x28 PNGs and a Parquet file of them: the local engine, one worker, two workers."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_inputs(place)
        np.save(place / "array.npy", np.load(place / "array.npy")[:ARRAY])
        images = [path.read_bytes() for path in sorted((place / "small").rglob("*.png"))]
        pq.write_table(pa.table({"image": images}), place / "table.parquet")
        for input, engines in {
            "array.npy": ("eager", "int8"),
            "small": ("eager",),
            "table.parquet": ("eager",),
        }.items():
            for engine in engines:
                ways: dict[str, Callable[[], Predicted]] = {
                    "the local engine": partial(fresh, local, place / input, engine),
                    "1 worker": partial(fresh, on_ray, place / input, engine, 1),
                    "2 workers": partial(fresh, on_ray, place / input, engine, 2),
                }
                rows += _rows(f"{input}, {engine}", in_turns(ways, arguments.rounds))
            speed = median([fresh(reader_alone, place / input) for _ in range(arguments.rounds)], 0)
            rows.append({"input": input, "way": "the reader alone", "rows/s": round(speed)})
    return rows


def _rows(input: str, results: dict[str, list[Predicted]]) -> list[Row]:
    first = statistics.median(found.speed for found in results["the local engine"])
    rows: list[Row] = []
    for name, found in results.items():
        speed = statistics.median(one.speed for one in found)
        row: Row = {"input": input, "way": name, "rows/s": round(speed), "ratio": round(speed / first, 2)}
        rows.append({**row, "the whole call, s": median([one.whole for one in found])})
    return rows


def local(input: Path, engine: str) -> Predicted:
    """`predict_files`, on all cores."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        summary = predict_files(input, Path(folder) / "rows.parquet", device="cpu", engine=engine)
    return Predicted(summary.inputs / summary.seconds, time.perf_counter() - began)


def on_ray(input: Path, engine: str, workers: int) -> Predicted:
    """`predict_on_ray` on a cluster that it starts here; each worker has a core for its network."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work, size = PredictOptions(device="cpu", engine=engine), PART_SIZES[input.name]
        summary = predict_on_ray(input, Path(folder) / "rows", work, workers=workers, part_size=size)
    return Predicted(summary.inputs / summary.seconds, time.perf_counter() - began)


def reader_alone(input: Path) -> float:
    """Rows/s of what happens once in a cluster, whatever its size: reading, cutting into parts, pickling."""
    began, count = time.perf_counter(), 0
    for part in shards_of(open_source(input), PART):
        pickle.dumps(part, protocol=5)
        count += sum(len(piece.names) for piece in part.pieces)
    return count / (time.perf_counter() - began)
