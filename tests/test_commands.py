"""The list of commands, versions, --help, sweeps, and commands that leave nothing behind."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mnist_cls
from mnist_cls.__main__ import COMMANDS
from mnist_cls.cli.entry_point import compose

from .conftest import ROOT, Run, one_line

VERSION = importlib.metadata.version("mnist-cls")
FAST = ["mode=fast_dev", "model=mlp", "trainer=cpu", "callbacks=none", "logger=none"]


def test_the_package_lists_its_commands(run: Run) -> None:
    done = run("__main__")
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", done.stdout, re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text()
    for command in COMMANDS:  # each is a program of its own, too
        assert f'mnist-cls-{command.replace("_", "-")} = "mnist_cls.{command}:main"' in project


def test_the_version_is_that_of_the_installed_package(run: Run) -> None:
    assert mnist_cls.__version__ == VERSION
    for command in ("__main__", "train", "predict", "predict_batch"):
        done = run(command, "--version")
        assert (done.returncode, done.stdout) == (0, f"mnist_cls {VERSION}\n")


def test_a_command_can_follow_the_packages_name(run: Run, png: Path) -> None:
    done = run("__main__", "predict", f"input={png.name}")
    assert done.returncode == 0, done.stderr
    assert "seven.png  7" in done.stdout
    one_line(run("__main__", "trian"), "no command 'trian', did you mean 'train'?")
    one_line(run("__main__", "predict", "input=none.png"), "input=none.png")


@pytest.mark.parametrize("name", ["дигит (1).png", "a=b,c.png", "it's {1}.png", "[x#1!].png", "2026_11_25"])
def test_paths_need_no_quotes_of_hydras(name: str, run: Run, png: Path) -> None:
    png.rename(png.with_name(name))
    done = run("predict", f"input={name}")
    assert done.returncode == 0, done.stderr
    assert f"{name}  7" in done.stdout


@pytest.mark.parametrize(
    ("entry", "override", "key", "value"),
    [
        ("predict", "input=null", "input", None),
        ("predict", r"input='it\'s (1).png'", "input", "it's (1).png"),
        ("predict", "is_digit=true", "is_digit", True),
        ("eval", "checkpoint=[a,b]", "checkpoint", ["a", "b"]),
        ("eval", "checkpoint=7", "checkpoint", "7"),
        ("eval", "output_dir=${split}/${data.name}", "output_dir", "test/mnist"),
        ("forward", "mode=train", "network_mode", "train"),
    ],
)
def test_what_hydra_can_read_means_what_it_means_to_hydra(entry: str, override: str, key: str, value: object) -> None:
    assert getattr(compose(entry, [override]), key) == value


def test_a_run_folder_may_be_named_from_the_home_folder(run: Run, tmp_path: Path, png: Path) -> None:
    for override in ("output_dir=~/a", "++output_dir=~/a"):
        done = run("predict", f"input={png}", override, besides={"HOME": str(tmp_path)})
        assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {png.name, "a"}


def test_lists_and_mappings_of_the_command_line_stay_lists_and_mappings() -> None:
    settings = compose("train", ["model=mlp", "model.widths=[784, 64, 10]", "trainer.max_time={hours: 1}"])
    assert settings.model["widths"] == [784, 64, 10]
    assert settings.trainer.max_time == {"hours": 1}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("predict seven.png", "cannot read 'seven.png': expected KEY=VALUE, such as input=seven.png"),
        ("train callbacks.early_stopping.monitor=val_loss", "callbacks=early_stopping adds it"),
        ("train +callbacks=early_stopping", "omit the +: callbacks=early_stopping"),
        ("train logger=false", "logger=none instead of logger=false"),
        ("train +trainer.foo=3", "no key 'trainer.foo' in the config; --help"),
        ("train trainer.max_epoch=3", "did you mean 'trainer.max_epochs'"),
        ("train trainer.min_epochs=5 trainer.max_epochs=2", "expected at most trainer.max_epochs, 2"),
        ("predict --input=seven.png", "settings have no dashes: input=seven.png"),
        ("train --epochs 3", "settings are KEY=VALUE, without dashes; did you mean trainer.max_epochs=3?"),
        ("train --epochs=3", "--epochs=3: no such option; settings are KEY=VALUE"),
        ("train --learning-rat model=mlp", "without dashes; --help shows the keys"),
        ("predict -i9 input=a.png", "-i9: no such option"),
        ("eval --frobnicate=3", "without dashes; --help shows the keys"),
        ("forward output_dir=null", "output_dir=null: expected text"),
        ("train seed=null", "seed=null: expected a whole number"),
        ("eval split=null", "split=null: expected text"),
        ("predict device=null", "device=null: expected text"),
        ("train data.batch_size=null", "data.batch_size=null: expected a whole number or text"),
        ("predict --save-preprocessed out", "settings have no dashes: save_preprocessed=VALUE"),
        ("predict input=~/none.png", f"{Path.home()}/none.png: no such file"),
        ("eval checkpoint=[a=1,b]", "cannot read 'checkpoint=[a=1,b]'; put values"),
        ("train logger=csv,mlflow", "logger=csv,mlflow: put -m before the settings"),
        ("predict min_confidence=0,9", "expected one number, with a decimal point: min_confidence=0.9"),
        (
            "eval checkpoint=acurate",
            "checkpoint=acurate: no such file or folder, did you mean accurate?",
        ),
        ("train logger=csv,mlflow", "a list: logger=[csv,mlflow]"),
        ("train optimizer.amsgrad=true", "+optimizer.amsgrad=VALUE adds it"),
        ("predict -m", "no input"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(command: str, words: str, run: Run) -> None:
    one_line(run(*command.split()), words)


def values_without_comment(shown: str) -> list[str]:
    """Return the values in the text of --help that have no comment, nor one on what they are a part of."""
    lines, commented, without = shown.split("Values (KEY=VALUE)")[1].splitlines(), set(), []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if entry := re.match(r"  ([\w.]+)(=\S*)?( .*)?$", line):
            if not entry[2]:
                commented.add(entry[1])
            elif not entry[3] and not following.startswith("      "):
                without += [entry[1]]
    return [key for key in without if key.rpartition(".")[0] not in commented and not key.endswith("_target_")]


@pytest.mark.parametrize(
    "command",
    [
        "train",
        "eval",
        "predict",
        "forward",
        "export",
        "train model=accurate optimizer=sgd scheduler=cosine callbacks=average trainer=ddp experiment=best",
        "train model=residual optimizer=adam scheduler=linear callbacks=early_stopping mode=overfit",
    ],
)
def test_help_explains_each_value(command: str, run: Run) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert values_without_comment(done.stdout) == []
    # A key and its value are not broken, so that they can be copied.
    assert all(len(line) <= 80 or re.match(r"  \S+$", line) for line in done.stdout.splitlines())
    for choice in command.split()[1:]:
        if not choice.startswith(("mode", "experiment")):
            assert f"\n{choice}" in done.stdout


def test_help_shows_what_the_command_line_sets(run: Run) -> None:
    shown = run("train", "model=mlp", "data.batch_size=7", "logger=[csv,tensorboard]", "--help").stdout
    assert "model.widths=[784,128,10]         Sizes of the layers" in shown
    assert "data.batch_size=7                 Images per batch" in shown
    assert "logger=[csv,tensorboard]\n" in shown
    assert "hyperparameters in csv/hparams.yaml" in shown


def test_a_failing_run_does_not_end_a_sweep(run: Run, tmp_path: Path) -> None:
    done = run("train", "-m", *FAST, "data.batch_size=0,64", "hydra.sweep.dir=s")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    reason = "data.batch_size=0: expected at least 1, or auto"
    assert done.stderr.splitlines()[-1] == f"error: run 0 of the sweep failed, with data.batch_size=0: {reason}"
    assert (tmp_path / "s" / "1" / "metrics.json").is_file()


def test_a_sweep_whose_runs_all_fail_says_why_once_more(run: Run) -> None:
    done = run("train", "-m", *FAST, "label_smoothing=2", "seed=1,2", "hydra.sweep.dir=s")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: all 2 runs failed: label_smoothing=2.0: expected 0 to less than 1"


def test_error_rows_do_not_end_a_sweep_over_inputs(run: Run, png: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    done = run("predict", "-m", "input=bad.png,seven.png")
    assert done.returncode == 1
    assert "seven.png  7" in done.stdout


@pytest.mark.slow
def test_a_failing_run_does_not_end_a_search(run: Run, tmp_path: Path) -> None:
    few = [*FAST, "hydra.sweeper.n_trials=4", "data.batch_size=choice(0,64)", "hydra.sweep.dir=s"]
    done = run("train", "-m", "sweep=optuna", *few)
    assert done.returncode == 1, done.stderr
    assert "best of the search" in done.stdout
    assert "data.batch_size=64" in (tmp_path / "s" / "optimization_results.yaml").read_text().replace(": ", "=")
    failed = [line for line in done.stderr.splitlines() if line.startswith("error: run ")]
    assert failed
    assert all(" data.batch_size=0: " in line for line in failed)
    assert "Traceback" not in done.stderr
    done = run("train", "-m", "sweep=optuna", *few[:-2], "data.batch_size=-1", "hydra.sweep.dir=none")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: all 4 runs failed: data.batch_size=-1: ")


@pytest.mark.parametrize("setting", ["data.validation_size=0", "trainer.limit_val_batches=0"])
def test_a_search_without_validation_is_refused_before_anything_is_written(
    setting: str, run: Run, tmp_path: Path
) -> None:
    one_line(run("train", "-m", "sweep=optuna", setting), setting, "a search compares validation results")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_of_trainings_in_several_processes_needs_torchrun(run: Run, tmp_path: Path) -> None:
    words = "torchrun --nproc-per-node 2 -m mnist_cls.train -m"
    one_line(run("train", "-m", "trainer=ddp", "trainer.devices=2", "seed=1,2"), "trainer.devices=2", words)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_enough_for_prediction_and_export(tmp_path: Path, png: Path) -> None:
    folder, out = tmp_path / "fixed", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    png.rename(folder / png.name)
    freeze = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && cd {folder} && "

    def frozen(arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--mount", "--map-root-user", "sh", "-c", f"{freeze} {sys.executable} {arguments}"]
        home = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(folder)}
        return subprocess.run(command, capture_output=True, text=True, env=home)

    if frozen("-c pass").returncode:
        pytest.skip("this system does not let processes mount")
    done = frozen(f"-m mnist_cls.predict input={png.name}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "seven.png  7" in done.stdout
    done = frozen(f"-m mnist_cls.export output={out}/m.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "m.safetensors").is_file()
    one_line(frozen(f"-m mnist_cls.predict input={png.name} output=rows.csv"), "rows.csv", "Read-only")
    one_line(frozen("-m mnist_cls.train"), "output_dir=outputs/train/", "Read-only", "output_dir=DIR")


def test_onnx_runtime_leaves_nothing_in_the_home_folder(tmp_path: Path, png: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "mnist_cls", "predict", f"input={png}", "engine=onnx"]
    clean = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=clean | {"HOME": str(home)})
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
