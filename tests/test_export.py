"""An exported file computes what the network computes, in other runtimes too; a file that does not never appears."""

import io
import json
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mnist_cls import Predictor, create_model, list_models, load_model, register_model
from mnist_cls.checkpoints.find import find_checkpoint
from mnist_cls.checkpoints.weights import read_weights, save_weights
from mnist_cls.cli.entry_point import compose
from mnist_cls.cli.settings import export_format
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.errors import InputError
from mnist_cls.inference.engines.eager import EagerDetector
from mnist_cls.inference.export import Exported, export_model
from mnist_cls.inference.predictions import Predictions
from mnist_cls.training.fit import train

from .conftest import ROOT, Run, one_line
from .test_engines import Unexportable

FORMATS = ["onnx", "pt2", "safetensors"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """The package's default weights in each format."""
    place = tmp_path_factory.mktemp("exported")
    return {ending: export_model(place / f"model.{ending}") for ending in FORMATS}


@pytest.fixture(scope="module")
def images(mnist_test: LabelledImages) -> np.ndarray:
    """1,000 test images, half of which the exporter has not looked at."""
    return mnist_test.images[500:1500].numpy()


@pytest.fixture(scope="module")
def wanted(images: np.ndarray) -> Predictions:
    return Predictor()(images)


def run_onnx(path: Path, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(["logits", "probabilities", "label"], {"images": images}))


def agree(found: list[np.ndarray], wanted: Predictions) -> None:
    logits, probabilities, label = found
    assert [str(array.dtype) for array in found] == ["float32", "float32", "int64"]
    assert logits.shape == probabilities.shape == (len(label), 10)
    np.testing.assert_allclose(probabilities, wanted.probabilities, atol=1e-5)
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(1), wanted.probabilities, atol=1e-5)
    assert (label == wanted.labels).all()


def test_onnx_runtime_agrees_with_the_predictor(
    exported: dict[str, Exported], images: np.ndarray, wanted: Predictions
) -> None:
    agree(run_onnx(exported["onnx"].path, images), wanted)


def test_openvino_agrees_with_the_predictor(
    exported: dict[str, Exported], images: np.ndarray, wanted: Predictions
) -> None:
    # On processors that are fast with them, OpenVINO would compute in 16 bits.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(exported["onnx"].path, "CPU", options)
    found = model({"images": images})
    agree([found[name] for name in ("logits", "probabilities", "label")], wanted)


def test_a_pt2_agrees_with_the_predictor(
    exported: dict[str, Exported], images: np.ndarray, wanted: Predictions
) -> None:
    network = torch.export.load(exported["pt2"].path).module()
    # Without gradients its outputs become arrays directly.
    agree([output.numpy() for output in network(torch.from_numpy(images))], wanted)


@pytest.mark.parametrize("count", [0, 1, 3, 1000])
def test_batches_may_have_any_size(exported: dict[str, Exported], images: np.ndarray, count: int) -> None:
    shapes = [(count, 10), (count, 10), (count,)]
    assert [output.shape for output in run_onnx(exported["onnx"].path, images[:count])] == shapes
    network = torch.export.load(exported["pt2"].path).module()
    assert [tuple(output.shape) for output in network(torch.from_numpy(images[:count]))] == shapes


def test_an_onnx_file_says_what_goes_in_and_comes_out(exported: dict[str, Exported]) -> None:
    model = onnx.load(exported["onnx"].path)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(exported["onnx"].path, providers=["CPUExecutionProvider"])
    assert [(value.name, value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())] == [
        ("images", "tensor(uint8)", ["batch", 28, 28]),
        ("logits", "tensor(float)", ["batch", 10]),
        ("probabilities", "tensor(float)", ["batch", 10]),
        ("label", "tensor(int64)", ["batch"]),
    ]


