"""Scaling with data and threads, peak memory, and the fraction of the hardware's peak rates that is reached."""

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Row, fresh, in_turns, median, median_seconds, peak_memory, timed
from benchmarks.training import memory_of_train
from mnist_cls import create_model, load_model, trace_forward
from mnist_cls.cli.entry_point import compose
from mnist_cls.data.augmentation import RandomDistortion
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.normalization import normalize
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.memory import keep_freed_memory
from mnist_cls.training.fit import train
from mnist_cls.training.trainer import with_precision


def memory(arguments: argparse.Namespace) -> list[Row]:
    """Peak memory of training, and of predicting arrays of growing size."""
    rows: list[Row] = [
        {"run": "train (defaults, 1 epoch)", "peak, MB": round(fresh(memory_of_train, ["trainer.max_epochs=1"]))},
        {"run": "train experiment=fast", "peak, MB": round(fresh(memory_of_train, ["experiment=fast"]))},
    ]
    with tempfile.TemporaryDirectory() as folder:
        for count in (10_000, 100_000, 1_000_000):
            path = images_file(Path(folder), count)
            peak = command_peak("mnist_cls.predict", f"input={path}", f"output={folder}/rows.parquet")
            rows.append({"run": f"predict {count:,} images", "peak, MB": round(peak)})
            path.unlink()
        png = Path(folder) / "5.png"
        Image.fromarray(load_dataset("mnist", "test").images[15].numpy()).save(png)
        rows.append({"run": "predict one PNG", "peak, MB": round(command_peak("mnist_cls.predict", f"input={png}"))})
    return rows


# Runs a module as a command, and prints its peak memory in kB.
COMMAND = """
import atexit, runpy, sys
atexit.register(lambda: print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0], file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def command_peak(*command: str) -> float:
    """Peak memory of a command of this package without the processes that it starts, in MB; on Linux."""
    done = subprocess.run([sys.executable, "-c", COMMAND, *command], check=True, capture_output=True, text=True)
    return int(done.stderr.split()[-1]) / 1000


def growth(arguments: argparse.Namespace) -> list[Row]:
    """Time and memory for a tenth, all and ten times the data, with one and two threads."""
    rows: list[Row] = []

    def measure(run: str, count: int, variants: dict[int, partial[tuple[float, float]]]) -> None:
        for threads, found in in_turns(variants, arguments.rounds).items():
            seconds, peaks = zip(*found, strict=True)
            row = {"run": run, "images": count, "threads": threads, "seconds": median(seconds)}
            rows.append({**row, "peak, MB": round(max(peaks))})

    with tempfile.TemporaryDirectory() as folder:
        for count in (5_500, 55_000, 550_000):
            data = idx_folder(Path(folder), count)
            measure("train", count, {threads: partial(fresh, train_on, data, count, threads) for threads in (1, 2)})
        for count in (1_000, 10_000, 100_000):
            path = images_file(Path(folder), count)
            measure("predict", count, {n: partial(fresh, predict_file, path, n, "eager") for n in (1, 2)})
            path.unlink()
    if arguments.plot:
        draw(rows, Path(arguments.plot))
    return rows


def images_file(folder: Path, count: int) -> Path:
    """Write a `.npy` with `count` of MNIST's test images, repeated as often as necessary."""
    images = load_dataset("mnist", "test").images.numpy()
    path = folder / f"{count}.npy"
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
    for start in range(0, count, len(images)):
        file[start : start + len(images)] = images[: count - start]
    return path


