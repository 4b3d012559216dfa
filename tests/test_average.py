"""Predictions are averaged over several checkpoints, and over shifted images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mnist_cls import Predictor, load_model
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.errors import InputError
from mnist_cls.models.average import Average

from .conftest import ROOT, Run, one_line

TWO = ["image_classifier", "conditional"]


def test_probabilities_are_averaged(digits: np.ndarray) -> None:
    one, other = (Predictor(name, device="cpu")(digits).probabilities for name in TWO)
    both = Predictor(TWO, device="cpu")(digits).probabilities
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)


def test_shifts_are_averaged(digits: np.ndarray) -> None:
    padded = np.pad(digits, [(0, 0), (1, 1), (1, 1)])  # the edges of MNIST's images are black
    places = [(top, left) for top in range(3) for left in range(3)]
    views = [np.ascontiguousarray(padded[:, top : top + 28, left : left + 28]) for top, left in places]
    expected = np.mean([Predictor(device="cpu", preprocess="none")(view).probabilities for view in views], 0)
    np.testing.assert_allclose(Predictor(device="cpu", shifts=1)(digits).probabilities, expected, atol=1e-4)
    np.testing.assert_allclose(Predictor(load_model(), "cpu", shifts=1)(digits).probabilities, expected, atol=1e-4)


def test_one_network_without_shifts_is_not_averaged(digits: np.ndarray) -> None:
    model, x = load_model(), torch.from_numpy(digits).float().unsqueeze(1) / 255
    torch.testing.assert_close(Average([model])(x), model(x).log_softmax(1))
    assert type(load_model(["image_classifier"])) is type(model)


@pytest.mark.parametrize("engine", [pytest.param("onnx", marks=pytest.mark.slow), "int8"])
def test_every_engine_averages(engine: str, digits: np.ndarray) -> None:
    if engine == "int8" and "x86" not in torch.backends.quantized.supported_engines:
        pytest.skip("8 bits want an x86 processor")
    expected = Predictor(TWO, device="cpu", shifts=1)(digits)
    found = Predictor(TWO, device="cpu", shifts=1, engine=engine)(digits)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5 if engine == "onnx" else 0.05)


@pytest.mark.slow
def test_an_ensemble_is_evaluated(run: Run, tmp_path: Path, mnist_test: LabelledImages) -> None:
    done = run("eval", "checkpoint=[image_classifier,conditional]", "shifts=1", "output_dir=e")
    assert done.returncode == 0, done.stderr
    assert "image_classifier, conditional, shifts=1 on mnist (test): accuracy " in done.stdout
    labels = Predictor(TWO, device="cpu", shifts=1)(mnist_test.images).labels
    accuracy = json.loads((tmp_path / "e" / "metrics.json").read_text())["test/accuracy"]
    assert accuracy == pytest.approx(np.mean(labels == mnist_test.labels.numpy()), abs=2e-4)
    assert "name=conditional" in (tmp_path / "e" / "report.html").read_text()


def test_an_ensemble_predicts(run: Run, tmp_path: Path, digits: np.ndarray) -> None:
    np.save(tmp_path / "digits.npy", digits)
    done = run("predict", "checkpoint=[image_classifier,conditional]", "input=digits.npy", "output=rows.parquet")
    assert done.returncode == 0, done.stderr
    found = pq.read_table(tmp_path / "rows.parquet")["confidence"].to_numpy()
    np.testing.assert_allclose(found, Predictor(TWO, device="cpu")(digits).confidences, atol=1e-5)
    script = [sys.executable, str(ROOT / "scripts" / "predict_batch.py"), "digits.npy", "script.parquet"]
    options = ["--checkpoint=image_classifier", "--checkpoint=conditional", "--shifts=0", "--min-confidence=0.5"]
    done = subprocess.run([*script, *options], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(pq.read_table(tmp_path / "script.parquet")["confidence"].to_numpy(), found)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("checkpoint=[]", "checkpoint=[]: expected a path, a name, or several in brackets"),
        ("checkpoint=[image_classifier,[]]", "expected a path, a name, or several in brackets"),
        ("checkpoint=[true,image_classifier]", "expected a path, a name, or several in brackets"),
        ("checkpoint=20261123", "checkpoint=20261123: no such file"),
        ("checkpoint=[image_classifier,nothing]", "checkpoint=nothing: no such file"),
        ("checkpoint=[image_classifier,autoencoder]", "autoencoder.safetensors: its network does not return logits"),
        ("shifts=-1", "shifts=-1: expected 0 or more"),
        ("checkpoint=conditional early_exit=true shifts=1", "Average has no early exit"),
    ],
)
def test_what_cannot_be_averaged_is_one_line(run: Run, png: Path, overrides: str, words: str) -> None:
    one_line(run("predict", f"input={png}", *overrides.split()), words)


def test_what_cannot_be_averaged_is_an_error_in_python() -> None:
    with pytest.raises(InputError, match="shifts=-1: expected 0 or more"):
        Predictor(device="cpu", shifts=-1)
    with pytest.raises(ValueError, match="found 0 and 0"):
        Average([])
