"""`python -m mnist_cls.forward` shows every operation, for every network and input, and the prediction."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from mnist_cls import Predictor, create_model, trace_forward
from mnist_cls.checkpoints.weights import save_weights
from mnist_cls.cli.entry_point import compose
from mnist_cls.data.datasets import LabelledImages
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.models.image_classifier import ImageClassifier
from mnist_cls.tracing.inputs import read_batch
from mnist_cls.tracing.outputs import saliency
from mnist_cls.tracing.overview import save_pictures
from mnist_cls.tracing.pictures import draw_saliency
from mnist_cls.tracing.show import show_forward
from mnist_cls.tracing.table import print_modes, print_trace

from .conftest import ROOT, Run, one_line
from .test_configs import OWN_NETWORK


def printed(folder: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """Output of the command with these overrides."""
    show_forward(compose("forward", overrides), folder)
    return capsys.readouterr().out


def test_the_shapes_of_the_docstring_are_in_the_table(run: Run, tmp_path: Path) -> None:
    done = run("forward", "output_dir=run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    documented = re.findall(r"\(B, [\d, ]+\)", str(ImageClassifier.__doc__))
    assert len(documented) == 9
    remaining = iter(lines)  # each shape is below the previous one
    for shape in documented:
        text = re.sub(" +", " ", shape.replace("B", "1"))
        assert any(text in re.sub(" +", " ", line) for line in remaining), shape
    for text in ("conv2d", "relu", "max_pool2d", "flatten", "softmax", "image_classifier.py:", "7,225,344", "label 7"):
        assert text in done.stdout
    assert "label 7 (100.00%), correct" in done.stdout
    assert "run/overview.png" in done.stdout
    assert done.stderr == ""


def test_without_pictures_there_is_no_folder(run: Run, tmp_path: Path) -> None:
    done = run("forward", "model=mlp", "pictures=false")
    assert done.returncode == 0, done.stderr
    assert "random weights" in done.stdout
    assert "correct" not in done.stdout  # a correct answer would be luck
    assert list(tmp_path.iterdir()) == []


def test_a_narrow_screen_gets_several_tables(capsys: pytest.CaptureFixture[str]) -> None:
    trace = trace_forward(ImageClassifier().eval(), torch.zeros(1, 1, 28, 28))
    for width, tables in ((100, 2), (60, 4), (240, 1)):
        print_trace(trace, Console(width=width))
        text = capsys.readouterr().out
        assert text.count("operation  ") == tables
        assert text.count("max_pool2d") == 2 * tables
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text


def test_names_of_layers_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(OrderedDict({"[/red]": nn.Dropout(), "[bold]": nn.LogSigmoid()}))
    trace = trace_forward(model, torch.full((4,), torch.nan))
    print_trace(trace[1:])
    print_modes(trace[:1], trace)
    text = capsys.readouterr().out
    assert "operation 2, logsigmoid [bold] (4,)" in text
    assert "only in training: [bold]" in text


def test_pictures_on_disk_and_in_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(tmp_path, capsys, "input=3")
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert {"05_conv1_conv2d", "08_conv2_conv2d", "15_fc2_linear", "filters", "saliency_logits", "overview"} <= names
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    tags = {tag.removeprefix("forward/") for tag in events.Tags()["images"]}
    assert tags == names - {"overview"}
    with Image.open(tmp_path / "05_conv1_conv2d.png") as picture:
        assert picture.size == (16 * 2 * 29 - 2, 2 * 2 * 29 - 2)  # 32 maps of 28x28 in two rows, enlarged twice
        assert np.asarray(picture).std() > 5
    with Image.open(tmp_path / "filters.png") as picture:
        assert np.asarray(picture).std() > 20


@pytest.mark.parametrize("name", ["mlp", "residual", "conditional", "autoencoder"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_network(name: str, mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(tmp_path, capsys, f"model={name}", f"mode={mode}", "input=0")
    assert f"mode={mode}" in text
    assert "conv2d" in text or name == "mlp"
    assert "reconstruction error" in text if name == "autoencoder" else "label" in text
    assert (tmp_path / "overview.png").is_file()
    # In training the conditional network has two heads, each with its prediction and its saliency.
    heads = 2 if (name, mode) == ("conditional", "train") else 0 if name == "autoencoder" else 1
    assert text.count("probability") == heads == len(list(tmp_path.glob("saliency_*.png")))


def test_an_early_exit_skips_the_later_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["model=conditional", "pictures=false"]  # the first test image is easy
    assert "conv3" in printed(tmp_path, capsys, *options)
    text = printed(tmp_path, capsys, *options, "early_exit=true")
    assert "only in training: conv2, " in text
    assert not re.search(r"conv2d +conv3", text)
    with pytest.raises(InputError, match=r"ImageClassifier has no early exit; model=conditional has one"):
        show_forward(compose("forward", ["early_exit=true"]), tmp_path)


def test_shows_a_users_own_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(OWN_NETWORK)
    text = printed(tmp_path, capsys, "model=own", "model.name=mine", f"model_file={tmp_path / 'mine.py'}")
    assert "Mine, random weights" in text
    assert re.search(r"linear +1 ", text)
    assert "shapes.py" not in text


def test_prints_all_values_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(tmp_path, capsys, "model=mlp", "values=true", "pictures=false")
    assert "..." not in text
    block = text.split("linear fc1 (1, 128)")[1].split("\n\n")[0]
    assert len(re.findall(r"-?\d+\.\d*", block)) == 128
    assert "..." not in printed(tmp_path, capsys, "model=mlp", "pictures=false")


def test_predicts_a_users_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(tmp_path, capsys, f"input={ROOT / 'docs' / 'digits' / '5.png'}", "pictures=false")
    assert "label 5" in text
    assert "correct" not in text  # its label is unknown


def test_prints_the_probabilities_of_the_predictor(
    tmp_path: Path, mnist_test: LabelledImages, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(tmp_path, capsys, "input=8", "pictures=false")
    expected = Predictor(device="cpu")(mnist_test.images[8:9]).probabilities[0]
    found = re.findall(r"^\d +\S+ +(\d\.\d{4})", text.split("probability")[1], re.M)
    np.testing.assert_allclose([float(value) for value in found], expected, atol=6e-5)


def test_shows_a_folder_of_images_and_random_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "label 2 (9" in printed(tmp_path, capsys, f"input={ROOT / 'docs' / 'digits'}", "pictures=false")
    one, again, other = (
        printed(tmp_path, capsys, "input=random", "pictures=false", seed) for seed in ("seed=1",) * 2 + ("seed=2",)
    )
    assert one == again != other


def test_compares_training_and_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mode in ("eval", "train"):
        text = printed(tmp_path, capsys, "model=residual", f"mode={mode}", "pictures=false")
        table = text.split("evaluation vs. training")[1].split("logits")[0]
        assert len(re.findall(r"^\S*norm\d? |^\S*skip.1 ", table, re.M)) == 9
        [dropout] = re.findall(r"^dropout .*", table, re.M)
        zeros = [int(percent) for percent in re.findall(r"(\d+)%", dropout)]
        assert zeros[1] > zeros[0]
    assert "this network is the same in evaluation and training" in printed(
        tmp_path, capsys, "model=autoencoder", "pictures=false"
    )


def test_uses_trained_weights_if_it_has_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["pictures=false", "input=0"]
    assert "weights of image_classifier.safetensors" in printed(tmp_path, capsys, "model=image_classifier", *options)
    assert "random weights" in printed(tmp_path, capsys, "model=residual", *options)
    model = ImageClassifier()
    save_weights(tmp_path / "mine.safetensors", model, {"name": "image_classifier"}, {})
    assert "mine.safetensors" in printed(tmp_path, capsys, f"checkpoint={tmp_path / 'mine.safetensors'}", *options)
    options = ["model=image_classifier", f"checkpoint={tmp_path / 'mine.safetensors'}", "input=0", "mode=train"]
    for dropout, same in (("0.0", True), ("0.9", False)):  # the options of the config, not of the file
        text = printed(tmp_path, capsys, *options, f"model.dropout={dropout}", "pictures=false")
        assert ("this network is the same in evaluation and training" in text) == same
    with pytest.raises(InputError, match=r"model=mlp, but .*mine.safetensors has weights of image_classifier"):
        show_forward(compose("forward", ["model=mlp", f"checkpoint={tmp_path / 'mine.safetensors'}"]), tmp_path)


def network_file(body: str, init: str = "pass") -> str:
    """The text of a user's file that registers a network with this `forward`."""
    return f"""
import torch
from torch import nn
from mnist_cls import register_model

@register_model("mine")
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 10)
        {init}

    def forward(self, x):
        {body}
"""


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (network_file("y = self.fc(x.flatten(1)); return y, -y"), ["output 0", "output 1", "pictures"]),
        (network_file("y = self.fc(x.flatten(1)); return {'a': y, 'b': x}"), ["\na  logit", "label", "pictures"]),
        (network_file("with torch.no_grad(): return self.fc(x.flatten(1))"), ["no saliency of logits", "pictures"]),
        (
            network_file("return self.norm(self.fc(x.flatten(1)))", "self.norm = nn.BatchNorm1d(10)"),
            ["mode=train fails after operation", "Expected more than 1 value per channel", "pictures"],
        ),
        (
            network_file("return self.fc(torch.fft.fft2(x).flatten(1).real)"),
            ["fft2", " unknown ", "(operations with unknown FLOPs: 1)"],
        ),
    ],
    ids=["tuple", "dict", "no gradient", "batch norm of one image", "complex"],
)
def test_shows_networks_of_every_kind(
    file: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(file)
    text = printed(tmp_path, capsys, "model=own", f"model_file={tmp_path / 'mine.py'}")
    for word in words:
        assert word in text
    assert (tmp_path / "overview.png").is_file()


def test_prints_the_operations_before_a_bug(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(network_file("y = torch.relu(x).flatten(1); return self.fc2(y)"))
    with pytest.raises(InputError, match=r"after operation 6: AttributeError: .*fc2"):
        show_forward(compose("forward", ["model=own", f"model_file={tmp_path / 'mine.py'}"]), tmp_path)
    assert "relu" in capsys.readouterr().out


FAILING = """
import torch
from torch import nn
from mnist_cls import register_model

@register_model("failing")
class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(784, 10)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).flatten(1))
"""


def test_prints_the_operations_before_a_wrong_shape(run: Run, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    done = run("forward", "model=own", "model.name=failing", "model_file=failing.py")
    line = one_line(done, "failed after operation 8", "head (Linear) got (1, 2704), expected (B, 784)")
    assert "Traceback" not in line
    assert "relu" in done.stdout
    assert "failing.py:14" in done.stdout


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("input=10000", "there are 10,000 test images, 0 to 9999"),
        ("input=nowhere.png", "nowhere.png: no such file"),
        ("mode=fast", "mode=fast: expected train or eval"),
        ("input=", "no input: use input=INDEX for a test image"),
        ("model=nothing", "model=nothing: no such choice"),
        ("model_file=nowhere.py", "model_file=nowhere.py: no such file"),
    ],
)
def test_a_bad_option_is_an_input_error(override: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        show_forward(compose("forward", [override]), tmp_path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [((), ()), ((), (1,)), ((1, 28, 28), ()), ((2, 28, 28), (1,)), ((0, 28, 28), (0,)), ((1, 784), (1,))],
    ids=str,
)
def test_a_batch_of_other_shapes_is_an_input_error(
    images: tuple[int, ...], labels: tuple[int, ...], tmp_path: Path
) -> None:
    batch = {"images": torch.zeros(images).byte(), "labels": torch.zeros(labels).long()}
    save_file({**batch, "random_state": torch.get_rng_state()}, tmp_path / "batch.safetensors")
    with pytest.raises(InputError, match=r"expected images \(N, 28, 28\) with labels \(N,\) from 0 to 9"):
        read_batch(tmp_path / "batch.safetensors")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "label 7" in printed(tmp_path, capsys, "device=cuda")


def test_draws_no_operation_whose_first_row_may_be_another_image(tmp_path: Path) -> None:
    """After an early exit, the first row can belong to any image."""
    torch.manual_seed(0)
    model = create_model("conditional").eval()
    images = torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        confidences = model.train()(normalize(images)).early_logits.softmax(1).amax(1)
    model.eval()
    for threshold, drawn in ((2.0, True), (confidences.median().item(), False)):
        cast(torch.Tensor, model.threshold).fill_(threshold)
        with torch.no_grad():
            trace = trace_forward(model, normalize(images), early_exit=True)
        late = [record for record in trace if record.layer == "conv3" and record.operation == "conv2d"]
        assert len(late[0].value) == (6 if drawn else 2)
        folder = tmp_path / str(drawn)
        save_pictures(model, trace, images, folder, {"early_exit": True})
        assert bool(list(folder.glob("*_conv3_conv2d.png"))) == drawn
        assert list(folder.glob("*_conv1_conv2d.png"))
    cast(torch.Tensor, model.threshold).fill_(0.0)  # every image exits early: the saliency is that of the first head
    with torch.no_grad():
        trace = trace_forward(model, normalize(images), early_exit=True)
    save_pictures(model, trace, images, tmp_path, {"early_exit": True})
    label = int(trace.output[0].argmax())
    expected = draw_saliency(images[0], saliency(model, normalize(images[:1]), label, early_exit=True))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "saliency_logits.png")), np.asarray(expected))
