"""Every input gets exactly one row; outputs appear complete or not at all; the exit status says how it went."""

import csv
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from mnist_cls import Predictor, load_model
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.data.embedded import FOLDER
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.rows import COLUMNS

from .conftest import ROOT, Run, one_line

CPU = PredictOptions(device="cpu")

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of an output, with numbers as numbers, whatever its format."""
    if path.suffix == ".parquet":
        table: list[Row] = pq.read_table(path).to_pylist()
        return table
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {"label": int, "confidence": float, **{f"p{digit}": float for digit in range(10)}}
    return [{k: (numbers.get(k, str)(v) if v else None) for k, v in row.items()} for row in rows]


@pytest.fixture
def folder(tmp_path: Path, digits: np.ndarray) -> Path:
    """A text file, a cut-off PNG, and a good one deeper down; and what an operating system leaves in folders."""
    place = tmp_path / "scans"
    (place / "deeper").mkdir(parents=True)
    Image.fromarray(digits[0]).save(place / "deeper" / "seven.png")
    (place / "notes.txt").write_text("hello")
    whole = (place / "deeper" / "seven.png").read_bytes()
    (place / "cut.png").write_bytes(whole[: len(whole) // 2])
    (place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (place / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (place / "deeper" / "desktop.ini").write_text("[ViewState]")
    return place


def test_a_single_image_right_after_the_install(run: Run, png: Path) -> None:
    done = run("predict", f"input={png}")
    assert done.returncode == 0, done.stderr
    assert "100.00%" in done.stdout
    assert " 7 " in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_folder_with_broken_files(run: Run, tmp_path: Path, folder: Path, kind: str) -> None:
    done = run("predict", "input=scans", f"output=rows.{kind}")
    assert done.returncode == 1, done.stderr
    assert "3 images, 2 with an error" in done.stdout
    rows = read(tmp_path / f"rows.{kind}")
    assert [row["path"] for row in rows] == ["scans/cut.png", "scans/deeper/seven.png", "scans/notes.txt"]
    assert all(list(row) == COLUMNS for row in rows)
    assert rows[1]["label"] == 7
    assert rows[1]["error"] is None
    assert sum(rows[1][f"p{digit}"] for digit in range(10)) == pytest.approx(1, abs=1e-5)
    assert rows[1]["confidence"] == rows[1]["p7"]
    for row in (rows[0], rows[2]):
        assert "image" in str(row["error"])
        assert [row[column] for column in COLUMNS[1:-1]] == [None] * 12


def test_the_end_names_what_a_person_should_look_at(run: Run, tmp_path: Path, folder: Path, digits: np.ndarray) -> None:
    for index in range(5):
        (folder / f"text {index}.png").write_text("hello\x1b[31m")
    (folder / "bad\nname.png").write_text("hello")
    for output in ("rows.csv", "-"):
        done = run("predict", "input=scans", f"output={output}", "min_confidence=1")
        lines = (done.stdout if output == "rows.csv" else done.stderr).splitlines()
        assert lines[0].startswith("9 images, 8 with an error, 1 undecided")
        assert lines[1].startswith("error      scans/bad\\nname.png: ")
        assert [line.partition(":")[0] for line in lines[2:4]] == [
            "error      scans/cut.png",
            "error      scans/notes.txt",
        ]
        assert lines[4] == "error      and 5 more"
        assert lines[5].startswith("undecided  scans/deeper/seven.png: 7, ")
        assert len(lines) == 6


def test_the_screen_shows_every_row(run: Run, folder: Path) -> None:
    done = run("predict", "input=scans")
    assert done.returncode == 1
    for text in ("scans/cut.png", "scans/deeper/seven.png", "scans/notes.txt", "not an image"):
        assert text in done.stdout


@pytest.mark.parametrize("kind", ["npy", "npz", "npz of two", "idx", "idx.gz"])
def test_arrays_in_files(tmp_path: Path, mnist_test: LabelledImages, kind: str) -> None:
    images, path = mnist_test.images.numpy(), tmp_path / f"digits.{kind.split()[0]}"
    if kind == "npy":
        np.save(path, images)
    elif kind == "npz":
        np.savez(path, images)
    elif kind == "npz of two":
        np.savez(path, labels=mnist_test.labels.numpy(), images=images)
    else:
        content = (FOLDER / "t10k-images-idx3-ubyte.gz").read_bytes()
        path.write_bytes(content if kind == "idx.gz" else gzip.decompress(content))
    summary = predict_files(path, tmp_path / "rows.parquet", CPU)
    assert (summary.inputs, summary.errors) == (10_000, 0)
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table["path"].to_pylist() == [str(index) for index in range(10_000)]
    correct = np.array(table["label"]) == mnist_test.labels.numpy()
    assert correct.mean() > 0.99


def test_nan_is_an_error_in_its_own_row_only(run: Run, tmp_path: Path, digits: np.ndarray, labels: list[int]) -> None:
    array = digits[:4].astype(np.float32) / 255
    array[2, 5, 5] = np.nan
    np.save(tmp_path / "digits.npy", array)
    assert run("predict", "input=digits.npy", "output=rows.csv").returncode == 1
    rows = read(tmp_path / "rows.csv")
    assert [row["label"] for row in rows] == [*labels[:2], None, labels[3]]
    assert rows[2]["error"] == "holds NaN or infinite values"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, ["no such file or folder"]),
        (lambda path: path.mkdir(), ["no files in it"]),
        (lambda path: np.save(path.open("wb"), np.zeros((5, 27, 28, 2))), ["shape (5, 27, 28, 2)", "(N, 28, 28)"]),
        (lambda path: np.save(path.open("wb"), np.zeros((5, 28, 28), complex)), ["complex128", "uint8"]),
        (lambda path: np.save(path.open("wb"), np.zeros((0, 28, 28))), ["no images"]),
        (lambda path: np.save(path.open("wb"), np.array([{}], object)), ["an array of Python objects"]),
        (lambda path: path.write_bytes(b"\x93NUMPY\1\0v"), ["damaged, or not a NumPy file"]),
        (lambda path: path.write_bytes(b"\0\0\x08\3\0\0\0\1"), ["cut off in its header"]),
        (lambda path: path.write_bytes(gzip.compress(b"hello")), ["not an IDX file"]),
    ],
    ids=["missing", "empty folder", "shape", "dtype", "no images", "pickle", "cut npy", "cut idx", "gz of text"],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, make: Callable[[Path], object], words: list[str]
) -> None:
    make(tmp_path / "in")
    one_line(run("predict", "input=in", "output=rows.csv"), "in", *words)
    assert not list(tmp_path.glob("*rows*"))
    assert not list(tmp_path.glob(".*rows*"))


def test_no_input_and_bad_options(run: Run, png: Path) -> None:
    one_line(run("predict"), "no input", "input=PATH", "input=mnist:test")
    one_line(run("predict", f"input={png}", "output=rows.txt"), "rows.txt", ".csv, .jsonl, .parquet, .npy")
    one_line(run("predict", f"input={png}", "device=abacus"), "device=abacus")
    one_line(run("predict", f"input={png}", "batch_size=0"), "batch_size=0")
    one_line(run("predict", f"input={png}", "checkpoint=nothing"), "checkpoint=nothing", "image_classifier")
    one_line(run("predict", "input=my scan (1).png"), "input=my scan (1).png: no such file or folder")


@pytest.mark.parametrize("inside", ["output=scans/rows.csv", "output=scans/deeper/rows.csv"])
def test_an_output_in_the_input_is_refused(run: Run, tmp_path: Path, folder: Path, inside: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    one_line(run("predict", "input=scans", inside), inside.removeprefix("output="), "is in the input scans")
    assert sorted(path for path in tmp_path.rglob("*") if "outputs" not in path.parts) == before


@pytest.mark.parametrize("seen", ["scans", "scans/seen", "scans/deeper/../seen"])
def test_pictures_in_the_input_are_refused(tmp_path: Path, folder: Path, seen: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="is in the input"):
        predict_files(folder, tmp_path / "rows.csv", CPU, save_preprocessed=tmp_path / seen)
    assert sorted(tmp_path.rglob("*")) == before
    predict_files(folder, tmp_path / "rows.csv", CPU, save_preprocessed=tmp_path / "scans of before")


def test_an_output_that_cannot_be_written(run: Run, tmp_path: Path, png: Path) -> None:
    (tmp_path / "file").write_text("mine")
    one_line(run("predict", f"input={png}", "output=file/rows.csv"), "file")
    one_line(run("predict", f"input={png}", "output=/proc/nowhere/rows.csv"), "/proc/nowhere")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; only root can make one."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_full_disk(run: Run, tmp_path: Path, full_disk: Path, mnist_test: LabelledImages, kind: str) -> None:
    np.save(tmp_path / "many.npy", mnist_test.images[:4000].numpy())
    earlier = full_disk / f"rows.{kind}"
    earlier.write_text("an earlier output")
    one_line(run("predict", "input=many.npy", f"output={earlier}"), "No space left on device")
    assert earlier.read_text() == "an earlier output"
    assert [path.name for path in full_disk.iterdir()] == [earlier.name]


def test_a_limit_on_file_sizes(tmp_path: Path, digits: np.ndarray) -> None:
    """As on a full disk, for users who cannot mount one."""
    np.save(tmp_path / "many.npy", np.tile(digits, (40, 1, 1)))
    command = [sys.executable, str(ROOT / "scripts" / "predict_batch.py"), "many.npy", "rows.csv"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)),
    )
    one_line(done, "File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["many.npy"]


def test_the_batch_script_writes_the_same_rows(run: Run, tmp_path: Path, folder: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "predict_batch.py")]
    done = subprocess.run([*script, "scans", "script.csv"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    run("predict", "input=scans", "output=entry.csv")
    assert (tmp_path / "script.csv").read_bytes() == (tmp_path / "entry.csv").read_bytes()
    assert not (tmp_path / "outputs" / "predict_batch").exists()
    one_line(subprocess.run([*script, "nothing", "a.csv"], cwd=tmp_path, capture_output=True, text=True), "nothing")


def test_many_files_are_decoded_by_many_processes_in_order(tmp_path: Path, mnist_test: LabelledImages) -> None:
    (tmp_path / "many").mkdir()
    for index in range(1200):
        image = Image.fromarray(mnist_test.images[index].numpy())
        image.save(tmp_path / "many" / f"{index:04}.png")
    summary = predict_files(tmp_path / "many", tmp_path / "rows.parquet", CPU)
    assert summary.inputs == 1200
    table = pq.read_table(tmp_path / "rows.parquet")
    assert [Path(path).stem for path in table["path"].to_pylist()] == [f"{index:04}" for index in range(1200)]
    assert (np.array(table["label"]) == mnist_test.labels[:1200].numpy()).mean() > 0.99


@pytest.mark.parametrize("name", ["seven, the first.png", 'a "quoted" one.png', "[bold]markup.png", "zwei\nzeilen.png"])
def test_strange_names(tmp_path: Path, png: Path, name: str) -> None:
    place = tmp_path / "strange"
    place.mkdir()
    shutil.copy(png, place / name)
    for kind in ("csv", "jsonl", "parquet"):
        predict_files(place, tmp_path / f"rows.{kind}", CPU)
        assert [row["path"] for row in read(tmp_path / f"rows.{kind}")] == [str(place / name)]
    predict_files(place, options=CPU)


def test_a_name_that_is_no_utf8(tmp_path: Path, png: Path) -> None:
    place = tmp_path / "strange"
    place.mkdir()
    shutil.copy(os.fsencode(png), os.fsencode(place) + b"/\xff.png")
    predict_files(place, tmp_path / "rows.csv", CPU)
    [row] = read(tmp_path / "rows.csv")
    assert str(row["path"]).endswith("\\xff.png")


def test_the_predictor_computes_what_the_network_computes(digits: np.ndarray) -> None:
    predictions = Predictor(device="cpu", batch_size=7)(digits)
    with torch.inference_mode():
        expected = load_model()(normalize(torch.from_numpy(digits))).softmax(1).numpy()
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(predictions.labels, expected.argmax(1))
    np.testing.assert_allclose(predictions.confidences, expected.max(1), atol=1e-6)


def test_arrays_that_run_backwards_or_are_read_only(digits: np.ndarray) -> None:
    predictor = Predictor(device="cpu")
    expected = predictor(digits).labels
    np.testing.assert_array_equal(predictor(digits[::-1]).labels, expected[::-1])
    fixed = digits.copy()
    fixed.flags.writeable = False
    np.testing.assert_array_equal(predictor(fixed).labels, expected)


def test_a_file_named_like_a_users_home(run: Run, tmp_path: Path, png: Path) -> None:
    shutil.copy(png, tmp_path / "~seven.png")
    assert run("predict", "input='~seven.png'").returncode == 0


def test_a_batch_size_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size=0"):
        Predictor(device="cpu", batch_size=0)


def test_no_images_give_no_predictions() -> None:
    predictions = Predictor(device="cpu")(np.zeros((0, 28, 28), np.uint8))
    assert len(predictions.labels) == len(predictions.confidences) == len(predictions.probabilities) == 0


MEMORY = """
import resource, sys
import numpy as np, torch
from mnist_cls import Predictor
predictor = Predictor(device="cpu", batch_size=4096, preprocess="none")
predictor(np.zeros((8, 28, 28), np.uint8))
images = np.random.default_rng(0).integers(0, 255, (4096, 28, 28), np.uint8)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (250 << 20),) * 2)
predictions = predictor(images)
print(predictor.batch_size, float(predictions.probabilities.sum()))
"""


def test_memory_does_not_grow_with_the_number_of_sizes() -> None:
    """A process that predicts few images at a time for days meets every size up to the batch size."""
    program = """
