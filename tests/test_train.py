"""Training saves its results, is reproducible, resumes after an interrupt, and reports bad settings in one line."""

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hydra.errors import HydraException
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from safetensors.torch import load_file

from mnist_cls.checkpoints.weights import read_weights
from mnist_cls.cli.entry_point import compose
from mnist_cls.cli.messages import explain
from mnist_cls.errors import InputError
from mnist_cls.evaluation.evaluate import evaluate
from mnist_cls.training.fit import train

from .conftest import SMALL, Run, one_line


def metrics_of(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def figures_of(folder: Path) -> dict[str, float]:
    """The metrics that do not depend on time."""
    return {k: v for k, v in metrics_of(folder).items() if k not in ("train/seconds", "train/images_per_second")}


def test_a_run_folder_holds_what_it_promises(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    seen = {file for file in files if file.startswith("tensorboard/")}
    assert any("events.out.tfevents" in file for file in seen)
    assert files - seen == {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "model.safetensors",
        "metrics.json",
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
    }


def test_metrics_are_plain_numbers_under_plain_names(trained: Path) -> None:
    metrics = metrics_of(trained)
    assert set(metrics) == {
        "train/seconds",
        "train/images_per_second",
        "train/loss",
        "train/accuracy",
        "val/loss",
        "val/accuracy",
        "test/loss",
        "test/accuracy",
        "epochs",
        "temperature",
        "steps",
    }
    assert 0.5 < metrics["test/accuracy"] < 1
    assert metrics["steps"] == 20
    assert metrics["train/images_per_second"] * metrics["train/seconds"] == pytest.approx(2 * 1280)


def test_the_weights_record_their_provenance(trained: Path) -> None:
    provenance = read_weights(trained).provenance
    assert provenance["config"]["seed"] == 0
    assert provenance["config"]["data"]["train_size"] == 1280
    assert provenance["metrics"] == metrics_of(trained)
    assert provenance["versions"]["torch"] in torch.__version__
    assert provenance["command"] == shlex.join(["python", "-m", "mnist_cls.train", *SMALL])


@pytest.mark.slow
def test_eval_computes_the_metrics_of_the_training(run: Run, trained: Path, tmp_path: Path) -> None:
    done = run("eval", f"checkpoint={trained}", "output_dir=e", "data.batch_size=1000")
    assert done.returncode == 0, done.stderr
    accuracy = metrics_of(tmp_path / "e")["test/accuracy"]
    assert accuracy == pytest.approx(metrics_of(trained)["test/accuracy"], abs=1e-6)
    assert f"{accuracy:.2%}" in done.stdout
    done = run("eval", f"checkpoint={trained}", "split=val", "data.validation_size=500", "output_dir=v")
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "v")["val/accuracy"] == pytest.approx(metrics_of(trained)["val/accuracy"], abs=1e-6)


def test_the_same_seed_gives_the_same_weights_and_figures(run: Run, trained: Path, tmp_path: Path) -> None:
    for name, seed in (("again", 0), ("other", 1)):
        done = run("train", *SMALL, f"output_dir={name}", f"seed={seed}")
        assert done.returncode == 0, done.stderr
    first, again, other = (
        load_file(path / "model.safetensors") for path in (trained, tmp_path / "again", tmp_path / "other")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert figures_of(trained) == figures_of(tmp_path / "again")
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_finished_training_prints_the_next_commands(run: Run, tmp_path: Path) -> None:
    done = run("train", "mode=fast_dev")
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "outputs" / "train").iterdir()
    for text in (
        "test accuracy",
        "training",
        f"checkpoint=outputs/train/{folder.name} input=",
        "--logdir outputs/train",
    ):
        assert text in done.stdout
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


def test_starting_from_weights_is_not_starting_from_nothing(run: Run, tmp_path: Path, trained: Path) -> None:
    few = [
        "data.train_size=32",
        "data.batch_size=32",
        "trainer.max_epochs=1",
        "optimizer.lr=1e-6",
        "data.validation_size=500",
    ]
    done = run("train", *few, f"checkpoint={trained}/model.safetensors", "output_dir=run")
    assert done.returncode == 0, done.stderr
    assert "starting from the weights" in done.stdout
    assert metrics_of(tmp_path / "run")["test/accuracy"] == pytest.approx(
        metrics_of(trained)["test/accuracy"], abs=0.01
    )


LONG = [*SMALL, "trainer.max_epochs=200", "output_dir=run"]


def interrupt(process: subprocess.Popen[str], ready: Path) -> None:
    """Press Ctrl-C once the training is under way: its first epoch has been saved."""
    deadline = time.monotonic() + 120
    while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)


