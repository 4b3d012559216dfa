"""Speed of `Predictor`: throughput of each engine beside a plain loop, and latency of one image."""

import argparse
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.measure import Row, fresh, in_turns, median, timed
from benchmarks.peers import obvious_inference
from benchmarks.training import time_command
from mnist_cls import Predictor
from mnist_cls.data.datasets import load_dataset

ENGINES = ("eager", "onnx", "int8")


class Predicted(NamedTuple):
    """Images/s, the probabilities (10000, 10), and the seconds of the engine's preparation."""

    speed: float
    probabilities: np.ndarray
    preparation: float


def engines(arguments: argparse.Namespace) -> list[Row]:
    """Each engine of `Predictor` beside a plain loop, on the 10,000 test images with the packaged weights."""
    variants = {
        "obvious loop": partial(fresh, plain_loop),
        "obvious loop, channels_last, batches of 256": partial(fresh, plain_loop, 256, True),
        **{f"engine={name}": partial(fresh, predict, name) for name in ENGINES},
    }
    results = in_turns(variants, arguments.rounds)
    labels = load_dataset("mnist", "test").labels.numpy()
    expected = results["obvious loop"][0].probabilities
    speeds = {name: median([run.speed for run in runs], 9) for name, runs in results.items()}
    base = speeds["obvious loop"]
    rows: list[Row] = []
    for name, runs in results.items():
        probabilities, speed = runs[0].probabilities, speeds[name]
        preparation = median([run.preparation for run in runs], 9)
        rows.append(
            {
                "way": name,
                "images/s": round(speed),
                "ratio": round(speed / base, 2),
                "accuracy": float((probabilities.argmax(1) == labels).mean()),
                "other labels": int((probabilities.argmax(1) != expected.argmax(1)).sum()),
                "largest difference": float(f"{np.abs(probabilities - expected).max():.1e}"),
                "preparation, s": round(preparation, 2),
            }
        )
    return rows


def plain_loop(batch_size: int = 1000, channels_last: bool = False) -> Predicted:
    """Run `obvious_inference`."""
    speed, probabilities = obvious_inference(batch_size, channels_last)
    return Predicted(speed, probabilities.numpy(), 0.0)


def predict(engine: str) -> Predicted:
    """Run `Predictor` on the test images; a warm-up on the first 1,000 is not counted."""
    images = load_dataset("mnist", "test").images.numpy()
    Predictor(device="cpu")  # imports, which are not part of the preparation
    predictor, preparation = timed(lambda: Predictor(device="cpu", engine=engine))
    predictor(images[:1000])
    predictions, seconds = timed(lambda: predictor(images))
    return Predicted(len(images) / seconds, predictions.probabilities, preparation)


def latency(arguments: argparse.Namespace) -> list[Row]:
    """One image at a time in a running process, and a whole process for one image."""
    rows: list[Row] = []
    for engine in ENGINES:
        times = fresh(one_by_one, engine)
        p99 = round(float(np.percentile(times, 99)), 3)
        rows.append({"way": f"engine={engine}", "median, ms": median(times, 3), "p99, ms": p99})
    predict = "mnist_cls.Predictor(preprocess='none')(numpy.zeros((1, 28, 28), numpy.uint8))"
    program = f"import numpy, mnist_cls; print({predict}.labels)"
    commands = {"a process for it": program, "python -c 'import torch'": "import torch"}
    variants = {name: partial(time_command, ["-c", command]) for name, command in commands.items()}
    for name, found in in_turns(variants, arguments.rounds).items():
        rows.append({"way": name, "median, ms": round(1000 * median(found, 9)), "p99, ms": ""})
    return rows


def one_by_one(engine: str, count: int = 2000, warm_up: int = 100) -> list[float]:
    """Milliseconds of each of `count` images, after some that are not counted."""
    images = load_dataset("mnist", "test").images.numpy()
    predictor = Predictor(device="cpu", engine=engine)
    calls = [partial(predictor, images[index : index + 1]) for index in range(warm_up + count)]
    return [1000 * timed(call)[1] for call in calls][warm_up:]
