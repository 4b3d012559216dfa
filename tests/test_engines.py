"""Whatever engine computes a prediction, the results are the same; what one does not support is one clear line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mnist_cls import Predictor, load_model
from mnist_cls.checkpoints.weights import read_weights, save_weights
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError

from .conftest import ROOT, Run

MANY = 150_000


def test_the_pipeline_needs_no_pytorch() -> None:
    program = (
        "import sys\n"
        "import mnist_cls.inference.ray, mnist_cls.inference.pipeline, mnist_cls.inference.sinks.shards\n"
        "from mnist_cls import Predictor\n"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_onnx_runtime_predicts_what_pytorch_predicts(mnist_test: LabelledImages) -> None:
    images = mnist_test.images.numpy()
    eager, onnx = (Predictor(engine=engine)(images) for engine in ("eager", "onnx"))
    assert (onnx.labels == eager.labels).all()
    np.testing.assert_allclose(onnx.probabilities, eager.probabilities, atol=1e-5)


def test_int8_keeps_the_accuracy(mnist_test: LabelledImages) -> None:
    images, labels = mnist_test.images.numpy(), mnist_test.labels.numpy()
    eager, int8 = (Predictor(engine=engine)(images) for engine in ("eager", "int8"))
    assert abs((int8.labels == labels).mean() - (eager.labels == labels).mean()) <= 0.0002
    assert (int8.probabilities != eager.probabilities).any()  # it is really another arithmetic
    np.testing.assert_allclose(int8.probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["conditional", "image_classifier"])
def test_int8_does_not_change_the_network_that_is_passed(name: str, digits: np.ndarray) -> None:
    network = load_model(name)
    x = normalize(torch.from_numpy(digits))
    with torch.inference_mode():
        before = network(x)
        labels = Predictor(network, engine="int8")(digits).labels
        torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-4)
    assert (labels == before.argmax(1).numpy()).mean() >= 0.99


def test_int8_is_calibrated_on_the_dataset_of_the_training(tmp_path: Path) -> None:
    path, weights = tmp_path / "model.safetensors", read_weights()
    (tmp_path / "my digits").mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / "my digits" / name).write_bytes(b"\0\0\x08")  # cut off
    config = {"data": {"name": "mnist", "dir": str(tmp_path / "my digits")}}
    save_weights(path, load_model(), weights.model, {"config": config})
    with pytest.raises(InputError, match="my digits"):
        Predictor(path, engine="int8")
    assert len(Predictor(path, engine="eager")(np.zeros((1, 28, 28), np.uint8)).labels) == 1


def test_auto_follows_a_network_that_is_trained_on(digits: np.ndarray) -> None:
    network = load_model()
    predictor = Predictor(network)
    predictor.prepare(MANY)
    before = predictor(digits).probabilities
    with torch.no_grad():
        network.get_parameter("fc2.bias").add_(torch.arange(10))
    assert (predictor(digits).probabilities != before).any()


class Shaky(nn.Module):
    """Its output depends on differences that 8 bits cannot represent."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(784, 20), nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1))
        logits: torch.Tensor = self.second(torch.sin(1000 * x))
        return logits


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3))[:, None].tile(10) if x.mean().item() > 0 else x.sum((1, 2, 3))[:, None].tile(10)


@pytest.mark.parametrize(
    ("network", "engine", "message"),
    [
        (Shaky(), "int8", r"engine=int8: Shaky does not work in 8 bits: .* keep their label, expected 99.8%"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), "int8", "no convolutions or linear layers before its last"),
        (Unexportable(), "onnx", r"engine=onnx: PyTorch cannot export Unexportable: .*engine=eager"),
        (nn.Flatten(), "onnx", r"returns \(1, 784\) in evaluation; prediction needs logits \(B, 10\)"),
    ],
)
def test_a_network_that_an_engine_does_not_support(
    network: nn.Module, engine: str, message: str, digits: np.ndarray
) -> None:
    with pytest.raises(InputError, match=message):
        Predictor(network, engine=engine)
    if engine == "onnx" and isinstance(network, Unexportable):
        assert len(Predictor(network)(digits).labels) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fast"}, "engine=fast: expected one of auto, eager, onnx, int8"),
        ({"engine": "onnx", "model": "conditional", "early_exit": True}, "does not support early_exit=true"),
        ({"engine": "int8", "device": "meta"}, "device=meta"),
    ],
)
def test_options_that_an_engine_does_not_support(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Predictor(**options)


def test_auto_uses_onnx_runtime_for_many_images_only(digits: np.ndarray) -> None:
    predictor = Predictor()
    few = predictor(digits)
    assert predictor.engine.name == "eager"
    predictor.prepare(MANY)
    assert predictor.engine.name == "onnx"
    np.testing.assert_allclose(predictor(digits).probabilities, few.probabilities, atol=1e-5)


def test_auto_is_pytorch_where_onnx_runtime_is_not_installed(
    digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    predictor = Predictor()
    predictor.prepare(MANY)
    assert predictor.engine.name == "eager"
    with pytest.raises(InputError, match=r"ONNX Runtime is not installed; pip install 'mnist-cls\[onnx\]'"):
        Predictor(engine="onnx")


def test_is_digit_works_with_every_engine(digits: np.ndarray) -> None:
    eager, onnx, int8 = (
        Predictor(engine=engine, is_digit=True)(digits).is_digit for engine in ("eager", "onnx", "int8")
    )
    assert eager is not None
    np.testing.assert_array_equal(onnx, eager)
    np.testing.assert_array_equal(int8, eager)


@pytest.mark.slow
def test_the_engine_can_be_chosen_everywhere(run: Run, tmp_path: Path, png: Path) -> None:
    done = run("predict", f"input={png}", "engine=int8")
    assert done.returncode == 0, done.stderr
    assert "7" in done.stdout
    assert run("predict", f"input={png}", "engine=fast").stderr.startswith("error: engine=fast: expected one of auto")
    script = ROOT / "scripts" / "predict_batch.py"
    command = [sys.executable, str(script), str(png), str(tmp_path / "rows.csv"), "--engine", "onnx"]
    assert subprocess.run(command, capture_output=True).returncode == 0
