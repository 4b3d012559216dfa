"""How cost grows with the data and the threads, how much memory is needed, and what the machine could do at best."""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Row, fresh, in_turns, median, peak_memory
from benchmarks.training import memory_of_train
from mnist_cls import create_model, load_model, trace_forward
from mnist_cls.cli.entry_point import compose
from mnist_cls.data.augmentation import RandomDistortion
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.normalization import normalize
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.memory import keep_freed_memory
from mnist_cls.training.fit import train


def memory(arguments: argparse.Namespace) -> list[Row]:
    """Peak memory of a default training and of predicting ever more images from an array in a file."""
    rows: list[Row] = [
        {"run": "train (defaults, 1 epoch)", "peak, MB": round(fresh(memory_of_train, ["trainer.max_epochs=1"]))},
        {"run": "train experiment=fast", "peak, MB": round(fresh(memory_of_train, ["experiment=fast"]))},
    ]
    with tempfile.TemporaryDirectory() as folder:
        for count in (10_000, 100_000, 1_000_000):
            path = images_file(Path(folder), count)
            found = fresh(predict_file, path, 2, "eager")
            rows.append({"run": f"predict {count:,} images", "peak, MB": round(found[1])})
            path.unlink()
    return rows


def growth(arguments: argparse.Namespace) -> list[Row]:
    """Seconds and memory for a tenth, all and ten times the data, with one and two threads; --plot draws them."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (5_500, 55_000, 550_000):
            place = idx_folder(Path(folder), count)
            ways = {threads: partial(fresh, train_on, place, count, threads) for threads in (1, 2)}
            rows += _rows("train", count, in_turns(ways, arguments.rounds))
        for count in (1_000, 10_000, 100_000):
            path = images_file(Path(folder), count)
            ways = {threads: partial(fresh, predict_file, path, threads, "eager") for threads in (1, 2)}
            rows += _rows("predict", count, in_turns(ways, arguments.rounds))
            path.unlink()
    if arguments.plot:
        draw(rows, Path(arguments.plot))
    return rows


def _rows(what: str, count: int, results: dict[int, list[tuple[float, float]]]) -> list[Row]:
    rows: list[Row] = []
    for threads, found in results.items():
        seconds, peaks = zip(*found, strict=True)
        row: Row = {"run": what, "images": count, "threads": threads, "seconds": median(list(seconds))}
        rows.append({**row, "peak, MB": round(max(peaks))})
    return rows


def images_file(folder: Path, count: int) -> Path:
    """A `.npy` with so many of MNIST's test images, one after another and from the start again."""
    images = load_dataset("mnist", "test").images.numpy()
    path = folder / f"{count}.npy"
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
    for start in range(0, count, len(images)):
        file[start : start + len(images)] = images[: count - start]
    return path


