"""Whatever computes a prediction, the answers are the same; what an engine cannot do is one clear line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mnist_cls import Predictor, load_model
from mnist_cls.checkpoints.weights import read_weights, save_weights
from mnist_cls.data.datasets import LabelledImages, load_dataset
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.inference import predictor as predictor_module
from mnist_cls.inference.engines.int8 import int8_network

from .conftest import ROOT, Run


def test_onnx_runtime_gives_what_pytorch_gives(mnist_test: LabelledImages) -> None:
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
def test_int8_leaves_the_network_as_it_is(name: str, digits: np.ndarray) -> None:
    network = load_model(name)
    x = normalize(torch.from_numpy(digits))
    with torch.inference_mode():
        before = network(x)
        small = int8_network(network)
        assert torch.equal(network(x), before)
        assert (small(x).argmax(1) == before.argmax(1)).float().mean() >= 0.99


def test_int8_layers_hold_8_bits() -> None:
    layers = dict(int8_network(load_model()).network.named_children())  # type: ignore[union-attr]
    assert {layers[name].weight.dtype for name in ("conv1", "conv2", "fc1")} == {torch.int8}


def test_int8_says_why_it_cannot() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(InputError, match="does not go with 8 bits: it has no convolutions or linear layers before"):
        int8_network(network.eval())


def test_int8_learns_its_ranges_from_the_images_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def load(*arguments: object) -> LabelledImages:
        asked.append(arguments)
        return load_dataset("mnist", "train")

    monkeypatch.setattr(predictor_module, "load_dataset", load)
    config = {"data": {"name": "kmnist", "dir": "somewhere"}}
    weights = read_weights()
    save_weights(tmp_path / "model.safetensors", load_model(), weights.model, {"config": config})
    Predictor(tmp_path / "model.safetensors", engine="int8")
    assert asked == [("kmnist", "train", "somewhere")]


def test_auto_follows_a_network_that_is_trained_on(digits: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_module, "LONG", 100)
    network = load_model()
    predictor = Predictor(network)
    before = predictor(digits).probabilities
    with torch.no_grad():
        network.get_parameter("fc2.bias").add_(torch.arange(10))
    assert (predictor(digits).probabilities != before).any()


class Shaky(nn.Module):
    """Its answer hangs on differences that 8 bits do not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(784, 20), nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1))
        logits: torch.Tensor = self.second(torch.sin(1000 * x))
        return logits


def test_int8_refuses_what_it_would_change() -> None:
    torch.manual_seed(0)
    with pytest.raises(
        InputError, match=r"engine=int8: Shaky does not go with 8 bits: .* keep their label, expected 99.8%"
    ):
        Predictor(Shaky(), engine="int8")


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3))[:, None].tile(10) if x.mean().item() > 0 else x.sum((1, 2, 3))[:, None].tile(10)


def test_what_cannot_be_exported_is_one_line(digits: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"engine=onnx: PyTorch cannot export Unexportable: .*engine=eager"):
        Predictor(Unexportable(), engine="onnx")
    assert len(Predictor(Unexportable())(digits).labels) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fast"}, "engine=fast: expected one of auto, eager, onnx, int8"),
        ({"engine": "onnx", "model": "conditional", "early_exit": True}, "does not go with early_exit=true"),
        ({"engine": "int8", "device": "meta"}, "device=meta"),
    ],
)
def test_engines_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Predictor(**options)  # type: ignore[arg-type]


def test_auto_takes_onnx_runtime_for_many_images_only(digits: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor()
    few = predictor(digits)
    assert predictor.engine == "auto"
    assert predictor.run_onnx is None
    monkeypatch.setattr(predictor_module, "LONG", 100)
    many = predictor(digits)
    assert predictor.engine == "onnx"
    np.testing.assert_allclose(many.probabilities, few.probabilities, atol=1e-5)


def test_auto_stays_with_pytorch_where_onnx_runtime_is_not_installed(
    digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor_module, "LONG", 100)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    predictor = Predictor()
    predictor(digits)
    assert predictor.run_onnx is None
    with pytest.raises(InputError, match=r"ONNX Runtime is not installed; pip install 'mnist-cls\[onnx\]'"):
        Predictor(engine="onnx")


def test_is_digit_goes_with_every_engine(digits: np.ndarray) -> None:
    told = [Predictor(engine=engine, is_digit=True)(digits).is_digit for engine in ("eager", "onnx", "int8")]
    assert all((answer == told[0]).all() for answer in told)  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_engine_can_be_chosen_everywhere(run: Run, tmp_path: Path, png: Path) -> None:
    done = run("predict", f"input={png}", "engine=int8")
    assert done.returncode == 0, done.stderr
    assert "7" in done.stdout
    assert run("predict", f"input={png}", "engine=fast").stderr.startswith("error: engine=fast: expected one of auto")
    script = ROOT / "scripts" / "predict_batch.py"
    command = [sys.executable, str(script), str(png), str(tmp_path / "rows.csv"), "--engine", "onnx"]
    assert subprocess.run(command, capture_output=True).returncode == 0
