"""Running out of memory is reported in one line with what helps, and the largest batch that fits is found."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mnist_cls.cli.entry_point import compose
from mnist_cls.errors import InputError
from mnist_cls.memory import importing, out_of_memory
from mnist_cls.training.batch_size import largest_batch, largest_divisor
from mnist_cls.training.datamodule import MNISTDataModule
from mnist_cls.training.fit import train
from mnist_cls.training.module import MNISTModule

from .conftest import SMALL, Run

# Train in a process with limited memory.
LIMITED = """
import resource, sys
import torch, lightning.pytorch, torch.utils.tensorboard, torchmetrics, tensorboard.compat.proto
from mnist_cls.training.datamodule import MNISTDataModule
from mnist_cls.train import main
MNISTDataModule(train_size=128).setup()
torch.nn.Conv2d(1, 8, 3)(torch.zeros(8, 1, 28, 28)).sum().backward()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (int(sys.argv.pop(1)) << 20),) * 2)
main()
"""


def train_in(megabytes: int, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(megabytes), "output_dir=run", "trainer=cpu", *overrides]
    plain = ["trainer.enable_progress_bar=false", "callbacks=none", "logger=none", "data.validation_size=100"]
    return subprocess.run([*command, *plain], cwd=folder, capture_output=True, text=True)


def test_running_out_of_memory_names_the_size_and_what_helps(tmp_path: Path) -> None:
    done = train_in(1500, tmp_path, "data.batch_size=20000", "trainer.max_epochs=1")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: out of memory on cpu in training with batches of 20000 images: ")
    for words in ("GiB could not be allocated", "data.batch_size=auto", "data.effective_batch_size=20000"):
        assert words in line


@pytest.mark.slow
def test_the_largest_batch_that_fits_is_found_and_accumulated(tmp_path: Path) -> None:
    options = ["data.batch_size=auto", "data.effective_batch_size=8192", "data.train_size=8192", "trainer.max_epochs=2"]
    done = train_in(1800, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    size, times = (int(done.stdout.split()[index].strip(",")) for index in (2, 4))
    assert done.stdout.startswith(f"batches of {size} images, {times} per step, fit on cpu")
    assert size < 8192
    assert size * times == 8192
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == 2


def test_a_batch_that_fits_is_not_accumulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = compose("train", [*SMALL, "data.batch_size=auto", "model=mlp", "trainer=cpu", "trainer.max_epochs=1"])
    train(settings, tmp_path)
    assert capsys.readouterr().out.startswith("batches of 128 images, 1 per step, fit on cpu")
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 10


def test_accumulated_steps_equal_those_of_the_whole_batch(tmp_path: Path) -> None:
    """Without dropout and distortions the gradient of 4 x 32 images is that of 128; the epoch's last step has 100."""
    same = [*SMALL, "model=mlp", "trainer=cpu", "data.augmentation=null", "callbacks=none", "logger=none"]
    same = [*same, "data.train_size=1252", "optimizer=sgd", "scheduler=constant"]
    for name, extra in (("whole", []), ("parts", ["data.batch_size=32", "data.effective_batch_size=128"])):
        train(compose("train", [*same, *extra]), tmp_path / name)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-5, rtol=1e-4)
    whole, parts = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "parts"))
    assert whole["steps"] == parts["steps"] == 20
    assert whole["test/loss"] == pytest.approx(parts["test/loss"], abs=1e-3)


def test_finding_the_batch_size_does_not_change_the_training() -> None:
    module = MNISTModule({"name": "image_classifier"})
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    assert largest_batch(module, torch.device("cpu"), 64) == 64
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_sweep_does_not_keep_the_memory_of_earlier_jobs() -> None:
    class Job:
        def __init__(self) -> None:
            self.itself = self  # as a trainer and its module refer to each other

    try:
        with importing():
            job = weakref.ref(Job())
        with importing():
            assert job() is None
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("fits", [1, 17, 4096])
def test_the_largest_divisor_that_fits(fits: int) -> None:
    def step(size: int) -> None:
        if size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a ...")

    expected = max(size for size in range(1, 97) if 96 % size == 0 and size <= fits)
    assert largest_divisor(step, 96) == expected


def test_not_even_one_image_fits() -> None:
    def step(size: int) -> None:
        raise MemoryError

    assert largest_divisor(step, 128) is None


def test_other_errors_are_not_about_memory() -> None:
    assert out_of_memory(RuntimeError("shapes do not fit")) is None
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU")) == "2.50 GiB"
    assert out_of_memory(RuntimeError("can't allocate memory: you tried to allocate 2147483648 bytes.")) == "2.00 GiB"

    def step(size: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        largest_divisor(step, 4)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.batch_size=many"], "data.batch_size=many: expected at least 1, or auto"),
        (["data.effective_batch_size=100"], "data.effective_batch_size=100: expected a multiple of data.batch_size"),
        (
            ["data.effective_batch_size=256", "trainer.accumulate_grad_batches=2"],
            "trainer.accumulate_grad_batches=2: expected 1 with .* data.effective_batch_size",
        ),
        (["data.batch_size=auto", "trainer.accumulate_grad_batches=2"], "expected 1 with data.batch_size=auto"),
        (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val=-1.0: expected more than 0"),
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-true: expected one of auto, 32-true"),
    ],
)
def test_sizes_that_contradict_each_other_are_rejected(overrides: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        compose("train", overrides)


def test_eval_needs_a_number(run: Run) -> None:
    with pytest.raises(InputError, match="a number; auto is for training"):
        compose("eval", ["data.batch_size=auto"])


def test_a_training_does_not_resume_with_batches_of_another_size() -> None:
    data = MNISTDataModule(batch_size=64)
    with pytest.raises(InputError, match=r"had batches of 32 images, not 64; resume it with data.batch_size=32"):
        data.load_state_dict({"batches_done": 20, "batch_size": 32})