@pytest.mark.slow
def test_an_interrupted_training_resumes_with_the_command_that_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mnist_cls.train", *LONG]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    interrupt(process, last)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run" / "metrics.json").exists()
    step = torch.load(last, weights_only=True)["global_step"]
    found = re.search(r"interrupted at step (\d+); resume with: (.*)", errors)
    assert found is not None, errors
    assert int(found[1]) == step > 10

    # A resumed run cannot have a shorter schedule, so the test resumes the long one and interrupts it again.
    process = subprocess.Popen(
        shlex.split(found[2]), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    before = last.stat().st_mtime_ns
    while last.stat().st_mtime_ns == before and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "resuming from run/checkpoints/last.ckpt" in output
    later = torch.load(last, weights_only=True)
    assert later["global_step"] > step
    assert later["lr_schedulers"][0]["last_epoch"] == later["global_step"]


@pytest.mark.parametrize(
    ("batches_a_step", "average", "checks"),
    [pytest.param(1, False, 1, marks=pytest.mark.slow), (2, True, 1), (1, True, 2)],
)
def test_a_resumed_training_ends_like_one_that_was_never_stopped(
    tmp_path: Path, batches_a_step: int, average: bool, checks: int
) -> None:
    """With dropout, distortions and averages; interrupted in an epoch, at an epoch's last step, before a validation."""
    from mnist_cls.cli.settings import TrainerSettings
    from mnist_cls.training.callbacks.saving import BestCheckpoint, LastCheckpoint
    from mnist_cls.training.datamodule import MNISTDataModule
    from mnist_cls.training.module import MNISTModule
    from mnist_cls.training.trainer import make_trainer

    settings = TrainerSettings(
        accelerator="cpu",
        max_epochs=3,
        enable_progress_bar=False,
        accumulate_grad_batches=batches_a_step,
        val_check_interval=1 / checks,
    )

    class PressCtrlC(LastCheckpoint):
        """Ctrl-C arrives in the middle of a step."""

        stop_at: int | None = None

        def on_before_backward(self, trainer: pl.Trainer, *args: object) -> None:
            if trainer.global_step == self.stop_at and self.signal is None:
                os.kill(os.getpid(), signal.SIGINT)

    def fit(stop_at: int | None, resume: bool, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, float], float]:
        torch.manual_seed(1 if resume else 0)
        module = MNISTModule({"name": "image_classifier", "dropout": 0.3})
        last = PressCtrlC(folder / "last.ckpt")
        last.stop_at = stop_at
        best = BestCheckpoint(folder, "val/accuracy", "max", folder if resume else None)
        averages = [EMAWeightAveraging(decay=0.9, update_every_n_steps=2)] if average else []
        trainer = make_trainer(settings, folder, [*averages, best, last])
        distort = {"rotation": 10.0, "elastic": 0.5, "noise": 20.0}
        size = 64 // batches_a_step
        data = MNISTDataModule(train_size=640, validation_size=500, batch_size=size, augmentation=distort)
        where = last.path if resume else None
        with last.handle_signals():
            if stop_at is None:
                trainer.fit(module, data, ckpt_path=where)
            else:
                with pytest.raises(SystemExit):
                    trainer.fit(module, data, ckpt_path=where)
        assert best.best_model_score is not None or stop_at == 4
        score = -1.0 if best.best_model_score is None else best.best_model_score.item()
        return module.state_dict(), module.train_metrics, score

    undisturbed = fit(None, False, tmp_path / "undisturbed")
    disturbed = tmp_path / "disturbed"
    for stop_at, saved in ((4, 6 if checks == 2 else 5), (14, 16 if checks == 2 else 15), (19, 20), (22, 23)):
        fit(stop_at, stop_at != 4, disturbed)
        assert torch.load(disturbed / "last.ckpt", weights_only=True)["global_step"] == saved
    resumed = fit(None, True, disturbed)
    assert all(torch.equal(undisturbed[0][name], resumed[0][name]) for name in undisturbed[0])
    assert resumed[1:] == undisturbed[1:]


class KeepLastWeights(Callback):
    """Keeps the weights of the last step, before the average of the last epochs replaces them."""

    weights: dict[str, torch.Tensor]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        KeepLastWeights.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}