def metadata_of(path: Path) -> dict[str, str]:
    """All metadata of an exported file, read without this package."""
    if path.suffix == ".onnx":
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    if path.suffix == ".pt2":
        extra = {"metadata.json": ""}
        torch.export.load(path, extra_files=extra)
        return dict(json.loads(extra["metadata.json"]))
    with safe_open(path, framework="pt") as file:
        return {key: value for key, value in file.metadata().items() if key != "format"}


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_says_where_it_comes_from(exported: dict[str, Exported], ending: str) -> None:
    weights = read_weights()
    metadata = metadata_of(exported[ending].path)
    if ending == "onnx":  # of all bytes before the last entry of the metadata, which ends in the digest
        content = exported[ending].path.read_bytes()
        assert metadata.pop("content_sha256") == sha256(content[:-84]).hexdigest()
    assert json.loads(metadata.pop("mnist_cls")) == {"model": weights.model, "provenance": weights.provenance}
    assert ("digest" in metadata) == (ending == "safetensors")  # the file's own, see test_checkpoint.py
    metadata.pop("digest", None)
    assert metadata == {
        "format_version": "1",
        "model": "image_classifier",
        "checkpoint_sha256": sha256(weights.path.read_bytes()).hexdigest(),
        "classes": '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]',
        "mean": "0.1307",
        "std": "0.3081",
    }


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_does_not_reveal_where_the_code_lies(exported: dict[str, Exported], ending: str) -> None:
    content = exported[ending].path.read_bytes()
    assert not [place for place in (ROOT, Path(sys.prefix), exported[ending].path.parent) if bytes(place) in content]


def test_nothing_in_a_pt2_could_run_code(exported: dict[str, Exported]) -> None:
    with zipfile.ZipFile(exported["pt2"].path) as file:
        parts = [file.read(name) for name in file.namelist()]
    assert not [part for part in parts if part.startswith(b"\x80")]
    for part in parts:
        if part.startswith(b"PK"):  # older versions of PyTorch keep tensors so
            torch.load(io.BytesIO(part), weights_only=True)


@pytest.mark.parametrize("ending", FORMATS)
def test_the_example_runs_as_printed(exported: dict[str, Exported], ending: str) -> None:
    written = exported[ending]
    example = written._replace(path=Path(written.path.name)).example
    assert len(example.splitlines()) == 3
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=written.path.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_autoencoder_answers_whether_it_is_a_digit(tmp_path: Path, images: np.ndarray) -> None:
    mixed = np.concatenate([images[:50], np.random.default_rng(0).integers(0, 256, (50, 28, 28), np.uint8)])
    expected = EagerDetector("autoencoder", "cpu")(mixed)
    assert expected[:50].mean() > 0.9
    assert not expected[50:].any()
    for ending in FORMATS:
        written = export_model(tmp_path / f"detector.{ending}", "autoencoder")
        assert (written.outputs, written.differing) == (("error", "is_digit"), 0)
        assert "errors differ from the network's" in str(written)
    session = onnxruntime.InferenceSession(tmp_path / "detector.onnx", providers=["CPUExecutionProvider"])
    errors, is_digit = session.run(None, {"images": mixed})
    assert (errors.shape, is_digit.dtype) == ((100,), bool)
    np.testing.assert_array_equal(is_digit, expected)


