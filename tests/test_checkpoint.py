"""Weights are read as they were written; any other file is refused in one line and runs nothing."""

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mnist_cls import MNISTModule, Predictor, create_model, list_weights, load_model
from mnist_cls.checkpoints.find import find_checkpoint
from mnist_cls.checkpoints.weights import read_ckpt, read_weights, save_ckpt, save_weights
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError

from .conftest import Run, one_line
from .forged import archive_of, training
from .test_sources import as_png


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "mlp.safetensors"
    config: dict[str, Any] = {"name": "mlp", "widths": [784, 16, 10]}
    save_weights(path, create_model(**config), config, {"seed": 3})
    return path


def test_weights_come_back(tmp_path: Path) -> None:
    config: dict[str, Any] = {"name": "image_classifier", "dropout": 0.1}
    model = create_model(**config)
    save_weights(tmp_path / "a.safetensors", model, config, {"seed": 3})
    weights = read_weights(tmp_path / "a.safetensors")
    assert weights.model == config
    assert weights.provenance == {"seed": 3}
    loaded = load_model(tmp_path / "a.safetensors")
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_every_way_to_name_a_checkpoint(trained: Path) -> None:
    images = torch.randint(0, 256, (8, 28, 28), dtype=torch.uint8)
    best = trained / "checkpoints" / "best.ckpt"
    outputs = [
        load_model(checkpoint)(normalize(images)) for checkpoint in (trained, trained / "model.safetensors", best)
    ]
    assert torch.equal(outputs[0], outputs[1])
    # The model file has the temperature within its last layer, the checkpoint is as training left it.
    temperature = json.loads((trained / "metrics.json").read_text())["temperature"]
    torch.testing.assert_close(outputs[0] * temperature, outputs[2])
    assert find_checkpoint(trained, prefer="checkpoints/last.ckpt").name == "last.ckpt"
    assert find_checkpoint("image_classifier") == find_checkpoint()
    assert list_weights() == ["accurate", "autoencoder", "conditional", "image_classifier"]


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_checkpoints_hold_tensors_and_plain_values_only(trained: Path, name: str) -> None:
    content = torch.load(trained / "checkpoints" / name, weights_only=True)
    assert content["mnist_cls"]["model"] == {"name": "image_classifier", "dropout": 0.25}
    assert read_ckpt(trained / "checkpoints" / name)["global_step"] == content["global_step"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkpoints/best.ckpt", "damaged, or not a checkpoint .Bad CRC-32 for file 'archive/data/"),
        ("checkpoints/last.ckpt", "damaged, or not a checkpoint .Bad CRC-32 for file 'archive/data/"),
        ("model.safetensors", "is damaged: its tensors or metadata do not match its digest; copy it again"),
    ],
)
def test_one_changed_bit_is_noticed(tmp_path: Path, trained: Path, name: str, message: str) -> None:
    content = bytearray((trained / name).read_bytes())
    path = tmp_path / Path(name).name
    content[len(content) // 2] ^= 1  # among the weights, where no format looks
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}: {message}"):
        read_weights(path)


def test_other_programs_read_the_checkpoints_of_a_training(trained: Path) -> None:
    for path in sorted((trained / "checkpoints").iterdir()):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        assert torch.load(path, weights_only=True, mmap=True)["global_step"] > 0
    with safe_open(trained / "model.safetensors", framework="pt") as file:
        assert "fc2.bias" in file.keys()  # noqa: SIM118 (it is no mapping)
        assert json.loads(file.metadata()["mnist_cls"])["model"]["name"] == "image_classifier"


