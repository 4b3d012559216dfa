"""The column `is_digit` tells digits from other images, in every output."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mnist_cls import Predictor, load_model
from mnist_cls.checkpoints.weights import save_weights
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.errors import InputError
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.models.autoencoder import Autoencoder

from .conftest import ROOT, Run, one_line

CPU = PredictOptions(device="cpu")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, digits: np.ndarray) -> Path:
    """A folder with ten digits, two images without a digit (also for `preprocess`), and a file that is no image."""
    folder = tmp_path_factory.mktemp("mixed")
    for number in range(10):
        Image.fromarray(digits[number]).save(folder / f"digit_{number}.png")
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(noise).save(folder / "other_noise.png")
    stripes = np.tile(np.repeat(np.array([255, 0], np.uint8), 2), 7)[None].repeat(28, 0)
    Image.fromarray(np.ascontiguousarray(stripes)).save(folder / "other_stripes.png")
    (folder / "a_text.png").write_text("no image")
    return folder


def test_digits_are_told_from_noise(mnist_test: LabelledImages) -> None:
    noise = torch.randint(0, 256, (500, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    predictor = Predictor(device="cpu", is_digit=True, preprocess="none")
    digits = predictor(mnist_test.images[:2000]).is_digit
    others = predictor(noise).is_digit
    assert digits is not None
    assert others is not None
    assert digits.dtype == bool
    assert digits.mean() > 0.97
    assert others.mean() < 0.01


def test_the_labels_do_not_change(digits: np.ndarray) -> None:
    plain, with_column = Predictor(device="cpu")(digits), Predictor(device="cpu", is_digit=True)(digits)
    np.testing.assert_array_equal(plain.probabilities, with_column.probabilities)
    assert plain.is_digit is None


def test_every_sink_has_the_column(mixed: Path, tmp_path: Path) -> None:
    expected = [None] + [True] * 10 + [False, False]
    for kind in ("csv", "jsonl", "parquet"):
        summary = predict_files(
            mixed, tmp_path / f"rows.{kind}", PredictOptions(device="cpu", is_digit=True, preprocess="none")
        )
        assert summary.errors == 1
    with (tmp_path / "rows.csv").open() as file:
        table = list(csv.reader(file))
    assert table[0][-2:] == ["error", "is_digit"]
    assert [row[-1] for row in table[1:]] == [""] + ["True"] * 10 + ["False"] * 2
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["is_digit"] for row in rows] == expected
    assert pq.read_table(tmp_path / "rows.parquet")["is_digit"].to_pylist() == expected


def test_the_screen_has_the_column(run: Run, mixed: Path) -> None:
    done = run("predict", f"input={mixed}", "is_digit=true", "preprocess=none", besides={"COLUMNS": "200"})
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stdout.splitlines() if ".png" in line]
    assert ["yes" in line.split() for line in lines] == [False] + [True] * 10 + [False] * 2
    assert ["no" in line.split() for line in lines[1:]] == [False] * 10 + [True] * 2


def test_without_the_option_there_is_no_column(mixed: Path, tmp_path: Path) -> None:
    predict_files(mixed, tmp_path / "rows.csv", CPU)
    assert "is_digit" not in (tmp_path / "rows.csv").read_text()


def test_the_batch_script(mixed: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "predict_batch.py"), str(mixed), str(tmp_path / "rows.csv")]
    done = subprocess.run([*script, "--is-digit"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "rows.csv").read_text().count(",True\n") == 10


def test_an_autoencoder_of_ones_own(tmp_path: Path, digits: np.ndarray) -> None:
    model = Autoencoder(code=2)
    path = tmp_path / "own.safetensors"
    save_weights(path, model, {"name": "autoencoder", "code": 2}, {})
    with pytest.raises(InputError, match=r"own.safetensors: its threshold was never set"):
        Predictor(device="cpu", is_digit=path)
    model.threshold.fill_(0.0)
    save_weights(path, model, {"name": "autoencoder", "code": 2}, {})
    found = Predictor(device="cpu", is_digit=path)(digits).is_digit
    assert found is not None
    assert not found.any()


def test_other_networks_are_refused(run: Run, png: Path) -> None:
    one_line(run("predict", f"input={png}", "is_digit=image_classifier"), "not an autoencoder", "model=autoencoder")
    one_line(run("predict", f"input={png}", "is_digit=yes"), "is_digit=yes: no such file")
    with pytest.raises(InputError, match="is_digit=yes: no such file"):
        Predictor(is_digit="yes", device="cpu")
    with pytest.raises(InputError, match="pass it as is_digit="):
        Predictor("autoencoder", device="cpu")


def test_early_exit_in_prediction(mnist_test: LabelledImages) -> None:
    images, labels = mnist_test.images[:2000], mnist_test.labels[:2000].numpy()
    full, early = (Predictor("conditional", device="cpu", early_exit=early)(images) for early in (False, True))
    assert (full.probabilities != early.probabilities).any()
    assert abs((full.labels == labels).mean() - (early.labels == labels).mean()) <= 0.002
    threshold = load_model("conditional").get_buffer("threshold").item()
    assert 0.5 < threshold < 1
    with pytest.raises(InputError, match="has no early exit"):
        Predictor(device="cpu", early_exit=True)
