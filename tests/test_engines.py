"""All engines give the same results; what an engine does not support is an error of one clear line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mnist_cls import Predictor, list_weights, load_model
from mnist_cls.checkpoints.find import DETECTOR, find_checkpoint
from mnist_cls.checkpoints.weights import read_weights, save_weights
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.inference.engines.eager import EagerDetector
from mnist_cls.inference.engines.onnx import OnnxDetector, OnnxEngine
from mnist_cls.inference.onnx_file import is_whole, onnx_beside, read_beside, seal

from .conftest import ROOT, Run


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
    assert (int8.probabilities != eager.probabilities).any()  # it really computes in 8 bits
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


@pytest.mark.parametrize("name", list_weights())
def test_packaged_weights_have_the_onnx_file_that_was_made_of_them(name: str, mnist_test: LabelledImages) -> None:
    images = mnist_test.images.numpy()
    path = find_checkpoint(name)
    network = read_beside(path)
    assert network is not None, "make onnx"
    assert is_whole(onnx_beside(path).read_bytes())
    if name == DETECTOR:
        np.testing.assert_array_equal(OnnxDetector(network)(images), EagerDetector(name, "cpu")(images))
        return
    eager = Predictor(name, engine="eager")(images)
    probabilities = OnnxEngine([network])(images)
    np.testing.assert_allclose(probabilities, eager.probabilities, atol=1e-5)
    assert (probabilities.argmax(1) == eager.labels).all()


ONLY_ONNX = """\
import sys
import numpy as np
from mnist_cls import Predictor
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
predictor = Predictor(["image_classifier", "conditional"], shifts=1, is_digit=True, device="cpu")
print(predictor(np.load("digits.npy")).labels[:3], "torch" in sys.modules)
for options in ({"min_confidence": 0.9, "is_digit": True}, {"split": True}):
    predict_files("digits.npy", "rows.csv", PredictOptions(device="cpu", **options))
    print("torch" in sys.modules)
"""


def test_prediction_imports_no_pytorch(digits: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", digits)
    done = subprocess.run([sys.executable, "-c", ONLY_ONNX], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{np.array(labels[:3])} False", "False", "False"]


def test_averages_in_onnx_runtime_are_those_of_pytorch(digits: np.ndarray) -> None:
    names = ["image_classifier", "accurate"]
    eager, onnx = (Predictor(names, shifts=2, engine=engine, device="cpu")(digits) for engine in ("eager", "onnx"))
    np.testing.assert_allclose(onnx.probabilities, eager.probabilities, atol=1e-5)
    assert not np.allclose(onnx.probabilities, Predictor(names[0], device="cpu")(digits).probabilities, atol=1e-3)


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """A folder as a training leaves it: the weights of `conditional`, changed a little."""
    weights, network = read_weights("conditional"), load_model("conditional")
    with torch.no_grad():
        next(network.parameters()).mul_(1.01)
    save_weights(tmp_path / "run" / "model.safetensors", network, weights.model, weights.provenance)
    (tmp_path / "run" / "metrics.json").write_text("{}")
    return tmp_path / "run"


def test_the_first_prediction_of_a_run_makes_its_onnx_file(finished_run: Path, digits: np.ndarray) -> None:
    first = Predictor(finished_run, device="cpu")
    assert first.engine.name == "onnx"
    written = (finished_run / "model.onnx").stat()
    second = Predictor(finished_run, device="cpu")
    assert (finished_run / "model.onnx").stat().st_mtime_ns == written.st_mtime_ns
    eager = Predictor(finished_run, engine="eager")
    np.testing.assert_allclose(second(digits).probabilities, eager(digits).probabilities, atol=1e-5)
    # The ONNX file of other weights is replaced, even if it is newer than the run's weights.
    (finished_run / "model.onnx").write_bytes(onnx_beside(find_checkpoint()).read_bytes())
    np.testing.assert_array_equal(
        Predictor(finished_run, device="cpu")(digits).probabilities, first(digits).probabilities
    )
    assert sorted(path.name for path in finished_run.iterdir()) == ["metrics.json", "model.onnx", "model.safetensors"]


@pytest.mark.parametrize("damage", ["changed", "cut off", "empty", "no ONNX"])
def test_a_damaged_onnx_file_is_named_and_not_used(
    damage: str, tmp_path: Path, digits: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(find_checkpoint().read_bytes())
    assert Predictor(weights, device="cpu").engine.name == "eager"
    content = onnx_beside(find_checkpoint()).read_bytes()
    (tmp_path / "mine.onnx").write_bytes(content)
    assert Predictor(weights, device="cpu").engine.name == "onnx"
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :]
    broken = {"changed": flipped, "cut off": content[:middle], "empty": b"", "no ONNX": seal(b"no ONNX")}[damage]
    (tmp_path / "mine.onnx").write_bytes(broken)
    capsys.readouterr()
    predictor = Predictor(weights, device="cpu")
    assert predictor.engine.name == "eager"
    assert (predictor(digits).labels == Predictor()(digits).labels).all()
    [line] = capsys.readouterr().err.splitlines()
    reason = "ONNX Runtime cannot load the network: " if damage == "no ONNX" else "it is damaged; delete it"
    assert line.startswith(f"{tmp_path}/mine.onnx: not used; PyTorch is used instead, which takes longer: {reason}")


def test_an_onnx_file_reads_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(find_checkpoint().read_bytes())
    model = onnx.load_from_string(onnx_beside(find_checkpoint()).read_bytes())
    [outside] = [tensor for tensor in model.graph.initializer if tensor.name == "network.fc2.bias"]
    (tmp_path / "secret.bin").write_bytes(bytes(40))
    outside.Clear()
    outside.name, outside.data_type, outside.data_location = "network.fc2.bias", onnx.TensorProto.FLOAT, 1
    outside.dims.append(10)
    outside.external_data.add(key="location", value="secret.bin")
    (tmp_path / "mine.onnx").write_bytes(seal(model.SerializeToString()))  # the digest of the weights is correct
    monkeypatch.chdir(tmp_path)
    assert Predictor(weights, device="cpu").engine.name == "eager"
    [line] = capsys.readouterr().err.splitlines()
    assert "mine.onnx: not used; PyTorch is used instead, which takes longer: ONNX Runtime cannot load" in line


def test_what_has_no_onnx_file_is_computed_by_pytorch(finished_run: Path, tmp_path: Path, digits: np.ndarray) -> None:
    assert Predictor("conditional", early_exit=True, device="cpu").engine.name == "eager"
    assert Predictor(load_model(), device="cpu").engine.name == "eager"
    assert Predictor(["image_classifier", finished_run / "model.safetensors"], device="cpu").engine.name == "onnx"
    (tmp_path / "mine.safetensors").write_bytes(find_checkpoint().read_bytes())
    assert Predictor(["accurate", tmp_path / "mine.safetensors"], device="cpu").engine.name == "eager"
    assert Predictor(tmp_path / "mine.safetensors", engine="onnx")(digits).labels.shape == (100,)


def test_a_run_whose_folder_cannot_be_written(finished_run: Path, digits: np.ndarray) -> None:
    (finished_run / "model.onnx").mkdir()  # which a file cannot replace
    assert Predictor(finished_run, device="cpu").engine.name == "eager"


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