def test_a_ckpt_becomes_safetensors(tmp_path: Path, digits: np.ndarray) -> None:
    train(compose("train", ["model=mlp", "mode=fast_dev", "trainer.accelerator=cpu"]), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    written = export_model(tmp_path / "small.safetensors", checkpoint)
    before, after = read_weights(checkpoint), read_weights(written.path)
    assert (after.model, after.provenance) == (before.model, before.provenance)
    assert after.state.keys() == before.state.keys()
    assert all(torch.equal(after.state[name], before.state[name]) for name in before.state)
    found, wanted = (Predictor(path)(digits).probabilities for path in (written.path, before.path))
    assert (found == wanted).all()


def test_the_command_prints_what_it_wrote(run: Run, tmp_path: Path) -> None:
    done = run("export", "checkpoint=conditional", "output=folder/digits.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    written = tmp_path / "folder" / "digits.onnx"
    lines = done.stdout.splitlines()
    assert lines[0] == f"folder/digits.onnx: onnx, {written.stat().st_size:,} bytes"
    assert lines[1].startswith("inputs   images uint8 (batch, 28, 28)")
    assert lines[2] == "outputs  logits float32 (batch, 10), probabilities float32 (batch, 10), label int64 (batch)"
    assert lines[3].startswith("checked  on 1,000 test images: ")
    assert lines[3].endswith(", 0 labels differ")
    example = [sys.executable, "-c", "\n".join([*lines[-3:], "print(label)"])]
    done = subprocess.run(example, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("["), done.stderr
    assert [path.name for path in written.parent.iterdir()] == ["digits.onnx"]


@pytest.mark.slow
def test_a_users_own_network_is_exported(run: Run, tmp_path: Path) -> None:
    code = "from torch import nn\nfrom mnist_cls import register_model\n@register_model('mine')\n"
    code += "class Mine(nn.Sequential):\n    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(784, 10))\n"
    (tmp_path / "mine.py").write_text(code)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    save_weights(tmp_path / "a.safetensors", network, {"name": "mine"}, {})
    done = run("export", "checkpoint=a.safetensors", "model_file=mine.py", "output=b.safetensors")
    assert done.returncode == 0, done.stderr
    example = done.stdout.split("to run it:\n\n")[1]
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_several_networks_become_one(tmp_path: Path, images: np.ndarray) -> None:
    names = ["image_classifier", "conditional"]
    written = export_model(tmp_path / "both.pt2", names)
    network = torch.export.load(written.path).module()
    agree([output.numpy() for output in network(torch.from_numpy(images))], Predictor(names)(images))
    metadata = metadata_of(written.path)
    assert metadata["model"] == "image_classifier,conditional"
    digests = [sha256(find_checkpoint(name).read_bytes()).hexdigest() for name in names]
    assert metadata["checkpoint_sha256"].split(",") == digests
    assert [part["model"]["name"] for part in json.loads(metadata["mnist_cls"])] == names


@pytest.mark.slow
@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("name", sorted(set(list_models()) - {"autoencoder"}))
def test_every_classifier_is_exported(name: str, ending: str, tmp_path: Path, images: np.ndarray) -> None:
    torch.manual_seed(0)
    checkpoint = tmp_path / "weights.safetensors"
    save_weights(checkpoint, create_model(name), {"name": name}, {})
    path = export_model(tmp_path / f"model.{ending}", checkpoint).path
    if ending == "onnx":
        agree(run_onnx(path, images), Predictor(checkpoint)(images))


@pytest.mark.slow
def test_several_networks_become_one_onnx_file(tmp_path: Path, images: np.ndarray) -> None:
    names = ["accurate", "image_classifier", "conditional"]
    written = export_model(tmp_path / "three.onnx", names)
    agree(run_onnx(written.path, images), Predictor(names)(images))


@pytest.mark.parametrize(
    ("output", "format", "found"),
    [
        ("a.onnx", None, "onnx"),
        ("a.onnx", "onnx", "onnx"),
        ("a.b.PT2", None, "torch"),
        ("x/a.pt2", "torch", "torch"),
        ("a.safetensors", None, "safetensors"),
    ],
)
def test_the_ending_tells_the_format(output: str, format: str | None, found: str) -> None:
    assert export_format(output, format) == found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no output", "output=FILE"]),
        (["output=a.pb"], ["output=a.pb: expected a name that ends in .onnx, .pt2, .safetensors"]),
        (["output=a"], ["output=a: expected a name that ends in .onnx, .pt2, .safetensors"]),
        (["output=a.pt2", "format=onnx"], ["output=a.pt2: expected a name that ends in .onnx for format=onnx"]),
        (["output=a.onnx", "format=tflite"], ["format=tflite: expected one of onnx, torch, safetensors, or null"]),
        (["output=/proc/nowhere/a.safetensors"], ["/proc/nowhere", "cannot be written"]),
    ],
)
def test_a_wrong_command_is_one_line(run: Run, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    one_line(run("export", *arguments), *words)
    assert {path.name for path in tmp_path.iterdir()} <= {"outputs"}


@pytest.mark.parametrize(
    ("output", "checkpoint", "message"),
    [
        ("a.onnx", "nowhere", "checkpoint=nowhere: no such file"),
        ("a.onnx", "broken.ckpt", "broken.ckpt: damaged, or not a checkpoint"),
        ("a.onnx", "unset.safetensors", "unset.safetensors: its threshold was never set; use the run's model.saf"),
        ("a.pt2", ["image_classifier", "autoencoder"], "autoencoder.safetensors: its network does not return"),
        ("a.safetensors", ["accurate", "conditional"], "holds one network, not 2; use .onnx or .pt2"),
        ("folder.onnx", None, "folder.onnx: is a folder; expected a file's name"),
        ("broken.ckpt/a.safetensors", None, "cannot be written"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(
    output: str,
    checkpoint: str | list[str] | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.ckpt").write_bytes(b"PK\x03\x04 and no more")
    Path("folder.onnx").mkdir()
    save_weights("unset.safetensors", create_model("autoencoder"), {"name": "autoencoder"}, {})
    before = set(tmp_path.iterdir())
    with pytest.raises((InputError, OSError), match=message) as raised:
        export_model(output, checkpoint)
    assert len(str(raised.value).splitlines()) == 1
    assert set(tmp_path.iterdir()) == before


def saved(name: str, network: nn.Module, folder: Path) -> Path:
    """Register a network under a name and save its weights."""
    kind = type(network)
    register_model(name)(kind)
    save_weights(folder / "weights.safetensors", network, {"name": name}, {})
    return folder / "weights.safetensors"


def test_a_network_that_answers_nothing_is_not_exported(tmp_path: Path) -> None:
    path = saved("flattened", nn.Flatten(), tmp_path)
    with pytest.raises(InputError, match=r"flattened computes no logits .*; only classifiers and autoencoders can be"):
        export_model(tmp_path / "a.onnx", path)
    assert list(tmp_path.iterdir()) == [path]


class TwoFaced(nn.Module):
    """Computes something else during an export than otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        return -logits if torch.compiler.is_compiling() else logits


class Forgetful(nn.Module):
    """Its weights are in no file."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


class Broken(nn.Module):
    """Its probabilities are NaN, before and after the export."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] * torch.nan


@pytest.mark.parametrize(
    ("network", "ending", "reason"),
    [
        (TwoFaced, "onnx", r"not written: the onnx file differs .* in [1-9]\d* labels, .* at most 1e-04"),
        (TwoFaced, "pt2", "not written: the torch file differs"),
        (Forgetful, "safetensors", "not written: the safetensors file differs"),
        (Broken, "safetensors", "in the probabilities by up to nan"),
        (Unexportable, "onnx", "PyTorch cannot export Unexportable: "),
        (Unexportable, "pt2", "PyTorch cannot export Unexportable: "),
    ],
)
def test_a_file_that_differs_does_not_appear(
    network: type[nn.Module], ending: str, reason: str, tmp_path: Path
) -> None:
    checkpoint = saved("shaky", network(), tmp_path)
    output = tmp_path / f"model.{ending}"
    output.write_bytes(b"an earlier file")
    with pytest.raises(InputError, match=reason) as raised:
        export_model(output, checkpoint)
    assert len(str(raised.value).splitlines()) == 1
    assert output.read_bytes() == b"an earlier file"
    assert {path.name for path in tmp_path.iterdir()} == {"weights.safetensors", output.name}


def test_the_exported_network_is_the_one_that_is_loaded(exported: dict[str, Exported]) -> None:
    state, found = load_model().state_dict(), load_model(exported["safetensors"].path).state_dict()
    assert all(torch.equal(state[name], found[name]) for name in state)
    assert all(one.difference <= 1e-5 for one in exported.values())
    assert all(one.size == one.path.stat().st_size for one in exported.values())