def test_the_averaged_weights_are_evaluated_and_kept(tmp_path: Path) -> None:
    keep = "+callbacks.keep._target_=tests.test_train.KeepLastWeights"
    shorter = ["callbacks.average.decay=0.9", "temperature=100", "model=mlp", "trainer=cpu", "trainer.max_epochs=2"]
    settings = compose("train", ["experiment=best", *SMALL, *shorter, keep])
    train(settings, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    checkpoint = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    for name, value in saved.items():
        whole = value * 100 if name.startswith("fc2.") else value
        torch.testing.assert_close(whole, checkpoint["state_dict"][f"model.{name}"])
    # The saved weights were evaluated, whose confidences are low, and not the average that the callback still holds.
    assert metrics_of(tmp_path)["val/loss"] == pytest.approx(math.log(10), abs=0.05)
    assert not any(torch.equal(value, KeepLastWeights.weights[f"model.{name}"]) for name, value in saved.items())
    settings = compose("eval", [f"checkpoint={tmp_path}", "split=val", "data.validation_size=500", "report=false"])
    assert evaluate(settings, tmp_path / "eval") == metrics_of(tmp_path)["val/accuracy"]


def test_a_training_in_bfloat16_is_evaluated_in_float32(tmp_path: Path) -> None:
    settings = compose("train", [*SMALL, "model=mlp", "trainer=cpu", "trainer.precision=bf16-mixed"])
    train(settings, tmp_path)
    evaluate(compose("eval", [f"checkpoint={tmp_path}", "trainer=cpu", "report=false"]), tmp_path / "eval")
    assert metrics_of(tmp_path)["test/loss"] == pytest.approx(metrics_of(tmp_path / "eval")["test/loss"], rel=1e-5)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="names the processor's instructions on Linux")
def test_auto_is_bfloat16_where_there_are_instructions_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(compose("train", [*SMALL, "model=mlp", "trainer=cpu", "trainer.precision=auto"]), tmp_path)
    instructions = Path("/proc/cpuinfo").read_text().split()
    fast = hasattr(torch.cpu, "get_capabilities") and bool({"avx512_bf16", "amx_bf16", "bf16"} & set(instructions))
    recorded = read_weights(tmp_path).provenance["config"]["trainer"]["precision"]
    assert recorded == ("bf16-mixed" if fast else "32-true")
    assert (", in bfloat16\n" in capsys.readouterr().out) == fast


def test_a_finished_training_is_not_resumed(run: Run, trained: Path) -> None:
    line = one_line(run("train", *SMALL, f"checkpoint={trained}"), "is complete, 20 of 20 steps", "model.safetensors")
    assert "Traceback" not in line
    one_line(run("train", *SMALL, f"checkpoint={trained}", "trainer.max_epochs=3"), "planned for 20 steps, not 30")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_epochs=abc", ["trainer.max_epochs", "'abc'", "Integer"]),
        ("data.batch_size=0", ["data.batch_size=0", "at least 1"]),
        ("data.batchsize=64", ["data.batchsize", "data.batch_size"]),
        ("model=image_clasifier", ["image_clasifier", "did you mean 'image_classifier'?", "mlp"]),
        ("model.name=resnet", ["'resnet'", "image_classifier"]),
        ("trainer.devices=many", ["many"]),
        ("output_dir=/proc/nowhere", ["/proc/nowhere"]),
        ("model=3", ["the name of a choice", "type int"]),
        ("sweep=optuna", ["sweep=optuna without -m"]),
        ("model=[3]", ["neither a name nor a list of names"]),
        ("seed=1,2", ["seed=1,2: put -m before the settings"]),
        ("-m seed=1,2 model=[3]", ["neither a name nor a list of names"]),
    ],
)
def test_bad_settings_are_reported_in_one_line(run: Run, override: str, words: list[str]) -> None:
    one_line(run("train", *override.split(), "mode=fast_dev"), *words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_epochs=0", ["trainer.max_epochs=0", "at least 1"]),
        ("+data.batchsize=64", ["data.batchsize", "data.batch_size"]),
        ("bananas=3", ["bananas"]),
        ("model.dropout=3", ["between 0 and 1"]),
        ("experiment=nothing", ["nothing", "best"]),
        ("trainer=gpu", ["trainer=gpu", "cuda"]),
        ("seed=-1", ["seed=-1"]),
        ("data.name=cifar", ["cifar", "fashion_mnist"]),
        ("data.augmentation.rotate=3", ["rotate"]),
        ("data.dir=/nowhere/at/all", ["/nowhere/at/all"]),
        ("checkpoint=nothing.ckpt", ["nothing.ckpt"]),
        ("checkpoint=image_classifier model=mlp", ["fc1.weight", "(128, 3136)", "(128, 784)"]),
        ("optimizer.lr=fast", ["fast"]),
        ("optimizer.learning_rate=1", ["learning_rate"]),
        ("optimizer._target_=torch.optim.Nothing", ["torch.optim.Nothing"]),
        ("+callbacks.mine._target_=nowhere.Mine", ["nowhere.Mine"]),
        ("trainer.precision=7", ["7"]),
        ("model=[[mlp]]", ["neither a name nor a list of names"]),
        ("model=${sweep}", []),  # Hydra 1.4 finds another reason than Hydra 1.3
    ],
)
def test_more_bad_settings(tmp_path: Path, override: str, words: list[str]) -> None:
    """As above, without starting a process for each: the entry point prints this message."""
    with pytest.raises((InputError, HydraException)) as caught:
        train(compose("train", ["mode=fast_dev", *override.split()]), tmp_path)
    line = explain(caught.value, "train")
    assert "\n" not in line
    for word in words:
        assert word in line


