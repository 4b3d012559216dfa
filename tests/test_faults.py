"""A training that is killed, gets a signal or cannot write loses nothing that was saved, and resumes."""

import json
import os
import random
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from .conftest import ROOT, Completed, one_line, run_module
from .test_train import figures_of

# A training with all that has a state: distortions, dropout, the moving average, a schedule, the best epoch.
RECIPE = [
    *("experiment=best", "trainer=cpu", "trainer.enable_progress_bar=false", "trainer.max_epochs=3"),
    *("data.train_size=1280", "data.validation_size=500", "data.batch_size=64", "callbacks.average.decay=0.8"),
    *("~callbacks.inspection", "~callbacks.pictures", "save_every_steps=4", "trainer.limit_test_batches=4"),
]
OURS = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}


def start(cwd: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mnist_cls.train", *RECIPE, *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, stdout=pipe, stderr=pipe, text=True, env=OURS)


def run(cwd: Path, *options: str, **environment: str) -> Completed:
    return run_module("train", *RECIPE, *options, cwd=cwd, besides=environment)


def assert_the_same(one: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)
    assert figures_of(one) == figures_of(other)
    assert not list(one.rglob(".unfinished-*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed training."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    done = run(cwd, "output_dir=run")
    assert done.returncode == 0, done.stderr
    return cwd / "run"


class Kill(Callback):
    """Kills its process where the environment says: "epoch 7", "validation 1", "writing 3", "test 0"."""

    def __init__(self) -> None:
        where, _, number = os.environ.get("KILL_IN", " 0").partition(" ")
        self.where, self.number, self.writes = where, int(number), 0
        if where == "writing":  # the checkpoint is on the disk, under its temporary name only
            synchronize = os.fsync

            def fsync(fd: Any) -> None:
                synchronize(fd)
                self.writes += 1
                self.die(self.writes == self.number)

            os.fsync = fsync

    def die(self, now: bool) -> None:
        if now:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_before_backward(self, trainer: pl.Trainer, *args: object) -> None:
        self.die(self.where == "epoch" and trainer.global_step == self.number)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        self.die(self.where == "validation" and trainer.current_epoch == self.number and trainer.state.fn == "fit")

    def on_test_start(self, trainer: pl.Trainer, *args: object) -> None:
        self.die(self.where == "test")


def test_killed_anywhere_it_ends_as_if_it_had_not_been(undisturbed: Path, tmp_path: Path) -> None:
    """In an epoch, in a validation, while a checkpoint is written, in the test; each run resumes the one before."""
    kill = "+callbacks.kill._target_=tests.test_faults.Kill"
    for where in ("epoch 6", "writing 3", "validation 1", "test 0"):
        done = run(tmp_path, kill, "output_dir=run", "checkpoint=auto", KILL_IN=where)
        assert done.returncode == -signal.SIGKILL, (where, done.stderr)
        # What a kill in writing leaves, the next run removes.
        left = list((tmp_path / "run" / "checkpoints").glob(".unfinished-*"))
        assert len(left) == (where == "writing 3"), where
    done = run(tmp_path, kill, "output_dir=run", "checkpoint=auto")
    assert done.returncode == 0, done.stderr
    steps = json.loads((undisturbed / "metrics.json").read_text())["steps"]
    assert f"resuming from run/checkpoints/last.ckpt, step {steps}" in done.stdout  # only the test was left
    assert_the_same(tmp_path / "run", undisturbed)
    again = run(tmp_path, kill, "output_dir=run", "checkpoint=auto")
    assert (again.returncode, again.stdout) == (0, "nothing to do: the training in run is finished\n")


KILLS = int(os.environ.get("MNIST_CLS_KILLS", "20"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(undisturbed: Path, tmp_path: Path) -> None:
    """From outside, from the first line of Python to the last file; a run that ends is followed by a new one."""
    moments, kills, number = random.Random(0), 0, 0
    while kills < KILLS:
        folder = tmp_path / f"run{number}"
        process = start(tmp_path, f"output_dir={folder}", "checkpoint=auto")
        last = folder / "checkpoints" / "last.ckpt"
        before = last.stat().st_mtime_ns if last.exists() else None
        if moments.random() < 0.9:  # the others are killed while they still start
            while process.poll() is None and (last.stat().st_mtime_ns if last.exists() else None) == before:
                time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        kills += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL), errors
        if process.returncode == 0:
            assert_the_same(folder, undisturbed)
            number += 1
    done = run(tmp_path, f"output_dir={folder}", "checkpoint=auto")
    assert done.returncode == 0, done.stderr
    assert_the_same(folder, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_after_a_signal_it_saves_and_prints_how_to_resume(
    undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(tmp_path, "output_dir=run", "save_every_steps=1")
    while process.poll() is None and not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    found = re.search(rf"ended by {number.name} at step (\d+); resume with: (.*)", errors)
    assert found, errors
    assert "Traceback" not in errors
    done = subprocess.run(shlex.split(found[2]), cwd=tmp_path, capture_output=True, text=True, env=OURS)
    assert done.returncode == 0, done.stderr
    assert f"resuming from run/checkpoints/last.ckpt, step {found[1]}" in done.stdout
    assert_the_same(tmp_path / "run", undisturbed)


class Twice(Callback):
    """Sends Ctrl-C twice in the eleventh step, some seconds apart."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_before_backward(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step == 10:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(self.seconds)
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("seconds", "saved"), [(1.1, 8), (0.1, 11)])
def test_a_second_ctrl_c_stops_at_once_but_one_that_is_passed_on_is_no_second_one(
    tmp_path: Path, seconds: float, saved: int
) -> None:
    """Slurm may send a signal to all processes of a job, and torchrun then sends it again to its own."""
    twice = ["+callbacks.twice._target_=tests.test_faults.Twice", f"+callbacks.twice.seconds={seconds}"]
    done = run(tmp_path, "output_dir=run", *twice)
    assert done.returncode == 130, done.stderr
    assert f"interrupted at step {saved}; resume with" in done.stderr
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == saved


@pytest.mark.slow
def test_last_and_auto_find_the_run_to_resume(tmp_path: Path) -> None:
    one_line(run(tmp_path, "checkpoint=last"), "no interrupted training in outputs/train", "checkpoint=auto")
    kill = "+callbacks.kill._target_=tests.test_faults.Kill"
    for options in ([], ["seed=1"]):
        done = run(tmp_path, kill, "checkpoint=auto", *options, KILL_IN="epoch 6")
        assert done.returncode == -signal.SIGKILL, done.stderr
    first, second = sorted((tmp_path / "outputs" / "train").iterdir())
    one_line(run(tmp_path, kill, "checkpoint=last"), second.name, "started with seed=1, not seed=0")
    done = run(tmp_path, kill, "checkpoint=auto", KILL_IN="epoch 20")
    assert f"resuming from outputs/train/{first.name}/checkpoints/last.ckpt, step 4" in done.stdout
    assert len(list((tmp_path / "outputs" / "train").iterdir())) == 2


@pytest.mark.slow
def test_two_processes_never_train_in_one_folder(tmp_path: Path) -> None:
    process = start(tmp_path, "output_dir=run", "trainer.max_epochs=1000")
    while process.poll() is None and not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.01)
    one_line(
        run(tmp_path, "output_dir=run", "checkpoint=auto", "trainer.max_epochs=1000"), "another process is training"
    )
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB: room for one checkpoint. Only root can make one."""
    cwd = tmp_path / "disk"
    cwd.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(cwd)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield cwd
    subprocess.run(["umount", "--lazy", str(cwd)], check=True)


def test_a_full_disk_ends_a_training_in_one_line_and_it_resumes_when_there_is_room(
    disk: Path, tmp_path: Path, undisturbed: Path
) -> None:
    line = one_line(run(tmp_path, "output_dir=disk/run"), "No space left on device", "resume")
    last = disk / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] > 0
    assert not list(disk.rglob(".unfinished-*"))
    subprocess.run(["mount", "-o", "remount,size=80m", str(disk)], check=True)
    command = shlex.split(line.partition("resume with: ")[2])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=OURS)
    assert done.returncode == 0, done.stderr
    assert_the_same(disk / "run", undisturbed)


def test_a_folder_that_cannot_be_written(disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    one_line(run(tmp_path, "output_dir=disk/run"), "disk/run", "Read-only file system")


class Interfere(Callback):
    """Does at step 30 what the environment says: removes the run's folder, or TensorBoard's, or takes the handles."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step != 30:
            return
        import shutil

        what = os.environ.get("INTERFERE")
        if what == "handles":
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        elif what is not None:
            shutil.rmtree(Path(trainer.default_root_dir) / what)


INTERFERE = "+callbacks.interfere._target_=tests.test_faults.Interfere"


@pytest.mark.slow
def test_without_tensorboard_a_folder_that_is_removed_in_between_is_made_again(
    tmp_path: Path, undisturbed: Path
) -> None:
    done = run(tmp_path, "output_dir=run", "logger=none", INTERFERE, INTERFERE=".")
    assert done.returncode == 0, done.stderr
    assert_the_same(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_without_file_handles_it_ends_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "output_dir=run", INTERFERE, INTERFERE="handles")
    one_line(done, "last.ckpt: cannot be written (Too many open files)", "resume with")
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 28


def test_where_tensorboard_cannot_write_it_ends_in_one_line_and_resumes(tmp_path: Path, undisturbed: Path) -> None:
    done = run(tmp_path, "output_dir=run", INTERFERE, INTERFERE="tensorboard")
    one_line(done, "tensorboard/events.out.tfevents", "No such file or directory; resume with: ")
    done = run(tmp_path, "output_dir=run", INTERFERE, "checkpoint=last")
    assert done.returncode == 0, done.stderr
    assert_the_same(tmp_path / "run", undisturbed)
