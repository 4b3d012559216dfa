"""Every config composes, and every choice of every group runs a step on real data."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mnist_cls.cli.entry_point import compose
from mnist_cls.cli.help import config_folder
from mnist_cls.cli.settings import SETTINGS, DataSettings, TrainerSettings
from mnist_cls.data.embedded import FOLDER
from mnist_cls.inference.options import PredictOptions
from mnist_cls.training.datamodule import MNISTDataModule
from mnist_cls.training.fit import train

from .conftest import Run

GROUPS = sorted(
    {f"{path.parent.name}={path.stem}" for path in config_folder().glob("*/*.yaml") if path.parent.name != "hydra"}
    - {"logger=mlflow", "logger=wandb"}  # test_loggers.py runs these
)
# Overrides for a run as short as possible. The choice to test comes after these, and takes precedence.
STEP = [
    "model=mlp",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
    "trainer.enable_progress_bar=false",
]

OWN_NETWORK = """
from torch import nn
from mnist_cls import register_model

@register_model("mine")
class Mine(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
"""


@pytest.mark.parametrize("entry", SETTINGS)
def test_entry_configs_compose(entry: str) -> None:
    assert isinstance(compose(entry, []), SETTINGS[entry])


@pytest.mark.parametrize("choice", GROUPS)
def test_every_choice_runs_a_step(choice: str, tmp_path: Path, run: Run) -> None:
    group, name = choice.split("=")
    extra = ["trainer.max_epochs=1"]
    if choice == "trainer=ddp":  # starts other processes
        done = run("train", "mode=fast_dev", "model=mlp", choice, "trainer.accelerator=cpu", "trainer.devices=2")
        assert done.returncode == 0, done.stderr
        return
    if choice == "trainer=cuda" and not torch.cuda.is_available():
        assert compose("train", [choice]).trainer.accelerator == "cuda"  # tests marked gpu run it
        return
    if choice == "trainer=cuda":
        extra = []
    if choice == "model=own":
        (tmp_path / "mine.py").write_text(OWN_NETWORK)
        extra = [f"model_file={tmp_path / 'mine.py'}", "model.name=mine"]
    if group == "data" and name != "mnist":
        extra = [f"data.dir={FOLDER}"]  # no downloads in tests
    own = {override.split("=")[0] for override in [choice, *extra]}
    base = [override for override in STEP if override.split("=")[0] not in own]
    if group == "trainer":
        base = [override for override in base if override != "trainer.accelerator=cpu"]
    settings = compose("train", [*base, choice, *extra])
    found = train(settings, tmp_path)
    assert found > 0 if choice == "model=autoencoder" else 0 <= found <= 1  # a loss, or an accuracy
    assert (tmp_path / "model.safetensors").is_file()


def test_the_trainers_config_has_every_key_of_its_settings() -> None:
    written = (config_folder() / "trainer" / "auto.yaml").read_text()
    assert {field.name for field in fields(TrainerSettings)} == set(OmegaConf.create(written))


def test_commands_and_python_have_the_same_defaults() -> None:
    settings = compose("train")
    assert settings.trainer == TrainerSettings()
    assert replace(settings.data, augmentation=None) == DataSettings()
    assert MNISTDataModule().batch_size == settings.data.batch_size
    predict = compose("predict")
    assert (
        PredictOptions(**{name: getattr(predict, name) for name in PredictOptions.__annotations__}) == PredictOptions()
    )


def test_mixed_precision_runs_a_step(tmp_path: Path) -> None:
    settings = compose(
        "train", [override for override in STEP if "model" not in override] + ["trainer.precision=bf16-mixed"]
    )
    assert 0 <= train(settings, tmp_path) <= 1