def idx_folder(folder: Path, count: int) -> Path:
    """A folder with MNIST's files, whose training images are so many and one in twelve more for the validation."""
    data = load_dataset("mnist", "train")
    place = folder / str(count)
    place.mkdir()
    picked = torch.arange(count * 12 // 11) % len(data.labels)
    for split, images, labels in (("train", data.images[picked], data.labels[picked]), ("t10k", *_few())):
        header = bytes([0, 0, 8, 3]) + np.array(images.shape, ">u4").tobytes()
        (place / f"{split}-images-idx3-ubyte").write_bytes(header + images.numpy().tobytes())
        header = bytes([0, 0, 8, 1]) + np.array(labels.shape, ">u4").tobytes()
        (place / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.to(torch.uint8).numpy().tobytes())
    return place


def _few() -> tuple[Tensor, Tensor]:
    data = load_dataset("mnist", "test")
    return data.images[:1000], data.labels[:1000]


def train_on(folder: Path, count: int, threads: int) -> tuple[float, float]:
    """Seconds of `train experiment=fast` on all images, imports left out, and the process's peak memory in MB."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    overrides = ["experiment=fast", "trainer=cpu", f"data.dir='{folder}'", "trainer.limit_train_batches=1.0"]
    with tempfile.TemporaryDirectory() as run:
        train(compose("train", [*overrides, f"data.train_size={count}"]), Path(run))
    return time.perf_counter() - began, peak_memory()


def predict_file(path: Path, threads: int, engine: str) -> tuple[float, float]:
    """Seconds of predicting an array in a file into a Parquet file, and the process's peak memory in MB."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        summary = predict_files(path, Path(folder) / "rows.parquet", engine=engine)
    return summary.seconds, peak_memory()


def draw(rows: list[Row], path: Path) -> None:
    """Seconds and peak memory over images, in two pictures: a line for each kind of run and number of threads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, column in zip(figure.subplots(1, 2), ("seconds", "peak, MB"), strict=True):
        for run, colour in (("train", "tab:blue"), ("predict", "tab:orange")):
            for threads, style in ((1, "--"), (2, "-")):
                found = [row for row in rows if row["run"] == run and row["threads"] == threads]
                points = [row["images"] for row in found], [row[column] for row in found]
                axis.plot(*points, style, color=colour, marker="o", label=f"{run}, threads: {threads}")
        axis.set(xscale="log", yscale="log" if column == "seconds" else "linear", xlabel="images", ylabel=column)
        axis.set_ylim(bottom=None if column == "seconds" else 0)
        axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def floor(arguments: argparse.Namespace) -> list[Row]:
    """What share of the machine's measured rates a training step and a prediction reach."""
    product = fresh(matrix_rate)
    copied = fresh(copy_rate)
    rows: list[Row] = [
        {"what": "large fp32 matrix product", "rate": f"{product / 1e9:.0f} GFLOP/s"},
        {"what": "copy of 134 MB (read and written)", "rate": f"{copied / 1e9:.1f} GB/s"},
    ]
    for name, batch, training in (
        ("fast", 384, True),
        ("image_classifier", 128, True),
        ("image_classifier", 256, False),
    ):
        flops, given, seconds = fresh(measure_pass, name, batch, training)
        row: Row = {
            "what": f"{name}: {'training step' if training else 'prediction'}, {batch} images",
            "rate": f"{flops / seconds / 1e9:.0f} GFLOP/s",
            "MFLOP an image": round(flops / batch / 1e6, 1),
            "ms": round(1000 * seconds, 2),
            "of the matrix rate": round(flops / seconds / product, 2),
        }
        if not training:  # each value is written once and read once; of a backward pass nobody has counted them
            row |= {
                "MB written and read": round(2 * given / 1e6, 1),
                "of the copy rate": round(2 * given / seconds / copied, 2),
            }
        rows.append(row)
    return rows


def augmentation(arguments: argparse.Namespace) -> list[Row]:
    """How much of a training step the distortions take."""
    rows: list[Row] = []
    for recipe in ("defaults", "experiment=best", "experiment=accurate"):
        settings = compose("train", [recipe] if "=" in recipe else [])
        batch = int(settings.data.batch_size)
        images = load_dataset("mnist", "test").images[:batch]
        distort = RandomDistortion(**settings.data.augmentation)
        _, _, step = measure_pass(settings.model["name"], batch, True, settings.trainer.precision)
        seconds = _median_seconds(partial(distort, images), 60)
        share = round(seconds / (step + seconds), 3)
        rows.append({"recipe": recipe, "distortions, ms": round(1e3 * seconds, 2), "share of the step": share})
    return rows


def matrix_rate() -> float:
    """FLOP/s of a product of two matrices (2048, 2048)."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / _median_seconds(lambda: a @ b, 20)


def copy_rate() -> float:
    """Bytes/s, read and written together, of a copy that no cache holds."""
    source, target = torch.randn(1 << 25), torch.empty(1 << 25)
    return 2 * source.nbytes / _median_seconds(lambda: target.copy_(source), 20)


def measure_pass(name: str, batch: int, training: bool, precision: str = "32-true") -> tuple[int, int, float]:
    """FLOPs of one step or one forward pass, the bytes that the forward pass's operations give, and seconds."""
    keep_freed_memory()
    network = create_model(name) if training else load_model()
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    data = load_dataset("mnist", "test")
    images, labels = data.images[:batch], data.labels[:batch]

    def once() -> None:
        if not training:
            with torch.inference_mode():
                network(normalize(images)).softmax(1)
            return
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = F.cross_entropy(network(normalize(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    once()
    with FlopCounterMode(display=False) as count:
        once()
    return count.get_total_flops(), _given(network, images), _median_seconds(once, 60)


def _given(network: torch.nn.Module, images: Tensor) -> int:
    """Bytes of all values that the operations of a forward pass give."""
    return sum(record.value.nbytes for record in trace_forward(network, normalize(images)))


def _median_seconds(function: Callable[[], object], times: int) -> float:
    """Median seconds of a call, after three that warm up."""
    found = []
    for number in range(times + 3):
        began = time.perf_counter()
        function()
        if number >= 3:
            found.append(time.perf_counter() - began)
    return float(np.median(found))