def test_bad_settings_leave_no_run_folder(run: Run, tmp_path: Path) -> None:
    one_line(run("train", "data.batch_size=0"))
    one_line(run("train", "trainer.max_epochs=abc"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("entry", ["train", "eval"])
def test_cuda_where_there_is_none(run: Run, entry: str) -> None:
    one_line(run(entry, "trainer=cuda"), "sees no CUDA device", "trainer=cpu")


def test_a_sweep_trains_each_and_keeps_them_apart(run: Run, tmp_path: Path) -> None:
    done = run("train", "mode=fast_dev", "model=mlp", "-m", "seed=1,2", "hydra.sweep.dir=sweep")  # -m can be anywhere
    assert done.returncode == 0, done.stderr
    folders = [tmp_path / "sweep" / number for number in "01"]
    assert [read_weights(folder).provenance["config"]["seed"] for folder in folders] == [1, 2]
    for folder, seed in zip(folders, (1, 2), strict=True):
        assert f"seed: {seed}\n" in (folder / ".hydra" / "config.yaml").read_text()


def test_train_returns_the_validation_accuracy(tmp_path: Path) -> None:
    settings = compose("train", ["mode=fast_dev", "model=mlp", "callbacks=none", "trainer=cpu"])
    assert train(settings, tmp_path) == metrics_of(tmp_path)["val/accuracy"]


@pytest.mark.slow
def test_two_processes_train_like_one(run: Run, tmp_path: Path) -> None:
    """Each takes half of every batch; the sum of the gradients is the same but for rounding."""
    same = ["model=mlp", *SMALL, "data.augmentation=null", "trainer.accelerator=cpu"]
    for arguments in (["output_dir=one"], ["output_dir=two", "trainer=ddp", "trainer.devices=2"]):
        done = run("train", *same, *arguments)
        assert done.returncode == 0, done.stderr
    one, two = figures_of(tmp_path / "one"), figures_of(tmp_path / "two")
    assert one["steps"] == two["steps"]
    assert one["test/loss"] == pytest.approx(two["test/loss"], abs=1e-3)
    assert metrics_of(tmp_path / "two")["train/images_per_second"] * metrics_of(tmp_path / "two")[
        "train/seconds"
    ] == pytest.approx(2 * 1280)


@pytest.mark.slow
def test_overfitting_fits_its_images(run: Run, tmp_path: Path) -> None:
    done = run("train", "mode=overfit", "model=mlp", "output_dir=run", "trainer.enable_progress_bar=false")
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "run")["train/accuracy"] == 1


@pytest.mark.slow
def test_profiling_writes_where_the_time_went(run: Run, tmp_path: Path) -> None:
    done = run("train", "mode=profile", "model=mlp", "trainer.max_steps=5", "output_dir=run")
    assert done.returncode == 0, done.stderr
    [report] = (tmp_path / "run").glob("fit-profile*")
    assert "run_training_batch" in report.read_text()


def test_settings_from_python_are_checked_too() -> None:
    from mnist_cls.cli.settings import DataSettings

    with pytest.raises(InputError, match=r"data.batch_size=-3: expected at least 1"):
        DataSettings(batch_size=-3)


@pytest.mark.slow
def test_a_search_ends_with_the_best_that_it_found(run: Run, tmp_path: Path) -> None:
    few = ["mode=fast_dev", "model=mlp", "callbacks=none", "logger=none", "hydra.sweeper.n_trials=2"]
    done = run("train", "-m", "sweep=optuna", *few, "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    accuracies = [metrics_of(tmp_path / "s" / number)["val/accuracy"] for number in "01"]
    assert f"best of the search     {max(accuracies):.4f} with optimizer.lr=0.0" in done.stdout
    assert "test/accuracy" not in metrics_of(tmp_path / "s" / "0"), "the test images choose nothing"
    rates = [read_weights(tmp_path / "s" / number).provenance["config"]["optimizer"]["lr"] for number in "01"]
    assert rates[0] != rates[1]


@pytest.mark.slow
def test_a_search_that_has_nothing_to_compare_ends_with_one_line_of_error(run: Run, tmp_path: Path) -> None:
    few = ["mode=fast_dev", "model=mlp", "callbacks=none", "logger=none", "hydra.sweeper.n_trials=1"]
    done = run("train", "-m", "sweep=optuna", *few, "data.validation_size=0", "hydra.sweep.dir=s")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_default_folder_that_exists_is_left_alone(run: Run, tmp_path: Path) -> None:
    """Default names are precise to the second, so two runs can get the same one."""
    (tmp_path / "mine" / "own").mkdir(parents=True)
    (tmp_path / "mine" / "own" / "fixed.yaml").write_text("# @package _global_\noutput_dir: runs/now\n")
    for _ in range(3):
        done = run("forward", "--config-dir=mine", "+own=fixed", "model=mlp")
        assert done.returncode == 0, done.stderr
    folders = {folder.name: folder for folder in (tmp_path / "runs").iterdir()}
    assert set(folders) == {"now", "now_2", "now_3"}
    for name, folder in folders.items():
        assert f"output_dir: runs/{name}" in (folder / ".hydra" / "config.yaml").read_text()


def test_a_value_may_refer_to_the_runs_folder(run: Run, tmp_path: Path) -> None:
    """As usual with Hydra, whose own option for the folder works, too."""
    saving = [
        "+callbacks.every._target_=lightning.pytorch.callbacks.ModelCheckpoint",
        "+callbacks.every.dirpath=${hydra:runtime.output_dir}/every",
    ]
    for option in ("output_dir=named", "hydra.run.dir=hydras"):
        done = run("train", "mode=fast_dev", "model=mlp", "trainer=cpu", *saving, option)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / option.split("=")[1]
        assert list((folder / "every").glob("*.ckpt"))
        assert (folder / "metrics.json").is_file()
        assert (folder / ".hydra" / "overrides.yaml").read_text().startswith("- mode=fast_dev\n- model=mlp\n")
    assert {path.name for path in tmp_path.iterdir()} == {"named", "hydras"}


def test_hydras_own_option_may_name_the_current_folder(run: Run, tmp_path: Path) -> None:
    done = run("forward", "pictures=false", "hydra.run.dir=.")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".hydra" / "config.yaml").is_file()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("off", ["trainer.limit_val_batches=0", "data.validation_size=0"])
def test_without_a_validation_the_last_weights_are_kept(run: Run, tmp_path: Path, off: str) -> None:
    done = run("train", "mode=fast_dev", "model=mlp", off, "logger=none", "output_dir=run")
    assert done.returncode == 0, done.stderr
    assert "look inside" not in done.stdout
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert "val/accuracy" not in metrics_of(tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").is_file()


class Die(Callback):
    """The machine fails in the second epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def test_without_a_validation_each_epoch_is_saved(run: Run, tmp_path: Path) -> None:
    plain = [*SMALL[:2], SMALL[3], "model=mlp", "trainer=cpu", "data.validation_size=0", "output_dir=run"]
    killed = run("train", *plain, "+callbacks.die._target_=tests.test_train.Die")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = run("train", *plain, "checkpoint=run")
    assert again.returncode == 0, again.stderr
    assert "resuming from" in again.stdout
    assert metrics_of(tmp_path / "run")["epochs"] == 2


class PressCtrlCInValidation(Callback):
    """Somebody presses Ctrl-C while the training validates."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_in_the_last_validation_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    press = "+callbacks.press._target_=tests.test_train.PressCtrlCInValidation"
    short = ["mode=fast_dev", "model=mlp", "trainer=cpu", "data.validation_size=500"]
    with pytest.raises(SystemExit) as left:
        train(compose("train", [*short, press]), tmp_path)
    assert left.value.code == 130
    assert "interrupted at step 1; resume" in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()
    train(compose("train", [*short, "checkpoint=last"]), tmp_path)  # only the test remains
    assert metrics_of(tmp_path)["steps"] == 1
    train(compose("train", short), tmp_path / "undisturbed")
    assert figures_of(tmp_path) == figures_of(tmp_path / "undisturbed")


def test_the_printed_command_survives_a_folder_with_a_strange_name(tmp_path: Path) -> None:
    from mnist_cls.cli.messages import override

    for name in ("plain/2026-11-22_20-00-00", "o(1),a=b", "it's mine", "a b", "~x", "ü"):
        [typed] = shlex.split(override("output_dir", name))
        assert compose("train", [typed]).output_dir == name
