"""After a training the network's confidence matches its accuracy, and uncertain predictions are flagged."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from mnist_cls import Predictor, create_model, list_models, load_model
from mnist_cls.checkpoints.weights import read_weights
from mnist_cls.cli.entry_point import compose
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.errors import InputError
from mnist_cls.evaluation.report import write_report
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.training.fit import train
from mnist_cls.training.temperature import divide_logits, fit_temperature, output_layer

from .conftest import SMALL, Run, one_line


@pytest.mark.parametrize("wanted", [0.5, 1.0, 3.0])
def test_it_finds_the_temperature_that_the_logits_were_multiplied_by(wanted: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 10, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()
    assert fit_temperature(logits * wanted, labels) == pytest.approx(wanted, rel=0.03)


def test_it_minimizes_the_cross_entropy(mnist_test: LabelledImages) -> None:
    model, x = load_model(), (mnist_test.images[:2000].unsqueeze(1) / 255 - 0.1307) / 0.3081
    with torch.no_grad():
        logits = model(x) * 3
    found = fit_temperature(logits, mnist_test.labels[:2000])
    losses = [F.cross_entropy(logits / t, mnist_test.labels[:2000]).item() for t in (found * 0.95, found, found * 1.05)]
    assert losses[1] == min(losses)


def test_without_a_minimum_the_logits_stay_as_they_are() -> None:
    labels = torch.arange(10)
    assert fit_temperature(torch.eye(10), labels) == 1  # always correct: the more confident the better
    assert fit_temperature(-torch.eye(10), labels) == 1  # always wrong: the less confident the better


@pytest.mark.parametrize("name", sorted(set(list_models()) - {"autoencoder"}))
def test_divide_logits_divides_the_logits(name: str) -> None:
    model, x = create_model(name).eval(), torch.randn(4, 1, 28, 28)
    before = model(x)
    divide_logits(model, 2.5)
    torch.testing.assert_close(model(x), before / 2.5)
    assert not model.training


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(x.flatten(1)) + 1
        return logits


class Normalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.spectral_norm(nn.Linear(784, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(x.flatten(1))
        return logits


def test_a_layer_that_normalizes_its_weights_is_unchanged() -> None:
    model, x = Normalized().eval(), torch.randn(4, 1, 28, 28)
    before = model(x)
    with pytest.raises(ValueError, match="the logits of Normalized are not the output"):
        divide_logits(model, 2.0)
    torch.testing.assert_close(model(x), before)


def test_logits_that_are_not_the_output_of_a_linear_layer() -> None:
    assert output_layer(Sum()) is None
    with pytest.raises(ValueError, match="the logits of Sum are not the output of a linear layer"):
        divide_logits(Sum(), 2.0)


def test_a_training_leaves_calibrated_weights(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    raw, kept = (read_weights(trained / name).state for name in ("checkpoints/best.ckpt", "model.safetensors"))
    assert metrics["temperature"] != 1
    for name in raw:
        factor = 1 / metrics["temperature"] if name.startswith("fc2.") else 1
        torch.testing.assert_close(kept[name], raw[name] * factor)
    assert read_weights(trained).provenance["metrics"]["temperature"] == metrics["temperature"]


def test_it_is_fitted_on_the_validation_images(trained: Path) -> None:
    from mnist_cls.data.normalization import normalize
    from mnist_cls.training.datamodule import MNISTDataModule

    data = MNISTDataModule(train_size=1280, validation_size=500)
    data.setup("fit")
    assert data.val_data is not None
    with torch.no_grad():
        logits = load_model(trained / "checkpoints" / "best.ckpt")(normalize(data.val_data.images))
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["temperature"] == pytest.approx(fit_temperature(logits, data.val_data.labels), rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [("temperature=2.5", 2.5), ("temperature=2", 2.0), ("temperature=null", None), ("data.validation_size=0", None)],
)
def test_a_temperature_that_is_set(overrides: str, expected: float | None, tmp_path: Path) -> None:
    shorter = ["model=mlp", "trainer=cpu", "trainer.max_epochs=1", "callbacks=none", "logger=none"]
    train(compose("train", [*SMALL, *shorter, overrides]), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()).get("temperature") == expected
    raw, kept = (read_weights(tmp_path / name).state for name in ("checkpoints/best.ckpt", "model.safetensors"))
    torch.testing.assert_close(kept["fc2.bias"] * (expected or 1), raw["fc2.bias"])


@pytest.mark.parametrize("value", ["0", "-1", "warm"])
def test_an_invalid_temperature(value: str) -> None:
    with pytest.raises(InputError, match=f"temperature={value}: expected auto, a number above 0, or null"):
        compose("train", [f"temperature={value}"])


def test_a_network_whose_logits_cannot_be_divided_is_rejected_before_the_training(tmp_path: Path) -> None:
    settings = compose("train", ["model=autoencoder", "mode=fast_dev", "trainer=cpu", "temperature=2"])
    with pytest.raises(
        InputError, match=r"temperature=2: the logits of Autoencoder are not the output .* use temperature=null"
    ):
        train(settings, tmp_path)


def test_uncertain_predictions_are_undecided(tmp_path: Path, mnist_test: LabelledImages) -> None:
    np.save(tmp_path / "digits.npy", mnist_test.images[:3000].numpy())
    confidences = Predictor(device="cpu")(mnist_test.images[:3000]).confidences
    for kind in ("csv", "parquet"):
        summary = predict_files(
            tmp_path / "digits.npy",
            tmp_path / f"rows.{kind}",
            PredictOptions(device="cpu", engine="eager", min_confidence=0.9),
        )
        assert summary.undecided == (confidences < 0.9).sum() > 0
        assert f", {summary.undecided} undecided, " in str(summary)
    found = pq.read_table(tmp_path / "rows.parquet")["undecided"].to_pylist()
    assert found == (confidences < 0.9).tolist()
    with pytest.raises(InputError, match="min_confidence=90: expected 0 to 1"):
        predict_files(tmp_path / "digits.npy", options=PredictOptions(device="cpu", min_confidence=90))
    with (tmp_path / "rows.csv").open() as file:
        assert [row["undecided"] == "True" for row in csv.DictReader(file)] == found


def test_the_screen_shows_undecided_predictions(run: Run, tmp_path: Path, mnist_test: LabelledImages) -> None:
    both = mnist_test.images[:2].float().mean(0).byte()  # a seven and a two at once
    png = tmp_path / "both.png"
    Image.fromarray(both.numpy()).save(png)
    wide = {"COLUMNS": "200"}
    for least, word in (("0", "no"), ("1", "yes")):
        done = run("predict", f"input={png}", f"min_confidence={least}", besides=wide)
        assert done.returncode == 0, done.stderr
        assert "undecided" in done.stdout.splitlines()[0]
        assert done.stdout.splitlines()[1].split()[-1] == word
    one_line(run("predict", f"input={png}", "min_confidence=1.5"), "min_confidence=1.5: expected 0 to 1")


def test_the_report_has_the_error_rate_of_the_most_confident(tmp_path: Path, mnist_test: LabelledImages) -> None:
    count = 1000
    images, labels = mnist_test.images[:count], mnist_test.labels[:count]
    confidences = torch.linspace(0.5, 0.999, count)
    probabilities = ((1 - confidences) / 9)[:, None].repeat(1, 10)
    predicted = labels.clone()
    predicted[:5] = (labels[:5] + 1) % 10  # wrong where it is least confident: these five are undecided
    predicted[-1] = (labels[-1] + 1) % 10  # and wrong where it is most confident
    probabilities[range(count), predicted] = confidences
    figures = write_report(tmp_path, images, labels, probabilities, "Title", {})
    assert figures["surest_error"] == pytest.approx(1 / 995)
    assert figures["surest_confidence"] == pytest.approx(confidences[5].item())
    page = (tmp_path / "report.html").read_text()
    assert "error rate of the 99.5% most confident predictions" in page
    printed = re.search(r"0.10% \(min_confidence=([0-9.]+)\)", page)
    assert printed is not None
    assert 995 <= (probabilities.amax(1) >= float(printed[1])).sum() <= 998
