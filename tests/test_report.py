"""An evaluation writes a report: a page for the browser, plots, and tables to compute with."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mnist_cls.checkpoints.build import build
from mnist_cls.checkpoints.weights import read_weights, save_weights
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.evaluation.report import write_report

from .conftest import Run, one_line, run_module


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an evaluation of the packaged weights."""
    folder = tmp_path_factory.mktemp("report")
    done = run_module("eval", "output_dir=e", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "report in e/report.html" in done.stdout
    return folder / "e"


def metrics_of(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def test_writes_all_files(report: Path) -> None:
    assert {path.name for path in report.iterdir() if path.is_file()} == {
        "answered.png",
        "classes.csv",
        "confusion_matrix.png",
        "errors.png",
        "metrics.json",
        "predictions.parquet",
        "reliability.png",
        "report.html",
    }


def test_predictions_parquet_has_a_row_for_every_image(report: Path, mnist_test: LabelledImages) -> None:
    table = pq.read_table(report / "predictions.parquet").to_pydict()
    assert table["path"] == [str(index) for index in range(10_000)]
    assert table["target"] == mnist_test.labels.tolist()
    accuracy = np.mean(np.array(table["label"]) == np.array(table["target"]))
    assert accuracy == pytest.approx(metrics_of(report)["test/accuracy"])
    probabilities = np.array([table[f"p{digit}"] for digit in range(10)])
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)


def test_precision_and_recall_are_those_of_the_predictions(report: Path) -> None:
    table = pq.read_table(report / "predictions.parquet").to_pydict()
    predicted, true = np.array(table["label"]), np.array(table["target"])
    with (report / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["digit"] for row in rows] == list("0123456789")
    for digit, row in enumerate(rows):
        assert int(row["images"]) == (true == digit).sum()
        assert float(row["precision"]) == pytest.approx(np.mean(true[predicted == digit] == digit), abs=1e-4)
        assert float(row["recall"]) == pytest.approx(np.mean(predicted[true == digit] == digit), abs=1e-4)


def test_the_calibration_error_is_that_computed_by_hand(report: Path) -> None:
    table = pq.read_table(report / "predictions.parquet").to_pydict()
    confidence = np.array(table["confidence"])
    correct = np.array(table["label"]) == np.array(table["target"])
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(confidence[bins == index].sum() - correct[bins == index].sum()) for index in range(15)]
    assert metrics_of(report)["test/calibration_error"] == pytest.approx(sum(gaps) / 10_000, abs=2e-4)


def test_draws_the_most_confident_errors_first(tmp_path: Path, mnist_test: LabelledImages) -> None:
    images, labels = mnist_test.images[:3], mnist_test.labels[:3]  # 7, 2, 1
    probabilities = torch.full((3, 10), 0.01)
    for row, (predicted, confidence) in enumerate([(7, 0.91), (3, 0.6), (4, 0.91)]):
        probabilities[row, predicted] = confidence
    metrics = write_report(tmp_path, images, labels, probabilities, "Three <images>", {})
    assert metrics["calibration_error"] == pytest.approx((0.09 + 0.6 + 0.91 - 0.18 + 0) / 3, abs=0.2)
    with Image.open(tmp_path / "errors.png") as picture:
        drawn = np.asarray(picture)
    for index, left in ((2, 0), (1, 88)):
        expected = np.asarray(Image.fromarray(images[index].numpy()).resize((84, 84), Image.Resampling.NEAREST))
        np.testing.assert_array_equal(drawn[:84, left : left + 84], expected)
    assert (drawn[:84, 176:] == 255).all()  # the image classified correctly is not drawn
    assert "Three &lt;images&gt;" in (tmp_path / "report.html").read_text()


