"""How fast prediction is: `Predictor` beside the obvious loop, and one image at a time."""

import argparse
import statistics
import sys
import time
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.measure import Row, fresh, in_turns, median
from benchmarks.peers import obvious_inference
from benchmarks.training import time_command
from mnist_cls import Predictor
from mnist_cls.data.datasets import load_dataset


class Predicted(NamedTuple):
    """Images/s, the probabilities (10000, 10), and the seconds that the engine's preparation took."""

    speed: float
    probabilities: np.ndarray
    preparation: float


def engines(arguments: argparse.Namespace) -> list[Row]:
    """Each engine of `Predictor` against the obvious loop, on the 10,000 test images with the shipped weights."""
    names = ("eager", "onnx", "int8")
    ways = {
        "obvious loop": partial(fresh, obvious),
        "obvious loop, channels_last, batches of 256": partial(fresh, obvious, 256, True),
        **{f"engine={name}": partial(fresh, predict, name) for name in names},
    }
    results = in_turns(ways, arguments.rounds)
    truth = load_dataset("mnist", "test").labels.numpy()
    wanted = results["obvious loop"][0].probabilities
    base = statistics.median(result.speed for result in results["obvious loop"])
    eager = statistics.median(result.speed for result in results["engine=eager"])
    rows: list[Row] = []
    for name, found in results.items():
        probabilities = found[0].probabilities
        speed = statistics.median(result.speed for result in found)
        preparation = statistics.median(result.preparation for result in found)
        rows.append(
            {
                "way": name,
                "images/s": round(speed),
                "ratio": round(speed / base, 2),
                "accuracy": float((probabilities.argmax(1) == truth).mean()),
                "other labels": int((probabilities.argmax(1) != wanted.argmax(1)).sum()),
                "largest difference": float(f"{np.abs(probabilities - wanted).max():.1e}"),
                "preparation, s": round(preparation, 2),
                # From so many images on it has taken less time than the eager engine.
                "pays from": round(preparation / (1 / eager - 1 / speed)) if speed > 1.01 * eager else "",
            }
        )
    return rows


def obvious(batch_size: int = 1000, channels_last: bool = False) -> Predicted:
    """The loop of `obvious_inference`."""
    speed, probabilities = obvious_inference(batch_size, channels_last)
    return Predicted(speed, probabilities.numpy(), 0.0)


def predict(engine: str) -> Predicted:
    """`Predictor` on the same images; the first images, which warm it up, are not counted."""
    images = load_dataset("mnist", "test").images.numpy()
    Predictor(device="cpu")  # whatever is imported only once
    began = time.perf_counter()
    predictor = Predictor(device="cpu", engine=engine)
    preparation = time.perf_counter() - began
    predictor(images[:1000])
    began = time.perf_counter()
    probabilities = predictor(images).probabilities
    return Predicted(len(images) / (time.perf_counter() - began), probabilities, preparation)


def latency(arguments: argparse.Namespace) -> list[Row]:
    """One image at a time in a process that stands, and as a process of its own from Enter to the prompt."""
    rows: list[Row] = []
    for engine in ("eager", "onnx", "int8"):
        milliseconds = fresh(one_by_one, engine)
        rows.append(
            {
                "way": f"engine={engine}",
                "median, ms": median(milliseconds, 3),
                "p99, ms": round(float(np.percentile(milliseconds, 99)), 3),
            }
        )
    program = "import numpy, mnist_cls; print(mnist_cls.Predictor()(numpy.zeros((1, 28, 28), numpy.uint8)).labels)"
    whole = {"a process for it": ["-c", program], "python -c 'import torch'": ["-c", "import torch"]}
    ways = {name: partial(time_command, options) for name, options in whole.items()}
    for name, found in in_turns(ways, arguments.rounds).items():
        rows.append({"way": name, "median, ms": round(1000 * statistics.median(found)), "p99, ms": ""})
    return rows


def one_by_one(engine: str, count: int = 2000) -> list[float]:
    """Milliseconds for each of so many images, after 100 that are not counted."""
    images = load_dataset("mnist", "test").images.numpy()
    predictor = Predictor(device="cpu", engine=engine)
    found = []
    for index in range(count + 100):
        began = time.perf_counter()
        predictor(images[index : index + 1])
        found.append(1000 * (time.perf_counter() - began))
    print(f"{engine}: {count} images", file=sys.stderr)
    return found[100:]
