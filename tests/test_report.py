"""An evaluation leaves a report that can be read, looked at in a browser, and computed with."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mnist_cls.checkpoints.build import build
from mnist_cls.checkpoints.weights import read_weights, save_weights
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.evaluation.plots import draw_confusion_matrix, draw_reliability
from mnist_cls.evaluation.report import write_report

from .conftest import Run, one_line


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, mnist_test: LabelledImages) -> Path:
    """The folder of an evaluation of the package's weights."""
    from .conftest import run_module

    place = tmp_path_factory.mktemp("report")
    done = run_module("eval", "output_dir=e", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "report in e/report.html" in done.stdout
    return place / "e"


def metrics_of(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def test_all_files_are_there(report: Path) -> None:
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


def test_every_prediction_is_in_the_parquet_file(report: Path, mnist_test: LabelledImages) -> None:
    table = pq.read_table(report / "predictions.parquet").to_pydict()
    assert table["path"] == [str(index) for index in range(10_000)]
    assert table["target"] == mnist_test.labels.tolist()
    right = np.mean(np.array(table["label"]) == np.array(table["target"]))
    assert right == pytest.approx(metrics_of(report)["test/accuracy"])
    rows = np.array([table[f"p{digit}"] for digit in range(10)])
    np.testing.assert_allclose(rows.sum(0), 1, atol=1e-5)


def test_precision_and_recall_are_those_of_the_predictions(report: Path) -> None:
    table = pq.read_table(report / "predictions.parquet").to_pydict()
    said, true = np.array(table["label"]), np.array(table["target"])
    with (report / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["digit"] for row in rows] == list("0123456789")
    for digit, row in enumerate(rows):
        assert int(row["images"]) == (true == digit).sum()
        assert float(row["precision"]) == pytest.approx(np.mean(true[said == digit] == digit), abs=1e-4)
        assert float(row["recall"]) == pytest.approx(np.mean(said[true == digit] == digit), abs=1e-4)


def test_the_calibration_error_by_hand(report: Path) -> None:
    table = pq.read_table(report / "predictions.parquet").to_pydict()
    confidence = np.array(table["confidence"])
    right = np.array(table["label"]) == np.array(table["target"])
    place = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(confidence[place == bin].sum() - right[place == bin].sum()) for bin in range(15)]
    assert metrics_of(report)["test/calibration_error"] == pytest.approx(sum(gaps) / 10_000, abs=2e-4)


def test_the_worst_errors_come_first(
    tmp_path: Path, mnist_test: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, tuple[object, ...]] = {}
    for name, draw in (("draw_confusion_matrix", draw_confusion_matrix), ("draw_reliability", draw_reliability)):

        def listen(*args: Any, name: str = name, draw: Any = draw) -> Any:
            given[name] = args
            return draw(*args)

        monkeypatch.setattr(f"mnist_cls.inference.report.{name}", listen)
    images, labels = mnist_test.images[:3], mnist_test.labels[:3]  # 7, 2, 1
    probabilities = torch.full((3, 10), 0.01)
    for row, (said, sure) in enumerate([(7, 0.91), (3, 0.6), (4, 0.91)]):
        probabilities[row, said] = sure
    figures = write_report(tmp_path, images, labels, probabilities, "Three <images>", {})
    assert figures["calibration_error"] == pytest.approx((0.09 + 0.6 + 0.91 - 0.18 + 0) / 3, abs=0.2)
    counts = cast(torch.Tensor, given["draw_confusion_matrix"][0])
    assert counts.nonzero().tolist() == [[1, 4], [2, 3], [7, 7]]  # rows are labels, columns predictions
    assert cast(np.ndarray, given["draw_reliability"][1]).tolist() == [True, False, False]
    drawn = np.asarray(Image.open(tmp_path / "errors.png"))
    first = np.asarray(Image.fromarray(images[2].numpy()).resize((84, 84), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(drawn[:84, :84], first)
    assert "Three &lt;images&gt;" in (tmp_path / "report.html").read_text()


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


def test_a_browser_shows_it(report: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt-get install chromium)")
    alone = shutil.copy(report / "report.html", tmp_path)  # without the files beside it
    browser = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = ["--window-size=1000,2900", f"--screenshot={tmp_path / 'page.png'}", f"file://{alone}"]
    subprocess.run([*browser, *shot], check=True, capture_output=True, timeout=120)
    page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert page.shape == (2900, 1000, 3)
    # The diagonal of the confusion matrix is dark blue, the bars of the reliability diagram a lighter one.
    for color in ((8, 48, 107), (31, 119, 180)):
        assert (np.abs(page - color).max(2) < 12).sum() > 2000
    dumped = subprocess.run([*browser, "--dump-dom", f"file://{alone}"], check=True, capture_output=True, text=True)
    assert "Each digit" in dumped.stdout


def test_without_a_report(run: Run, tmp_path: Path, trained: Path) -> None:
    done = run("eval", f"checkpoint={trained}", "report=false", "output_dir=e")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "e").iterdir() if path.is_file()} == {"metrics.json"}


def test_an_autoencoder_has_a_loss_and_no_report(run: Run, tmp_path: Path) -> None:
    done = run("eval", "checkpoint=autoencoder", "output_dir=e")
    assert done.returncode == 0, done.stderr
    assert set(metrics_of(tmp_path / "e")) == {"test/loss"}
    assert "loss" in done.stdout
    assert not (tmp_path / "e" / "report.html").exists()


@pytest.mark.slow
def test_early_exit_is_evaluated_where_there_is_one(run: Run, tmp_path: Path) -> None:
    accuracy = {}
    for early in ("true", "false"):
        done = run("eval", "checkpoint=conditional", f"early_exit={early}", "report=false", f"output_dir=early_{early}")
        assert done.returncode == 0, done.stderr
        accuracy[early] = metrics_of(tmp_path / f"early_{early}")["test/accuracy"]
    assert accuracy["true"] != accuracy["false"]
    assert accuracy["false"] - accuracy["true"] <= 0.001
    one_line(run("eval", "early_exit=true"), "ImageClassifier has no early exit")
    one_line(run("eval", "trainer.limit_test_batches=0"), "trainer.limit_test_batches=0 leaves no image")


def test_weights_that_are_not_finite_are_said(run: Run, tmp_path: Path) -> None:
    weights = read_weights()
    model = build(weights)
    model.get_parameter("fc2.bias").data[0] = torch.nan
    save_weights(tmp_path / "nan.safetensors", model, weights.model, {})
    done = run("eval", "checkpoint=nan.safetensors", "output_dir=e")
    assert done.returncode == 0, done.stderr
    assert "no report: the network gives NaN" in done.stdout
    assert (tmp_path / "e" / "metrics.json").is_file()