import numpy as np
from mnist_cls import Predictor

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

images, predictor = np.zeros((256, 28, 28), np.uint8), Predictor(device="cpu", engine="eager", preprocess="none")
predictor(images)
before = resident()
for count in range(100, 256, 5):
    predictor(images[:count])
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100


def test_out_of_memory_halves_the_batch_until_it_fits() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    batch, total = done.stdout.split()
    assert int(batch) < 4096
    assert float(total) == pytest.approx(4096, abs=1e-2)
    assert done.stderr.startswith("out of memory with 4096 images on cpu: trying 2048\n")


class Greedy(nn.Module):
    """Runs out of memory with more than a few images, as on a small GPU."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError
        return x.flatten(1)[:, :10]


def test_not_even_one_image_fits(digits: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="single image on the CPU"):
        Predictor(Greedy(0), device="cpu", batch_size=4)(digits)
    assert capsys.readouterr().err.count("out of memory") == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_without_memory_leaves_the_work_to_the_cpu(
    digits: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = Predictor(device="cuda", batch_size=64)
    torch.cuda.set_per_process_memory_fraction(1e-9)
    torch.cuda.empty_cache()
    try:
        predictions = predictor(digits)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_array_equal(predictions.labels, Predictor(device="cpu")(digits).labels)
    assert "moving to the CPU" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_predicts_what_the_cpu_predicts(mnist_test: LabelledImages) -> None:
    images = mnist_test.images[:2000].numpy()
    cpu, cuda = (Predictor(device=device)(images).probabilities for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cpu, cuda, atol=1e-3)


def test_the_readmes_digits_are_read_correctly(tmp_path: Path) -> None:
    predict_files(ROOT / "docs" / "digits", tmp_path / "rows.jsonl", CPU)
    rows = read(tmp_path / "rows.jsonl")
    assert [str(row["label"]) for row in rows] == [Path(str(row["path"])).stem for row in rows] == ["2", "5", "7"]
