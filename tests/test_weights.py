"""The weights that the package carries are what their file says of them."""

import numpy as np
import pytest

from mnist_cls import Predictor, list_weights
from mnist_cls.checkpoint import read_weights
from mnist_cls.config import compose
from mnist_cls.data.datasets import LabelledImages


def test_they_reach_the_accuracy_that_their_file_names(mnist_test: LabelledImages) -> None:
    named = read_weights().provenance["metrics"]["test/accuracy"]
    right = Predictor(device="cpu")(mnist_test.images).labels == mnist_test.labels.numpy()
    assert np.mean(right) == pytest.approx(named, abs=2e-4)  # another processor may round otherwise
    assert named >= 0.99


def test_a_config_in_the_repository_made_them() -> None:
    for name in list_weights():
        provenance = read_weights(name).provenance
        command = provenance["command"].split()
        assert command[:3] == ["python", "-m", "mnist_cls.train"]
        settings = compose("train", command[3:])
        made_with = provenance["config"]
        if made_with["data"]["augmentation"] is not None:
            made_with["data"]["augmentation"].setdefault("elastic", 0.0)  # which came later
        assert settings.model == made_with["model"] == read_weights(name).model
        assert {key: getattr(settings.data, key) for key in made_with["data"]} == made_with["data"]
        assert vars(settings.trainer) == made_with["trainer"]
        assert settings.optimizer == made_with["optimizer"]
        assert settings.seed == made_with["seed"]
        assert {"mnist-cls", "torch", "lightning"} <= set(provenance["versions"])
