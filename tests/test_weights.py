"""The packaged weights are as good as their files and docs/weights.md say."""

from functools import cache

import numpy as np
import pytest

from mnist_cls import Predictions, Predictor, list_weights
from mnist_cls.checkpoints.find import DETECTOR, WEIGHTS
from mnist_cls.checkpoints.weights import read_weights
from mnist_cls.cli.entry_point import compose
from mnist_cls.data.datasets import LabelledImages, load_dataset

from .conftest import ROOT

CLASSIFIERS = [name for name in list_weights() if name != DETECTOR]


@cache
def predict(name: str) -> Predictions:
    return Predictor(name, device="cpu")(load_dataset("mnist", "test").images)


def test_the_packaged_weights() -> None:
    assert list_weights() == ["accurate", "autoencoder", "conditional", "image_classifier"]
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 16e6


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_they_reach_the_accuracy_in_their_file_and_in_the_documentation(name: str, mnist_test: LabelledImages) -> None:
    named = read_weights(name).provenance["metrics"]["test/accuracy"]
    predictions = predict(name)
    correct = predictions.labels == mnist_test.labels.numpy()
    assert np.mean(correct) == pytest.approx(named, abs=2e-4)  # another processor may round otherwise
    assert named >= {"accurate": 0.997, "image_classifier": 0.9949, "conditional": 0.994}[name]
    if name != "conditional":
        card = (ROOT / "docs" / "weights.md").read_text()
        assert f"| test accuracy, `{name}` | {named:.2%} |" in card


@pytest.mark.parametrize("name", ["accurate", "image_classifier"])
def test_their_confidences_are_calibrated(name: str, mnist_test: LabelledImages) -> None:
    predictions = predict(name)
    correct = predictions.labels == mnist_test.labels.numpy()
    bins = np.minimum((predictions.confidences * 15).astype(int), 14)
    gaps = [abs(predictions.confidences[bins == bin].sum() - correct[bins == bin].sum()) for bin in range(15)]
    assert sum(gaps) / len(correct) <= 0.003
    most_confident = np.argsort(-predictions.confidences, kind="stable")[:9950]
    assert np.mean(~correct[most_confident]) <= (0.002 if name == "accurate" else 0.0035)


@pytest.mark.parametrize("name", list_weights())
def test_a_config_in_the_repository_made_them(name: str) -> None:
    provenance = read_weights(name).provenance
    command = provenance["command"].split()
    assert command[:3] == ["python", "-m", "mnist_cls.train"]
    settings = compose("train", command[3:])
    made_with = provenance["config"]
    assert settings.model == made_with["model"] == read_weights(name).model
    for group in ("data", "trainer"):  # older files name fewer
        chosen = vars(getattr(settings, group))
        if chosen.get("precision") == "auto":  # recorded is what it meant there
            chosen["precision"] = made_with["trainer"]["precision"]
            assert chosen["precision"] in ("32-true", "bf16-mixed")
        assert {key: chosen[key] for key in made_with[group]} == made_with[group]
    for key in {"optimizer", "scheduler", "label_smoothing", "seed"} & set(made_with):
        assert getattr(settings, key) == made_with[key], key
    assert settings.temperature == made_with.get("temperature", "auto")  # an autoencoder has none
    assert {"mnist-cls", "torch", "lightning"} <= set(provenance["versions"])
