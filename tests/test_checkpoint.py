"""Weights come back as they were; a file that is no checkpoint of ours is refused in one line and runs nothing."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from mnist_cls import create_model, list_weights, load_model
from mnist_cls.checkpoint import find_checkpoint, read_ckpt, read_weights, save_weights
from mnist_cls.errors import InputError
from mnist_cls.images import normalize


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "mlp.safetensors"
    config = {"name": "mlp", "widths": [784, 16, 10]}
    save_weights(path, create_model(**config), config, {"seed": 3})  # type: ignore[arg-type]
    return path


def test_weights_come_back(tmp_path: Path) -> None:
    config = {"name": "image_classifier", "dropout": 0.1}
    model = create_model(**config)  # type: ignore[arg-type]
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


def test_a_missing_one_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file or folder.*image_classifier"):
        load_model(tmp_path / "nothing.ckpt")
    with pytest.raises(InputError, match="is it the folder of a training run"):
        load_model(tmp_path)


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["pickle", "torch", "inside"])
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, trained: Path, how: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    elif how == "torch":
        torch.save(Bomb(mark), path)
    else:
        content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
        torch.save({**content, "extra": Bomb(mark)}, path)
    with pytest.raises(InputError, match="not loaded: it holds more than tensors and plain values") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    if how == "pickle":
        pickle.loads(path.read_bytes())  # noqa: S301 (to see that it is a bomb)
    else:
        torch.load(path, weights_only=False)
    assert mark.exists(), "the bomb was a real one"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
def test_a_file_that_was_cut_off_is_noticed(tmp_path: Path, trained: Path, kind: str, share: float) -> None:
    source = trained / ("checkpoints/best.ckpt" if kind == "ckpt" else "model.safetensors")
    content = source.read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(content[: int(len(content) * share)])
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
        torch.save(content, tmp_path / "foreign.ckpt")
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