def test_rows_of_the_confusion_matrix_are_labels(tmp_path: Path, mnist_test: LabelledImages) -> None:
    """Two of three images of a 1 are predicted as a 9: the cell in row 1, column 9 is dark."""
    labels = torch.tensor([*range(10), 1, 1])
    predicted = torch.tensor([*range(10), 9, 9])
    probabilities = F.one_hot(predicted, 10).float()
    write_report(tmp_path, mnist_test.images[:12], labels, probabilities, "Title", {})
    with Image.open(tmp_path / "confusion_matrix.png") as picture:
        rgb = np.asarray(picture.convert("RGB")).astype(int)
    blue = np.argwhere(rgb[..., 2] - rgb[..., 0] > 30)  # from cell (0, 0) to cell (9, 9)
    (top, left), (bottom, right) = blue.min(0), blue.max(0)

    def red(row: int, column: int) -> int:
        """The red channel near a corner of a cell, away from its number: the darker the blue, the less."""
        y, x = top + (row + 0.15) * (bottom - top) / 10, left + (column + 0.15) * (right - left) / 10
        return int(rgb[int(y), int(x), 0])

    assert red(1, 9) < 160
    assert red(9, 1) > 240
    assert all(red(digit, digit) < 160 for digit in (0, 2, 9))


def test_the_page_needs_no_other_file(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "url(" not in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    names = ("confusion_matrix", "reliability", "answered", "errors")
    assert [base64.b64decode(picture) for picture in pictures] == [(report / f"{n}.png").read_bytes() for n in names]
    accuracy = metrics_of(report)["test/accuracy"]
    assert f"<td>{accuracy:.2%}</td>" in page
    for picture in pictures:
        assert np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("L")).std() > 20


def test_a_browser_shows_the_page(report: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    alone = shutil.copy(report / "report.html", tmp_path)  # without the other files
    browser = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = ["--window-size=1000,2900", f"--screenshot={tmp_path / 'page.png'}", f"file://{alone}"]
    subprocess.run([*browser, *shot], check=True, capture_output=True, timeout=120)
    page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert page.shape == (2900, 1000, 3)
    # The diagonal of the confusion matrix is dark blue, the bars of the reliability diagram a lighter one.
    for color in ((8, 48, 107), (31, 119, 180)):
        assert (np.abs(page - color).max(2) < 12).sum() > 2000
    dumped = subprocess.run([*browser, "--dump-dom", f"file://{alone}"], check=True, capture_output=True, text=True)
    assert "Precision and recall of each digit" in dumped.stdout


def test_report_false_writes_metrics_alone(run: Run, tmp_path: Path, trained: Path) -> None:
    done = run("eval", f"checkpoint={trained}", "report=false", "output_dir=e")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "e").iterdir() if path.is_file()} == {"metrics.json"}


def test_an_autoencoder_gets_a_loss_and_no_report(run: Run, tmp_path: Path) -> None:
    done = run("eval", "checkpoint=autoencoder", "output_dir=e")
    assert done.returncode == 0, done.stderr
    assert set(metrics_of(tmp_path / "e")) == {"test/loss"}
    assert "loss" in done.stdout
    assert not (tmp_path / "e" / "report.html").exists()


@pytest.mark.slow
def test_early_exit_is_evaluated_where_there_is_one(run: Run, tmp_path: Path) -> None:
    metrics = {}
    for early in ("true", "false"):
        done = run("eval", "checkpoint=conditional", f"early_exit={early}", "report=false", f"output_dir=early_{early}")
        assert done.returncode == 0, done.stderr
        metrics[early] = metrics_of(tmp_path / f"early_{early}")
    assert metrics["true"]["test/loss"] != metrics["false"]["test/loss"]
    assert abs(metrics["false"]["test/accuracy"] - metrics["true"]["test/accuracy"]) <= 0.001
    one_line(run("eval", "early_exit=true"), "ImageClassifier has no early exit")
    one_line(run("eval", "trainer.limit_test_batches=0"), "trainer.limit_test_batches=0 leaves no images")


def test_says_why_weights_with_nan_get_no_report(run: Run, tmp_path: Path) -> None:
    weights = read_weights()
    model = build(weights)
    model.get_parameter("fc2.bias").data[0] = torch.nan
    save_weights(tmp_path / "nan.safetensors", model, weights.model, {})
    done = run("eval", "checkpoint=nan.safetensors", "output_dir=e")
    assert done.returncode == 0, done.stderr
    assert "no report: the network's output has NaN" in done.stdout
    assert (tmp_path / "e" / "metrics.json").is_file()
