"""Shared by the tests: real digits, and commands run as real processes."""

import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_cls.cli.entry_point import compose
from mnist_cls.data.datasets import LabelledImages, load_dataset
from mnist_cls.errors import InputError
from mnist_cls.models.registry import _MODELS

ROOT = Path(__file__).parents[1]

Completed = subprocess.CompletedProcess[str]
Run = Callable[..., Completed]

# Overrides for a training run of a few seconds on real MNIST.
SMALL = [
    "data.train_size=1280",
    "trainer.max_epochs=2",
    "data.validation_size=500",
    "trainer.enable_progress_bar=false",
]


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Unregister the networks that a test registers."""
    before = dict(_MODELS)
    yield
    _MODELS.clear()
    _MODELS.update(before)


@pytest.fixture(scope="session")
def mnist_test() -> LabelledImages:
    """The 10,000 test images."""
    return load_dataset("mnist", "test")


@pytest.fixture(scope="session")
def digits(mnist_test: LabelledImages) -> np.ndarray:
    """The first 100 test images, uint8 (100, 28, 28)."""
    return mnist_test.images[:100].numpy()


@pytest.fixture(scope="session")
def labels(mnist_test: LabelledImages) -> list[int]:
    """The labels of `digits`."""
    return mnist_test.labels[:100].tolist()


FORKING = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="session", autouse=True)
def _forkserver() -> None:
    """Start a process that imports what commands import. Forking it for each command saves seconds."""
    FORKING.set_forkserver_preload(["tests.preloaded"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        multiprocessing.forkserver.ensure_running()


def _main(
    module: str, arguments: list[str], cwd: Path, streams: dict[int, Path], environment: Mapping[str, str]
) -> None:
    os.chdir(cwd)
    os.environ.update(environment)
    for number, path in streams.items():
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_module(
    module: str, *arguments: object, cwd: Path, besides: Mapping[str, str] | None = None, **kwargs: Any
) -> Completed:
    """Run a command in a process, forked from one that has imported everything.

    Args:
        module: name of the command.
        arguments: its command line.
        cwd: the folder to run in.
        besides: variables to add to the environment.
        kwargs: arguments of `subprocess.run`, such as `env` or `input`. With any of them, a new Python is started.
    """
    module, words = f"mnist_cls.{module}", [*map(str, arguments)]
    if kwargs:
        command = [sys.executable, "-m", module, *words]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **kwargs)
    with TemporaryDirectory() as folder:
        streams = {number: Path(folder, name) for number, name in ((1, "stdout"), (2, "stderr"))}
        process = FORKING.Process(target=_main, args=(module, words, cwd, streams, besides or {}))
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([module, *words], 300)
        out, err = (path.read_text() for path in streams.values())
        return Completed([module, *words], process.exitcode, out, err)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command in the test's folder: run("predict", "input=a.png")."""
    return lambda module, *arguments, **kwargs: run_module(module, *arguments, cwd=tmp_path, **kwargs)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one small training, for tests that only read it."""
    folder = tmp_path_factory.mktemp("trained")
    done = run_module("train", *SMALL, "output_dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def png(tmp_path: Path, digits: np.ndarray) -> Path:
    """A PNG of the first test image, a seven."""
    path = tmp_path / "seven.png"
    Image.fromarray(digits[0]).save(path)
    return path


def refused_training(folder: Path, *overrides: str) -> str:
    """Check that training is refused with one line before it begins; return that line."""
    from mnist_cls.training.fit import train  # imports Lightning

    with pytest.raises(InputError) as caught:
        train(compose("train", overrides), folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "checkpoints").exists()
    return str(caught.value)


def one_line(done: Completed, *words: str) -> str:
    """Check that a command printed a one-line error and exited with status 2; return that line."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]
