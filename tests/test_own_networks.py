"""Users' networks of other kinds than the packaged ones train with the default settings."""

from pathlib import Path

import numpy as np
import pytest

from mnist_cls import Predictor
from mnist_cls.checkpoints.build import load_user_models
from mnist_cls.checkpoints.weights import read_weights
from mnist_cls.cli.entry_point import compose
from mnist_cls.errors import InputError
from mnist_cls.training.fit import train

from .test_train import metrics_of

START = """
import torch
from torch import nn
from torch.nn import functional as F
from mnist_cls import register_model

@register_model("mine")
class Mine(nn.Module):
"""

ATTENTION = (
    START
    + """
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(28, 32)
        self.head = nn.Linear(32, 10)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x):
        rows = self.embed(x.squeeze(1))
        return self.head(self.attention(rows, rows, rows)[0].mean(1))
"""
)

DICTIONARY = (
    START
    + """
    def __init__(self):
        super().__init__()
        self.code = nn.Linear(784, 8)
        self.back = nn.Linear(8, 784)

    def forward(self, x):
        code = self.code(x.flatten(1))
        return {"code": code, "image": self.back(code)}

    def loss(self, outputs, x, labels):
        return F.mse_loss(outputs["image"], x.flatten(1))
"""
)

EMBEDDING = (
    START
    + """
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 16)

    def forward(self, x):
        return F.normalize(self.fc(x.flatten(1)), dim=1)

    def loss(self, outputs, x, labels):
        same = labels[:, None] == labels
        return ((outputs @ outputs.T - same.float()) ** 2).mean()
"""
)

AUXILIARY = (
    START
    + """
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 10)

    def forward(self, x):
        logits = self.fc(x.flatten(1))
        return (logits, -logits) if self.training else logits

    def loss(self, outputs, x, labels):
        return F.cross_entropy(outputs[0] if isinstance(outputs, tuple) else outputs, labels)
"""
)


@pytest.mark.parametrize(
    ("source", "classifies"),
    [(ATTENTION, True), (DICTIONARY, False), (EMBEDDING, False), (AUXILIARY, True)],
    ids=["attention", "dictionary", "embedding", "auxiliary"],
)
def test_it_trains(
    source: str, classifies: bool, tmp_path: Path, digits: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source)
    train(compose("train", ["model=own", f"model_file={file}", "mode=fast_dev", "trainer=cpu"]), tmp_path / "run")
    metrics = metrics_of(tmp_path / "run")
    assert ("test/accuracy" in metrics) == classifies
    assert "test/loss" in metrics
    output = capsys.readouterr().out
    assert ("predict with it" in output) == (f"model_file={file}" in output) == classifies
    if classifies:
        assert len(Predictor(tmp_path / "run", device="cpu")(digits).labels) == 100
    else:
        with pytest.raises(InputError, match="prediction needs logits"):
            Predictor(tmp_path / "run", device="cpu")(digits)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return self.nothing(x)", "does not take images .*AttributeError: .*nothing"),
        ("return x", r"returns \(2, 1, 28, 28\) for 2 images"),
        ("return x, x", "returns tuple for 2 images; .*a loss of its own"),
        ("return {}[0]", "KeyError"),
    ],
)
def test_what_cannot_be_trained_is_one_line(body: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{START}\n    def forward(self, x):\n        {body}\n")
    with pytest.raises(InputError, match=message):
        train(compose("train", ["model=own", f"model_file={tmp_path / 'mine.py'}", "mode=fast_dev"]), tmp_path)


def test_a_function_that_returns_a_network_trains_and_predicts(tmp_path: Path, digits: np.ndarray) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\nfrom mnist_cls import register_model\n\n@register_model\ndef wide(width=16):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))\n"
    )
    options = ["model=own", "+model.width=8", f"model_file={file}", "mode=fast_dev", "trainer=cpu"]
    train(compose("train", options), tmp_path / "run")
    assert read_weights(tmp_path / "run").model == {"name": "wide", "width": 8}
    assert len(Predictor(tmp_path / "run", device="cpu")(digits).labels) == 100


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layers_beside.py").write_text("from torch import nn\nHEAD = nn.Linear\n")
    (tmp_path / "mine.py").write_text(f"from layers_beside import HEAD\n{START}    layer = HEAD\n")
    monkeypatch.chdir("/")
    assert load_user_models(tmp_path / "mine.py") == ["mine"]
    import sys

    assert str(tmp_path) not in sys.path
