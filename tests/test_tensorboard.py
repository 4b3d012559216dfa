"""What TensorBoard's own reader finds in the event files of a training."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from .test_train import metrics_of


@pytest.fixture(scope="module")
def events(trained: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(trained / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
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
        "epoch": 2,
    }.items():
        points = events.Scalars(tag)
        assert len(points) >= count, tag
        assert all(np.isfinite(point.value) for point in points)
    assert events.Scalars("train/loss")[1].value < events.Scalars("train/loss")[0].value


def test_the_test_figures_are_those_of_metrics_json(events: EventAccumulator, trained: Path) -> None:
    assert events.Scalars("test/accuracy")[-1].value == pytest.approx(metrics_of(trained)["test/accuracy"])
    assert events.Scalars("final/test/accuracy")[-1].value == pytest.approx(metrics_of(trained)["test/accuracy"])


def test_the_networks_graph(events: EventAccumulator) -> None:
    graph = str(events.Graph())
    for layer in ("conv1", "conv2", "fc1", "fc2"):
        assert layer in graph


def picture(events: EventAccumulator, tag: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string)).convert("L"))


def test_a_grid_of_the_images_that_the_network_got(events: EventAccumulator) -> None:
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
