"""How fast whole predictions are: sources, decoders, network and sink together, beside what limits them."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Row, fresh, in_turns
from mnist_cls import Predictor, load_model
from mnist_cls.data.datasets import load_dataset
from mnist_cls.images import MEAN, STD
from mnist_cls.inference.decoding.batches import chunks_of
from mnist_cls.inference.decoding.pool import Decoders
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.sources.detect import open_source

# How many of each: enough that starting costs little beside.
ARRAY, SMALL, PHOTOS = 100_000, 10_000, 200
KINDS = ("csv", "jsonl", "parquet", "npy")


def prediction(arguments: argparse.Namespace) -> list[Row]:
    """Arrays beside `Predictor`, 28x28 PNGs beside the usual way and the decoders, photos beside the decoders."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_inputs(place)
        array, small, photos = place / "array.npy", place / "small", place / "photos"
        ways: dict[str, Callable[[], float]] = {
            "array: Predictor alone": partial(fresh, predictor_alone, array),
            **{f"array: to .{kind}": partial(fresh, to_file, array, kind) for kind in KINDS},
            "28x28 PNGs: ImageFolder and DataLoader": partial(fresh, image_folder, small),
            "28x28 PNGs: the decoders alone": partial(fresh, decoders_alone, small),
            "28x28 PNGs: to .csv": partial(fresh, to_file, small, "csv"),
            "1000x1000 JPEGs: the decoders alone": partial(fresh, decoders_alone, photos),
            "1000x1000 JPEGs: to .csv": partial(fresh, to_file, photos, "csv"),
        }
        results = in_turns(ways, arguments.rounds)
    speeds = {name: statistics.median(found) for name, found in results.items()}
    rows: list[Row] = []
    for name, speed in speeds.items():
        first = next(other for other in speeds if other.split(":")[0] == name.split(":")[0])
        rows.append({"way": name, "images/s": round(speed), "ratio to the first": round(speed / speeds[first], 2)})
    return rows


def write_inputs(place: Path) -> None:
    """An array, a folder of PNGs in a folder a class as `ImageFolder` wants it, and a folder of photos."""
    data = load_dataset("mnist", "test")
    images = data.images.numpy()
    np.save(place / "array.npy", np.concatenate([images] * -(-ARRAY // len(images)))[:ARRAY])
    for number in range(SMALL):
        file = place / "small" / str(int(data.labels[number])) / f"{number:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(file)
    (place / "photos").mkdir()
    chance = np.random.default_rng(0)
    for number in range(PHOTOS):
        # Dark ink on paper that is neither white nor even, as a camera sees it.
        ink = np.asarray(Image.fromarray(images[number]).resize((600, 600)), np.float32)
        page = chance.normal(200, 4, (1000, 1000))
        page[200:800, 200:800] -= ink * 0.6
        colours = Image.fromarray(page.clip(0, 255).astype(np.uint8)).convert("RGB")
        colours.save(place / "photos" / f"{number:05}.jpg", quality=90)


def predictor_alone(array: Path) -> float:
    """Images/s of `Predictor` on an array in memory."""
    images, predictor = np.load(array), Predictor(device="cpu", engine="eager")
    predictor(images[:1000])
    began = time.perf_counter()
    predictor(images)
    return len(images) / (time.perf_counter() - began)


def to_file(input: Path, kind: str) -> float:
    """Images/s of `predict_files`, starting and stopping its processes included."""
    with tempfile.TemporaryDirectory() as folder:
        summary = predict_files(input, Path(folder) / f"rows.{kind}", device="cpu", engine="eager")
    return summary.inputs / summary.seconds


def decoders_alone(input: Path) -> float:
    """Images/s of decoding on all cores, with no network."""
    source, count = open_source(input), 0
    with Decoders("auto", split=False) as decoders:
        decoders.start(source.count)
        began = time.perf_counter()
        for chunk in chunks_of(source, decoders):
            count += len(chunk.names)
    return count / (time.perf_counter() - began)


def image_folder(input: Path) -> float:
    """Images/s of the usual way with the same network: torchvision's ImageFolder and a DataLoader of two processes."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
    loader = DataLoader(ImageFolder(str(input), transforms.Compose(steps)), batch_size=64, num_workers=2)
    model, count = load_model(), 0
    began = time.perf_counter()
    with torch.inference_mode():
        for images, _ in loader:
            count += len(model(images).argmax(1))
    return count / (time.perf_counter() - began)