def test_the_digest_covers_tensors_and_all_metadata(saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(saved)
    other, changed = tmp_path / "other.safetensors", torch.zeros_like(state["fc2.bias"])
    save_file(state, other, metadata)
    assert read_weights(other).provenance == {"seed": 3}
    for new_state, new_metadata in (
        ({**state, "fc2.bias": changed}, metadata),
        ({**state, "fc2.bias": state["fc2.bias"].view(torch.int32)}, metadata),
        ({**state, "fc2.bias": state["fc2.bias"].view(2, 5)}, metadata),
        ({**{name: state[name] for name in state if name != "fc2.bias"}, "fc3.bias": state["fc2.bias"]}, metadata),
        (state, {**metadata, "format": "np"}),
        (state, {**metadata, "more": "1"}),
    ):
        save_file(new_state, other, new_metadata)
        with pytest.raises(InputError, match="do not match its digest"):
            read_weights(other)


def test_checkpoints_of_earlier_versions(tmp_path: Path, trained: Path) -> None:
    """Their `.ckpt` had a digest in the zip's comment, their `.safetensors` one of its own bytes."""
    content = (trained / "checkpoints" / "last.ckpt").read_bytes()[:-2] + (71).to_bytes(2, "little")
    comment = b"sha256=" + hashlib.sha256(content).hexdigest().encode()
    (tmp_path / "last.ckpt").write_bytes(content + comment)
    assert read_ckpt(tmp_path / "last.ckpt")["global_step"] > 0
    with safe_open(trained / "model.safetensors", framework="pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "digest"}
    save_file(load_file(trained / "model.safetensors"), tmp_path / "old.safetensors", {**metadata, "sha256": "0" * 64})
    with pytest.raises(InputError, match=r"hold no digest; .* export .*best\.ckpt again") as caught:
        read_weights(tmp_path / "old.safetensors")
    assert "\n" not in str(caught.value)


def test_a_program_that_switched_crcs_off_still_writes_them(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        save_ckpt(tmp_path / "a.ckpt", training())
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_ckpt(tmp_path / "a.ckpt")["global_step"] == 1


def test_layers_that_share_their_weights_are_saved(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    network = nn.Sequential(first, second)
    save_weights(tmp_path / "tied.safetensors", network, {"name": "tied"}, {})
    state = read_weights(tmp_path / "tied.safetensors").state
    assert torch.equal(state["0.weight"], first.weight)
    assert torch.equal(state["1.weight"], first.weight)


def test_a_missing_one_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file or folder.*image_classifier"):
        load_model(tmp_path / "nothing.ckpt")
    with pytest.raises(InputError, match="expected the folder of a training run"):
        load_model(tmp_path)


def saved_array(save: Any) -> bytes:
    file = io.BytesIO()
    save(file, np.zeros((2, 28, 28), np.uint8))
    return file.getvalue()


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("5.png", b"damaged", "an image"),
        ("5.JPG", b"damaged", "an image"),
        ("test.csv", b"1,2", "a table"),
        ("five", as_png(np.zeros((28, 28), np.uint8)), "an image"),
        ("five.ckpt", as_png(np.zeros((28, 28), np.uint8)), "an image"),
        ("test.npy", saved_array(np.save), "an array"),
        ("test.npz", saved_array(np.savez), "an archive of arrays, images or tables"),
    ],
)
def test_an_input_in_place_of_a_checkpoint_is_told_where_it_belongs(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for load in (load_model, Predictor, MNISTModule.load_from_checkpoint):
        with pytest.raises(
            InputError, match=rf"{name}: {kind}, not a checkpoint; .* Predictor\(\)\(PATH\) or input=PATH"
        ):
            load(path)


def test_images_in_place_of_a_checkpoint_are_told_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "5.png").write_bytes(as_png(np.zeros((28, 28), np.uint8)))
    for load in (load_model, Predictor, MNISTModule.load_from_checkpoint):
        with pytest.raises(InputError, match=r"pass a folder of images .* Predictor\(\)\(PATH\) or input=PATH"):
            load(tmp_path)
    images: list[Any] = [
        np.zeros((3, 28, 28)),
        torch.zeros(3, 28, 28),
        [np.zeros((28, 28))],
        Image.new("L", (28, 28)),
        pd.DataFrame(np.zeros((2, 784))),
        as_png(np.zeros((28, 28), np.uint8)),
    ]
    for value in images:
        for take in (Predictor, load_model):
            with pytest.raises(InputError, match=rf"^checkpoint: {type(value).__name__}; .* Predictor\(\)\(IMAGES\)$"):
                take(value)


@pytest.mark.parametrize(("name", "words"), [("5.png", "an image, not a checkpoint"), ("scans", "a folder of images")])
def test_the_command_says_where_images_belong(run: Run, tmp_path: Path, png: Path, name: str, words: str) -> None:
    (tmp_path / "scans").mkdir()
    shutil.copy(png, tmp_path / "5.png")
    done = run("predict", f"checkpoint={tmp_path / name}", f"input={png}")
    assert words in one_line(done)
    assert "input=PATH" in one_line(done)


@pytest.mark.parametrize("how", ["pickle", "torch", "inside"])
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, trained: Path, how: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
        message = "damaged, or not a checkpoint"
    else:
        content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
        path.write_bytes(archive_of(Bomb(mark) if how == "torch" else {**content, "extra": Bomb(mark)}))
        message = r"not loaded: it could run code \(posix.mkdir\)"
    with pytest.raises(InputError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    if how == "pickle":
        pickle.loads(path.read_bytes())  # noqa: S301 (to see that it is a bomb)
    else:
        torch.load(path, weights_only=False)
    assert mark.exists(), "the bomb was a real one"


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.999])
@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
def test_a_file_that_was_cut_off_is_noticed(tmp_path: Path, trained: Path, kind: str, fraction: float) -> None:
    source = trained / ("checkpoints/best.ckpt" if kind == "ckpt" else "model.safetensors")
    content = source.read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(InputError, match=str(path)) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"hello", b"\x89PNG\r\n", b"{}", b"\x02\0\0\0\0\0\0\0{}", b"PK\x03\x04" + b"x" * 99]
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "something.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    foreign: list[object] = [{"state_dict": {}}, {"weight": torch.zeros(3)}, [1, 2], {"state_dict": {}, "mnist_cls": 3}]
    for content in foreign:
        (tmp_path / "foreign.ckpt").write_bytes(archive_of(content))
        with pytest.raises(InputError, match=r"expected a checkpoint|expected a file"):
            load_model(tmp_path / "foreign.ckpt")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "mlp", "widths": [784, 17, 10]}, r"'mlp': fc1.weight is \(16, 784\), expected \(17, 784\)"),
        ({"name": "mlp", "widths": [784, 16, 16, 10]}, "fc2.weight"),
        ({"name": "mlp", "widths": [784, 16]}, "has no fc2.bias"),
        ({"name": "image_classifier"}, "conv1.weight is missing"),
        ({"name": "resnet_9000"}, "no model is called 'resnet_9000'"),
        ({"name": "mlp", "_target_": "os.system"}, "no option '_target_'"),
        ({"name": "mlp", "widths": [784, 2**40, 10]}, "expected"),
        ({}, "name"),
    ],
)
def test_weights_that_do_not_fit_their_network(
    tmp_path: Path, saved: Path, model: dict[str, object], message: str
) -> None:
    weights = read_weights(saved)
    network = create_model(**weights.model)
    network.load_state_dict(weights.state)
    save_weights(tmp_path / "other.safetensors", network, model, {})
    with pytest.raises(InputError, match=message) as caught:
        load_model(tmp_path / "other.safetensors")
    assert "\n" not in str(caught.value)


def test_nothing_half_written_is_left(tmp_path: Path, saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        save_weights(saved, create_model("mlp"), {"name": object()}, {})
    assert saved.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mlp.safetensors"]


def test_a_copied_run_is_still_a_run(tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "elsewhere")
    assert find_checkpoint(tmp_path / "elsewhere").name == "model.safetensors"