def idx_folder(folder: Path, count: int) -> Path:
    """Write a folder of IDX files with `count` training images, and an eleventh as many for validation."""
    training, test = load_dataset("mnist", "train"), load_dataset("mnist", "test")
    repeated = training.subset(torch.arange(count * 12 // 11) % len(training.labels))
    data = folder / str(count)
    data.mkdir()
    for split, (images, labels) in (("train", repeated), ("t10k", test.subset(torch.arange(1000)))):
        for name, values in (("images-idx3", images), ("labels-idx1", labels.to(torch.uint8))):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (data / f"{split}-{name}-ubyte").write_bytes(header + values.numpy().tobytes())
    return data


def train_on(folder: Path, count: int, threads: int) -> tuple[float, float]:
    """Train with `experiment=fast` on all images; return the seconds without imports, and the peak memory in MB."""
    torch.set_num_threads(threads)
    overrides = ["experiment=fast", "trainer=cpu", f"data.dir='{folder}'", "trainer.limit_train_batches=1.0"]
    with tempfile.TemporaryDirectory() as run:
        _, seconds = timed(lambda: train(compose("train", [*overrides, f"data.train_size={count}"]), Path(run)))
    return seconds, peak_memory()


def predict_file(path: Path, threads: int, engine: str) -> tuple[float, float]:
    """Predict an array into a Parquet file; return the seconds, and the peak memory in MB."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        summary = predict_files(path, Path(folder) / "rows.parquet", PredictOptions(engine=engine))
    return summary.seconds, peak_memory()


def draw(rows: list[Row], path: Path) -> None:
    """Plot time and peak memory over the number of images, one line per kind of run and number of threads."""
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
    """Fraction of the hardware's measured rates that a training step and a prediction reach."""
    product, copied = fresh(matrix_rate), fresh(copy_rate)
    rows: list[Row] = [
        {"what": "large fp32 matrix product", "rate": f"{product / 1e9:.0f} GFLOP/s"},
        {"what": "copy of 134 MB (read and written)", "rate": f"{copied / 1e9:.1f} GB/s"},
    ]
    for name, batch, training in (
        ("fast", 384, True),
        ("image_classifier", 128, True),
        ("image_classifier", 256, False),
    ):
        flops, written, seconds = fresh(measure_pass, name, batch, training)
        row: Row = {
            "what": f"{name}: {'training step' if training else 'prediction'}, {batch} images",
            "rate": f"{flops / seconds / 1e9:.0f} GFLOP/s",
            "MFLOP an image": round(flops / batch / 1e6, 1),
            "ms": round(1000 * seconds, 2),
            "of the matrix rate": round(flops / seconds / product, 2),
        }
        if not training:  # each value is written once and read once; backward passes are not traced
            row["MB written and read"] = round(2 * written / 1e6, 1)
            row["of the copy rate"] = round(2 * written / seconds / copied, 2)
        rows.append(row)
    return rows


def augmentation(arguments: argparse.Namespace) -> list[Row]:
    """Fraction of a training step that augmentation takes."""
    rows: list[Row] = []
    for recipe in ("defaults", "experiment=best", "experiment=accurate"):
        settings = compose("train", [recipe] if "=" in recipe else [])
        batch = int(settings.data.batch_size)
        images = load_dataset("mnist", "test").images[:batch]
        distort = RandomDistortion(**settings.data.augmentation)
        _, _, step = measure_pass(settings.model["name"], batch, True, with_precision(settings.trainer).precision)
        seconds = median_seconds(partial(distort, images), 60)
        fraction = round(seconds / (step + seconds), 3)
        rows.append({"recipe": recipe, "distortions, ms": round(1e3 * seconds, 2), "fraction of the step": fraction})
    return rows


def matrix_rate() -> float:
    """FLOP/s of a product of two matrices (2048, 2048)."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / median_seconds(lambda: a @ b, 20)


def copy_rate() -> float:
    """Bytes/s, read and written together, of a copy that exceeds the caches."""
    source, target = torch.randn(1 << 25), torch.empty(1 << 25)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), 20)


def measure_pass(name: str, batch: int, training: bool, precision: str = "32-true") -> tuple[int, int, float]:
    """Measure a training step or a prediction.

    Returns:
        FLOPs, bytes of the outputs of the forward pass's operations, and seconds.
    """
    keep_freed_memory()
    network = create_model(name) if training else load_model()
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    data = load_dataset("mnist", "test")
    images, labels = data.images[:batch], data.labels[:batch]

    def step() -> None:
        if not training:
            with torch.inference_mode():
                network(normalize(images)).softmax(1)
            return
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = F.cross_entropy(network(normalize(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    with FlopCounterMode(display=False) as count:
        step()
    return count.get_total_flops(), _bytes_written(network, images), median_seconds(step, 60)


def _bytes_written(network: torch.nn.Module, images: Tensor) -> int:
    return sum(record.value.nbytes for record in trace_forward(network, normalize(images)))
