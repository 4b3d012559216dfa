"""TensorBoard's own reader finds curves, pictures, histograms and hyperparameters in the event files."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mnist_cls import register_model
from mnist_cls.cli.entry_point import compose
from mnist_cls.training.fit import train

from .conftest import Run
from .test_train import metrics_of


@pytest.fixture(scope="module")
def events(trained: Path) -> EventAccumulator:
    accumulator = EventAccumulator(
        str(trained / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "histograms": 0}
    )
    accumulator.Reload()
    return accumulator


def test_curves_by_step_and_epoch(events: EventAccumulator) -> None:
    for tag, count in {
        "train/loss_step": 1,
        "train/accuracy_step": 1,
        "train/loss": 2,
        "train/accuracy_epoch": 2,
        "val/loss": 3,
        "val/accuracy": 3,
        "train/learning_rate": 1,
    }.items():
        points = events.Scalars(tag)
        assert len(points) >= count, tag
        assert all(np.isfinite(point.value) for point in points)
    assert events.Scalars("train/loss")[1].value < events.Scalars("train/loss")[0].value


def test_the_first_charts_are_loss_and_accuracy_of_training_and_validation(
    events: EventAccumulator, trained: Path
) -> None:
    tags = set(events.Tags()["scalars"])
    for run, name, pairs in (
        ("training", "train", {"loss": "loss", "accuracy": "accuracy_epoch"}),
        ("validation", "val", {"loss": "loss", "accuracy": "accuracy"}),
    ):
        charts = EventAccumulator(str(trained / "tensorboard" / run))
        charts.Reload()
        assert sorted(charts.Tags()["scalars"]) == ["curves/accuracy", "curves/loss"]
        for chart, tag in pairs.items():
            points = charts.Scalars(f"curves/{chart}")
            assert len(points) >= 2
            assert [(one.step, one.value) for one in points] == [
                (one.step, one.value) for one in events.Scalars(f"{name}/{tag}")
            ]
        tags |= set(charts.Tags()["scalars"])
    # Sorted by tag, as TensorBoard shows them.
    assert sorted(tags)[:2] == ["curves/accuracy", "curves/loss"]
    assert "epoch" not in tags
    singles = {tag for tag in tags if tag.startswith("with_hyperparameters/")}
    assert singles
    assert min(singles) > max(tag for tag in tags if tag.split("/")[0] in ("train", "val", "test", "curves"))


def test_the_test_metrics_are_those_of_metrics_json(events: EventAccumulator, trained: Path) -> None:
    assert events.Scalars("test/accuracy")[-1].value == pytest.approx(metrics_of(trained)["test/accuracy"])
    assert events.Scalars("with_hyperparameters/test/accuracy")[-1].value == pytest.approx(
        metrics_of(trained)["test/accuracy"]
    )


def test_the_networks_graph(events: EventAccumulator) -> None:
    graph = str(events.Graph())
    for layer in ("conv1", "conv2", "fc1", "fc2"):
        assert layer in graph


def picture(events: EventAccumulator, tag: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string)).convert("L"))


def test_a_grid_of_the_training_images(events: EventAccumulator) -> None:
    grid = picture(events, "train/images")
    assert grid.shape == (8 * 28, 8 * 28)
    assert grid.max() > 200
    assert (grid == 0).mean() > 0.5


@pytest.mark.parametrize("tag", ["val/confusion_matrix", "test/confusion_matrix"])
def test_a_picture_of_the_confusion_matrix(events: EventAccumulator, tag: str) -> None:
    drawn = picture(events, tag)
    assert min(drawn.shape) >= 400
    assert drawn.std() > 20


def test_hyperparameters_with_the_final_metrics(events: EventAccumulator) -> None:
    [start] = [
        data.session_start_info.hparams
        for content in events.summary_metadata.values()
        if content.plugin_data.plugin_name == "hparams"
        for data in [HParamsPluginData.FromString(content.plugin_data.content)]
        if data.HasField("session_start_info")
    ]
    assert start["seed"].number_value == 0
    assert start["optimizer/lr"].number_value == 0.003
    assert start["model/name"].string_value == "image_classifier"


def test_histograms_and_zeros_of_the_network(events: EventAccumulator) -> None:
    histograms = set(events.Tags()["histograms"])
    for name in ("conv1.weight", "conv2.bias", "fc1.weight", "fc2.weight"):
        assert {f"weights/{name}", f"gradients/{name}"} <= histograms
    assert len(events.Histograms("weights/fc1.weight")) == 2  # once an epoch
    counts = events.Histograms("weights/fc1.weight")[-1].histogram_value
    assert counts.num == 3136 * 128
    zeros = [point.value for point in events.Scalars("zeros/09_relu")]
    assert len(zeros) == 2
    assert all(0 < fraction < 1 for fraction in zeros)
    assert events.Scalars("zeros/04_conv2_conv2d")[-1].value < 0.01


def test_the_gradients_norm(events: EventAccumulator) -> None:
    points = events.Scalars("train/gradient_norm")
    assert [point.step for point in points] == [19]  # of 20 steps, every 20th
    assert 0 < points[0].value < 100


def test_accuracy_and_curve_of_each_digit(events: EventAccumulator) -> None:
    accuracies = [events.Scalars(f"val/accuracy_of/{digit}")[-1].value for digit in range(10)]
    overall = events.Scalars("val/accuracy")[-2].value
    assert min(accuracies) < overall < max(accuracies)
    curves = [tag for tag in events.summary_metadata if tag.startswith("val/precision_recall/")]
    assert len(curves) == 10
    assert len({events.Tensors(tag)[-1].tensor_proto.SerializeToString() for tag in curves}) == 10
    assert events.summary_metadata[curves[0]].plugin_data.plugin_name == "pr_curves"


def test_the_worst_mistakes_with_captions(events: EventAccumulator) -> None:
    drawn = picture(events, "val/mistakes")
    assert drawn.shape == (4 * (84 + 20), 8 * 88)
    assert (drawn[:84, :84] > 100).any()
    assert (drawn[86:98, :84] < 100).any()  # the text below it


def test_the_projector_shows_fc1_with_its_images(trained: Path) -> None:
    [folder] = (trained / "tensorboard").glob("*/fc1")
    vectors = np.loadtxt(folder / "tensors.tsv")
    labels = (folder / "metadata.tsv").read_text().split()
    assert vectors.shape == (500, 128)
    assert vectors.min() < 0  # before the ReLU
    assert set(labels) == set("0123456789")
    with Image.open(folder / "sprite.png") as sprite:
        assert sprite.size[0] % 28 == 0
        assert np.asarray(sprite.convert("L")).std() > 20
    assert "fc1" in (trained / "tensorboard" / "projector_config.pbtxt").read_text()


def test_the_projector_of_a_network_without_fc1_says_what_it_shows(tmp_path: Path) -> None:
    train(compose("train", ["mode=fast_dev", "model=fast", "trainer=cpu"]), tmp_path)
    assert "input of head" in (tmp_path / "tensorboard" / "projector_config.pbtxt").read_text()
    [vectors] = (tmp_path / "tensorboard").rglob("tensors.tsv")
    assert np.loadtxt(vectors).shape[1] == 256


def test_one_switch_leaves_the_inspection_out(run: Run, tmp_path: Path) -> None:
    done = run("train", "mode=fast_dev", "model=mlp", "output_dir=run", "~callbacks.inspection")
    assert done.returncode == 0, done.stderr
    accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    assert tags["histograms"] == []
    assert not any(tag.startswith(("zeros", "val/accuracy_of")) or "gradient" in tag for tag in tags["scalars"])
    assert "val/mistakes" not in tags["images"]
    assert not (tmp_path / "run" / "tensorboard" / "projector_config.pbtxt").exists()


def test_an_autoencoder_shows_its_reconstructions(tmp_path: Path) -> None:
    train(compose("train", ["mode=fast_dev", "model=autoencoder", "trainer=cpu"]), tmp_path)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    accumulator.Reload()
    assert picture(accumulator, "val/outputs").shape == (2 * 56, 32 * 56)


def test_a_network_that_cannot_be_traced_is_trained_without_its_graph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @register_model("untraceable")
    class Untraceable(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(784, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) == 1:  # as in the trace
                raise NotImplementedError
            logits: torch.Tensor = self.fc(x.flatten(1))
            return logits

    train(compose("train", ["mode=fast_dev", "model=own", "model.name=untraceable", "trainer=cpu"]), tmp_path)
    assert "no graph of this network: NotImplementedError" in capsys.readouterr().err
    assert (tmp_path / "metrics.json").is_file()
