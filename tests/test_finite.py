"""A training stops at the first value that is not finite, and keeps what is needed to find its cause."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import cast

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import nn

from mnist_cls.checkpoints.build import load_model
from mnist_cls.checkpoints.weights import read_weights
from mnist_cls.cli.entry_point import compose
from mnist_cls.data.normalization import normalize
from mnist_cls.errors import InputError
from mnist_cls.tracing.recorder import trace_forward
from mnist_cls.tracing.show import show_forward
from mnist_cls.training.fit import train

from .conftest import SMALL, Run, one_line

QUIET = [*SMALL, "trainer=cpu", "scheduler=constant", "trainer.enable_progress_bar=false"]


def test_a_learning_rate_of_a_million(run: Run, tmp_path: Path) -> None:
    done = run("train", *QUIET, "optimizer.lr=1e6", "output_dir=run")
    line = one_line(done, "optimizer.lr", "1e+06", "batch and weights are in")
    found = re.search(r"error: step (\d+): .*inspect them with: (.*)", line)
    assert found is not None, line
    assert 1 < int(found[1]) < 10
    batch = load_file(tmp_path / "run" / "nonfinite" / "batch.safetensors")
    assert batch["images"].shape == (128, 28, 28)
    assert batch["labels"].shape == (128,)
    weights = load_model(tmp_path / "run" / "nonfinite").state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not (tmp_path / "run" / "metrics.json").exists()

    again = subprocess.run(shlex.split(found[2]), cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "128 images of run/nonfinite/batch.safetensors; mode=train" in again.stdout
    assert "e+" in again.stdout  # huge activations


class Spoil(Callback):
    """Puts an infinite pixel into an image, or a NaN into a gradient or a weight, in one step."""

    random_state: torch.Tensor
    images: torch.Tensor

    def __init__(self, what: str, step: int = 3, layer: str = "conv2") -> None:
        self.what, self.step, self.layer = what, step, layer

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, idx: int) -> None:
        assert isinstance(batch, (tuple, list))
        Spoil.random_state = torch.get_rng_state()
        if self.what == "backward" and idx == self.step:
            Spoil.images = batch[0].clone()
            pl_module.get_parameter("model.fc1.weight").register_hook(lambda gradient: gradient * torch.nan)
        if trainer.global_step == self.step and self.what == "image":
            batch[0][5, 0, 0] = torch.inf
        if trainer.global_step == self.step and self.what == "weight":
            pl_module.get_parameter(f"model.{self.layer}.weight").data[0, 0, 0, 0] = torch.inf

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self.step and self.what == "gradient":
            gradient = pl_module.get_parameter("model.fc1.weight").grad
            assert gradient is not None
            gradient[0, 0] = torch.nan


def spoiled(what: str, folder: Path, *overrides: str) -> str:
    spoil = ["+callbacks.spoil._target_=tests.test_finite.Spoil", f"+callbacks.spoil.what={what}"]
    with pytest.raises(InputError) as caught:
        train(compose("train", [*QUIET, *spoil, *overrides]), folder)
    return str(caught.value)


def test_an_infinite_pixel(tmp_path: Path) -> None:
    message = spoiled("image", tmp_path)
    assert message.startswith("step 4: the loss is nan, and so is image 5 of the batch itself")
    images = load_file(tmp_path / "nonfinite" / "batch.safetensors")["images"]
    assert images.isinf().nonzero().tolist() == [[5, 0, 0]]


def test_the_first_operation_is_named(tmp_path: Path) -> None:
    message = spoiled("weight", tmp_path)
    assert "step 4: the loss is nan; the first operation whose output was not finite is conv2d of conv2" in message
    assert "image_classifier.py:" in message
    assert read_weights(tmp_path / "nonfinite").provenance == {"step": 4}


def test_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    message = spoiled("gradient", tmp_path, "trainer.gradient_clip_val=1")
    assert "the gradient of fc1.weight is not finite, while every operation of the forward pass was finite" in message
    assert "gradient_clip_val" not in message  # it is set already


def test_with_several_batches_per_step_the_one_at_fault_is_kept(tmp_path: Path) -> None:
    message = spoiled(
        "backward", tmp_path, "data.batch_size=32", "data.effective_batch_size=128", "+callbacks.spoil.step=5"
    )
    assert message.startswith("step 2: the gradient of fc1.weight is not finite")
    kept = load_file(tmp_path / "nonfinite" / "batch.safetensors")["images"]
    assert torch.equal(kept, Spoil.images)


def test_clipping_is_suggested_where_it_can_help(tmp_path: Path) -> None:
    assert "gradient_clip_val" not in spoiled("gradient", tmp_path / "adam")
    message = spoiled("gradient", tmp_path / "sgd", "optimizer=sgd")
    assert "or trainer.gradient_clip_val=1" in message


def test_the_kept_files_repeat_the_forward_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Batch norm's averages are those of before the step, and dropout draws the same again."""
    spoiled("weight", tmp_path, "+callbacks.spoil.layer=stage2.0.conv1", "model=residual", "model.dropout=0.5")
    weights = load_model(tmp_path / "nonfinite").state_dict()
    bad = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    assert bad == ["stage2.0.conv1.weight"]  # the one that the test spoiled
    spoiled("gradient", tmp_path / "two", "model.dropout=0.5")
    batch = load_file(tmp_path / "two" / "nonfinite" / "batch.safetensors")
    network = load_model(tmp_path / "two" / "nonfinite").train()
    cast(nn.Dropout, network.dropout).p = 0.5
    assert torch.equal(batch["random_state"], Spoil.random_state)
    torch.set_rng_state(batch["random_state"])
    trace = trace_forward(network, normalize(batch["images"]))
    [expected] = [record.mean for record in trace if record.operation == "dropout"]
    where = f"checkpoint={tmp_path / 'two' / 'nonfinite'}"
    show_forward(
        compose(
            "forward",
            [where, f"input={tmp_path / 'two' / 'nonfinite' / 'batch.safetensors'}", "mode=train", "pictures=false"],
        ),
        tmp_path,
    )
    assert f" {expected:.4g} " in capsys.readouterr().out


def test_the_last_good_checkpoint_is_kept(tmp_path: Path) -> None:
    message = spoiled("image", tmp_path, "+callbacks.spoil.step=15")
    assert message.startswith("step 16: ")
    assert "checkpoints/last.ckpt" in message
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 10
    assert all(tensor.isfinite().all() for tensor in content["state_dict"].values() if tensor.is_floating_point())


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            seen.append(float(torch.nn.utils.get_total_norm(gradients)))

    from mnist_cls.training.datamodule import MNISTDataModule
    from mnist_cls.training.module import MNISTModule
    from mnist_cls.training.trainer import make_trainer

    settings = compose("train", [*QUIET, "trainer.gradient_clip_val=0.01"]).trainer
    settings.max_epochs = 1
    trainer = make_trainer(settings, tmp_path, [Watch()])
    trainer.fit(MNISTModule({"name": "mlp"}), MNISTDataModule(train_size=256, validation_size=256))
    assert seen == pytest.approx([0.01, 0.01], rel=1e-3)
