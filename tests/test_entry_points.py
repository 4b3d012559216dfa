"""Help needs no torch, importing the package imports nothing heavy, and the examples of the documentation run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mnist_cls import list_models
from mnist_cls.data.embedded import FOLDER

from .conftest import ROOT, Run, one_line

# Before other tests register networks of their own.
MODELS = list_models()

LOADED = "import atexit, sys; atexit.register(lambda: print('LOADED', *sorted(set(sys.modules) & {libraries})));"


def loaded(code: str, libraries: set[str]) -> str:
    """Run Python code in a new process; return which of the libraries it has imported."""
    command = [sys.executable, "-c", LOADED.format(libraries=libraries) + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    return next(line for line in done.stdout.splitlines() if line.startswith("LOADED")).removeprefix("LOADED").strip()


@pytest.mark.parametrize("entry", ["train", "eval", "predict", "forward", "export"])
def test_help_lists_the_choices_without_importing_torch(run: Run, entry: str, tmp_path: Path) -> None:
    done = run(entry, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python -m mnist_cls.{entry}" in done.stdout
    if entry == "train":
        text = " ".join(done.stdout.split())  # long lists are wrapped
        assert f"model: {', '.join(sorted([*MODELS, 'own']))}" in text
        assert "trainer: auto, cpu, cuda, ddp" in done.stdout
        assert "mode: debug, default, fast_dev, overfit, profile" in done.stdout
    assert "checkpoint=null" in done.stdout
    code = f"sys.argv = ['x', '--help']; from mnist_cls.{entry} import main; main()"
    assert loaded(code, {"torch", "lightning", "torchvision"}) == ""
    assert list(tmp_path.iterdir()) == []


def test_the_batch_scripts_help() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "predict_batch.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--checkpoint" in done.stdout


def test_importing_the_package_imports_no_torch() -> None:
    assert loaded("import mnist_cls; dir(mnist_cls)", {"torch", "lightning", "hydra"}) == ""


def test_predicting_imports_neither_pytorch_nor_what_trains() -> None:
    code = "import mnist_cls, numpy; mnist_cls.Predictor(device='cpu')(numpy.zeros((1, 28, 28), 'uint8'))"
    assert loaded(code, {"torch", "lightning", "torchvision", "hydra", "tensorboard", "pyarrow"}) == ""


def test_all_of_it_works_without_a_network(tmp_path: Path, png: Path) -> None:
    # A new network namespace has no network at all, not even the loopback.
    alone = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("this system does not let processes leave the network")
    for arguments in (
        ["train", "mode=fast_dev", "output_dir=run"],
        ["eval", "checkpoint=run"],
        ["predict", f"input={png}", "is_digit=true"],
        ["forward", f"input={png}"],
        ["export", "output=model.onnx"],
    ):
        command = [*alone, sys.executable, "-m", f"mnist_cls.{arguments[0]}", *arguments[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_prediction_and_export_leave_nothing_but_their_output(run: Run, tmp_path: Path, png: Path) -> None:
    for command, output in (("predict", "rows.csv"), ("export", "model.safetensors")):
        done = run(command, f"output={output}", *([f"input={png}"] if command == "predict" else []))
        assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {png.name, "rows.csv", "model.safetensors"}
    done = run("predict", f"input={png}", "output_dir=record")
    assert done.returncode == 0, done.stderr
    files = {str(path.relative_to(tmp_path / "record")) for path in tmp_path.glob("record/**/*") if path.is_file()}
    assert files == {".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"}


CTRL_C = """
import os, signal
from mnist_cls.eval import main
from mnist_cls.training.module import MNISTModule

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let processes in the background ignore it
MNISTModule.on_test_start = lambda module: os.kill(os.getpid(), signal.SIGINT)
main()
"""


def test_ctrl_c_in_an_evaluation_is_one_line_and_status_130(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CTRL_C], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_everything_public_is_there() -> None:
    import mnist_cls

    for name in mnist_cls.__all__:
        assert getattr(mnist_cls, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mnist_cls.nothing  # noqa: B018


def python_of(page: str) -> list[str]:
    """Return the Python examples of a page of the documentation."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [part.split("```")[0] for part in text.split("```python\n")[1:]]


def test_the_readmes_python_runs(run: Run, tmp_path: Path) -> None:
    predict, own = python_of("README.md")
    done = subprocess.run([sys.executable, "-c", predict], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[3]" in done.stdout

    (tmp_path / "my_network.py").write_text(own)
    mine, folder = "model_file=my_network.py", f"input={ROOT / 'docs' / 'digits'}"
    done = run("train", "model=own", mine, "+model.hidden=128", "mode=fast_dev", "output_dir=run")
    assert done.returncode == 0, done.stderr
    done = run("predict", "checkpoint=run", mine, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(".png") == 3
    # The checkpoint names the network, not the file: loading it runs no code.
    one_line(run("predict", "checkpoint=run", folder), "no model is called 'linear'", "model_file=FILE.py")


def test_the_python_of_the_page_on_the_forward_pass_runs() -> None:
    [code] = python_of("docs/forward.md")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "conv2d conv1 (1, 32, 28, 28) 451584" in done.stdout


@pytest.mark.slow
def test_runs_are_summarized(trained: Path, run: Run, tmp_path: Path) -> None:
    from .conftest import SMALL

    done = run("train", *SMALL, "seed=7", "output_dir=other")
    assert done.returncode == 0, done.stderr
    script = [sys.executable, str(ROOT / "scripts" / "summarize.py"), str(trained), "other", "image_classifier"]
    done = subprocess.run([*script, "--json=t.json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, packages = json.loads((tmp_path / "t.json").read_text())
    accuracies = [
        json.loads((at / "metrics.json").read_text())["test/accuracy"] for at in (trained, tmp_path / "other")
    ]
    assert (ours["runs"], packages["runs"], ours["parameters"]) == (2, 1, 421_642)
    assert ours["test accuracy"] == f"{sum(accuracies) / 2:.2%}"
    assert (ours["least"], ours["greatest"]) == (f"{min(accuracies):.2%}", f"{max(accuracies):.2%}")
    assert 8 < ours["MFLOP"] < 10
    assert "seed" not in ours["recipe"]
    done = subprocess.run([*script[:2], str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "word"),
    [
        ("early_exit", "early exit"),
        ("is_digit", "noise"),
        ("floor", "matrix product"),
        ("scaling", "2 processes together"),
        ("latency", "engine=int8"),
        ("robustness --checkpoint=conditional", "load_digits"),
        ("augmentation", "experiment=accurate"),
    ],
)
def test_the_benchmarks_run(benchmark: str, word: str, tmp_path: Path) -> None:
    fashion = ["--fashion-mnist", str(FOLDER)]  # the digits' files stand in for Fashion-MNIST's: no network here
    script = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *benchmark.split(), "--rounds=1", "--json=f.json"]
    done = subprocess.run([*script, *fashion], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert word in done.stdout
    written = json.loads((tmp_path / "f.json").read_text())
    assert len(written["results"][benchmark.split()[0]]) >= 2
    assert written["machine"]["torch"] == torch.__version__
