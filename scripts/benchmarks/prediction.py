"""Speed of whole predictions, from files to rows, beside their stages alone and the usual PyTorch way."""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Row, fresh, in_turns, median, timed
from mnist_cls import Predictor, load_model
from mnist_cls.data.datasets import load_dataset
from mnist_cls.images import MEAN, STD
from mnist_cls.inference.decoding.batches import batches_of
from mnist_cls.inference.decoding.pool import Decoders
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.sources.detect import open_source

# Numbers of images, large enough that starting up takes a small fraction of the time.
ARRAY, SMALL, PHOTOS = 100_000, 10_000, 200
KINDS = ("csv", "jsonl", "parquet", "npy")


def prediction(arguments: argparse.Namespace) -> list[Row]:
    """Arrays beside `Predictor`, 28x28 PNGs beside a DataLoader and the decoders, photos beside the decoders."""
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
        array, small, photos = (Path(folder, name) for name in ("array.npy", "small", "photos"))
        variants: dict[str, Callable[[], float]] = {
            "array: Predictor alone": partial(fresh, predictor_alone, array),
            **{f"array: to .{kind}": partial(fresh, to_file, array, kind) for kind in KINDS},
            "28x28 PNGs: ImageFolder and DataLoader": partial(fresh, image_folder, small),
            "28x28 PNGs: the decoders alone": partial(fresh, decoders_alone, small),
            "28x28 PNGs: to .csv": partial(fresh, to_file, small, "csv"),
            "1000x1000 JPEGs: the decoders alone": partial(fresh, decoders_alone, photos),
            "1000x1000 JPEGs: to .csv": partial(fresh, to_file, photos, "csv"),
        }
        speeds = {name: median(found, 9) for name, found in in_turns(variants, arguments.rounds).items()}
    rows: list[Row] = []
    for name, speed in speeds.items():
        first = next(other for other in speeds if other.split(":")[0] == name.split(":")[0])
        rows.append({"way": name, "images/s": round(speed), "ratio to the first": round(speed / speeds[first], 2)})
    return rows


def write_inputs(folder: Path) -> None:
    """Write an array, PNGs in one folder per class as `ImageFolder` expects, and photos."""
    data = load_dataset("mnist", "test")
    images = data.images.numpy()
    np.save(folder / "array.npy", np.concatenate([images] * -(-ARRAY // len(images)))[:ARRAY])
    for number in range(SMALL):
        file = folder / "small" / str(int(data.labels[number])) / f"{number:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(file)
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(PHOTOS):
        # Dark ink on paper that is neither white nor even, as in a photograph.
        ink = np.asarray(Image.fromarray(images[number]).resize((600, 600)), np.float32)
        page = random.normal(200, 4, (1000, 1000))
        page[200:800, 200:800] -= ink * 0.6
        photo = Image.fromarray(page.clip(0, 255).astype(np.uint8)).convert("RGB")
        photo.save(folder / "photos" / f"{number:05}.jpg", quality=90)


def predictor_alone(array: Path) -> float:
    """Images/s of `Predictor` on an array in memory."""
    images, predictor = np.load(array), Predictor(device="cpu")
    predictor(images[:1000])
    return len(images) / timed(lambda: predictor(images))[1]


def to_file(input: Path, kind: str) -> float:
    """Images/s of `predict_files`, including the start and end of its processes."""
    with tempfile.TemporaryDirectory() as folder:
        summary = predict_files(input, Path(folder) / f"rows.{kind}", PredictOptions(device="cpu"))
    return summary.inputs / summary.seconds


def decoders_alone(input: Path) -> float:
    """Images/s of decoding on all cores, without a network."""
    source, count = open_source(input), 0
    with Decoders("auto", split=False) as decoders:
        decoders.start(source.count)
        start = time.perf_counter()
        for batch in batches_of(source, decoders):
            count += len(batch.names)
    return count / (time.perf_counter() - start)


def image_folder(input: Path) -> float:
    """Images/s of the usual way with the same network: ImageFolder and a DataLoader with two processes."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
    loader = DataLoader(ImageFolder(str(input), transforms.Compose(steps)), batch_size=64, num_workers=2)
    model, count = load_model(), 0
    start = time.perf_counter()
    with torch.inference_mode():
        for images, _ in loader:
            count += len(model(images).argmax(1))
    return count / (time.perf_counter() - start)
