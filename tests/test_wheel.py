"""A built wheel works where there is no checkout, from an empty folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT, SMALL


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that MNIST_CLS_WHEEL names, as in a release, or one that is built of the checkout."""
    if given := os.environ.get("MNIST_CLS_WHEEL"):
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("wheel")
    # Not built in place: two test runs side by side would disturb each other.
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A new environment with the wheel; torch and the other packages come from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    [packages] = folder.glob("lib/python*/site-packages")
    # Python searches folders named in a .pth, but reads no .pth files in them: the checkout stays out of sight.
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_the_wheel_contains_what_is_needed_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "mnist_cls/py.typed",
        "mnist_cls/configs/train.yaml",
        "mnist_cls/configs/model/mlp.yaml",
        "mnist_cls/data/mnist/train-images-idx3-ubyte.gz",
        "mnist_cls/data/mnist/README.md",
        "mnist_cls/checkpoints/packaged/image_classifier.safetensors",
    ):
        assert needed in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    [commands] = [name for name in names if name.endswith("entry_points.txt")]
    assert b"mnist-cls-predict-batch = mnist_cls.predict_batch:main" in zipfile.ZipFile(wheel).read(commands)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mnist_cls"}
    assert not [name for name in names if "tests" in name or "outputs/" in name]


@pytest.mark.slow
def test_it_trains_evaluates_and_predicts_from_an_empty_folder(python: Path, tmp_path: Path, png: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*arguments: str) -> str:
        done = subprocess.run([str(python), *arguments], cwd=empty, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(python.parents[1]) in run("-c", "import mnist_cls; print(mnist_cls.__file__)")
    run("-m", "mnist_cls.train", *SMALL, "model=mlp", "output_dir=run")
    assert json.loads((empty / "run" / "metrics.json").read_text())["test/accuracy"] > 0.5
    assert " 7 " in run("-m", "mnist_cls.predict", f"input={png}")
    assert "accuracy" in run("-m", "mnist_cls.eval", "checkpoint=run")
    for script, arguments in (("mnist-cls-predict", [f"input={png}"]), ("mnist-cls-predict-batch", [png, "rows.csv"])):
        command = [str(python.parent / script), *map(str, arguments)]
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    assert (empty / "rows.csv").is_file()
