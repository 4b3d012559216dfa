"""The Trainer's arguments work as in Lightning; what Lightning refuses is reported in one line; progress is printed."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mnist_cls.cli.entry_point import compose
from mnist_cls.errors import InputError
from mnist_cls.training.fit import train

from .conftest import SMALL, Run, one_line, refused_training
from .test_loggers import column, rows_of
from .test_train import figures_of, metrics_of

PLAIN = [*SMALL, "model=mlp", "trainer=cpu", "callbacks=none", "logger=none", "trainer.limit_test_batches=4"]
EPOCH = re.compile(r"epoch (\d)/(\d): loss \d\.\d{4}, validation accuracy \d\d\.\d\d%, \d+ s(, \d+ s left)?")


class Watch(Callback):
    """Keeps the labels of each training batch, the Trainer, and whether gradients were clipped."""

    trainer: pl.Trainer
    labels: list[list[int]]
    largest: float

    def on_train_start(self, trainer: pl.Trainer, *args: object) -> None:
        Watch.trainer, Watch.labels, Watch.largest = trainer, [], 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: list[torch.Tensor], *_: int
    ) -> None:
        Watch.labels.append(batch[1].tolist())

    def on_before_zero_grad(self, trainer: pl.Trainer, module: pl.LightningModule, *args: object) -> None:
        gradients = [p.grad.abs().max().item() for p in module.parameters() if p.grad is not None]
        Watch.largest = max([Watch.largest, *gradients])


WATCH = "+callbacks.watch._target_=tests.test_trainer_settings.Watch"


def trained_with(folder: Path, *overrides: str) -> dict[str, float]:
    train(compose("train", [*PLAIN, WATCH, *overrides]), folder)
    return metrics_of(folder)


def test_max_time_ends_a_training_without_a_number_of_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    endless = ["trainer.max_epochs=-1", "scheduler=constant", "save_every_seconds=0.2"]
    metrics = trained_with(tmp_path, *endless, "trainer.max_time={seconds: 2}")
    assert ", ended by trainer.max_time\n" in capsys.readouterr().out
    assert 2 <= metrics["train/seconds"] < time.monotonic() - start < 60
    assert metrics["steps"] > 1
    assert (tmp_path / "model.safetensors").is_file()


def test_min_epochs_is_longer_than_the_patience_of_early_stopping(tmp_path: Path) -> None:
    stop = ["+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping", "+callbacks.stop.monitor=val/loss"]
    at_once = [*stop, "+callbacks.stop.stopping_threshold=100", "trainer.max_epochs=4"]
    assert trained_with(tmp_path / "0", *at_once)["epochs"] == 1
    assert trained_with(tmp_path / "3", *at_once, "trainer.min_epochs=3")["epochs"] == 3
    assert trained_with(tmp_path / "s", *at_once, "trainer.min_steps=15")["epochs"] == 2


def test_a_finished_training_that_was_stopped_early_goes_on(tmp_path: Path) -> None:
    assert trained_with(tmp_path / "short", "trainer.max_time={seconds: 0}")["steps"] < 20
    more = trained_with(tmp_path / "more", f"checkpoint={tmp_path}/short")
    assert (tmp_path / "more" / "checkpoints" / "last.ckpt").is_file()
    assert more["steps"] > 10


def test_overfit_batches_repeats_the_same_batches_unshuffled(tmp_path: Path) -> None:
    assert trained_with(tmp_path, "trainer.overfit_batches=2", "trainer.max_epochs=3")["steps"] == 6
    assert Watch.labels[0:2] == Watch.labels[2:4] == Watch.labels[4:6]
    assert Watch.labels[0] != Watch.labels[1]


def test_fast_dev_run_is_lightnings(tmp_path: Path) -> None:
    needs_logger = "+callbacks.rate._target_=lightning.pytorch.callbacks.LearningRateMonitor"
    metrics = trained_with(tmp_path, "trainer.fast_dev_run=3", "logger=csv", needs_logger)
    assert (metrics["steps"], metrics["epochs"]) == (3, 1)
    assert not (tmp_path / "csv").exists()
    assert trained_with(tmp_path / "one", "trainer.fast_dev_run=true")["steps"] == 1


def test_gradients_are_clipped_by_value(tmp_path: Path) -> None:
    clip = ["trainer.gradient_clip_val=0.001", "trainer.gradient_clip_algorithm=value"]
    trained_with(tmp_path, *clip)
    assert Watch.largest == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("value", "expected"), [("true", (True, False)), ("warn", (True, True)), ("false", (False, False))]
)
def test_deterministic(tmp_path: Path, value: str, expected: tuple[bool, bool]) -> None:
    trained_with(tmp_path, f"trainer.deterministic={value}", "trainer.max_steps=1")
    found = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    assert found == expected


def test_other_arguments_of_the_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = torch.backends.cudnn.benchmark
    summary = ["trainer.enable_model_summary=true", "trainer.inference_mode=false", "trainer.sync_batchnorm=true"]
    trained_with(tmp_path, "trainer.check_val_every_n_epoch=2", "trainer.benchmark=true", *summary)
    assert torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = found
    assert Watch.trainer.check_val_every_n_epoch == 2
    assert "Total params" in capsys.readouterr().out


class Fails(Callback):
    """A user's callback that cannot be created."""

    def __init__(self) -> None:
        raise RuntimeError("no such\ndevice")


class CtrlC(Callback):
    """Sends Ctrl-C in step CTRL_C_AT, counted from 0; the test sets one that a validation follows."""

    def on_before_backward(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step == int(os.environ.get("CTRL_C_AT", "-1")):
            os.kill(os.getpid(), signal.SIGINT)


def test_validations_counted_over_the_ends_of_epochs_are_not_lost_by_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = ["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=7", "logger=csv"]
    options = [*PLAIN, *counted, "+callbacks.ctrl_c._target_=tests.test_trainer_settings.CtrlC"]
    train(compose("train", options), tmp_path / "undisturbed")
    monkeypatch.setenv("CTRL_C_AT", "13")
    with pytest.raises(SystemExit):
        train(compose("train", options), tmp_path / "run")
    monkeypatch.setenv("CTRL_C_AT", "-1")
    train(compose("train", [*options, "checkpoint=last"]), tmp_path / "run")
    assert figures_of(tmp_path / "run") == figures_of(tmp_path / "undisturbed")
    resumed, undisturbed = (rows_of(tmp_path / name) for name in ("run", "undisturbed"))
    assert column(resumed, "val/loss") == column(undisturbed, "val/loss")
    assert [step for step, _ in column(undisturbed, "val/loss")] == [6, 13, 20]


def refused(tmp_path: Path, *overrides: str) -> str:
    return refused_training(tmp_path, *PLAIN, *overrides)


STOPPING = ["+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping", "+callbacks.stop.patience=2"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.max_epochs=-1"], ["trainer.max_epochs=-1", "trainer.max_time"]),
        (["trainer.max_epochs=-1", "trainer.max_time=00:00:00:09"], ["schedule", "scheduler=constant"]),
        (["trainer.max_time=5min"], ["5min", "DD:HH:MM:SS"]),
        (["trainer.max_time={years: 1}"], ["years"]),
        (["trainer.deterministic=maybe"], ["trainer.deterministic=maybe", "warn"]),
        (["trainer.gradient_clip_algorithm=l2"], ["trainer.gradient_clip_algorithm=l2", "norm, value"]),
        (["trainer.min_epochs=0"], ["trainer.min_epochs=0", "at least 1"]),
        (["trainer.overfit_batches=1.5"], ["overfit_batches", "1.5"]),
        (["trainer.fast_dev_run=-1"], ["fast_dev_run", "-1"]),
        (["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=0.5"], ["check_val_every_n_epoch"]),
        (["trainer.val_check_interval=5000"], ["val_check_interval", "5000"]),
        (["+trainer.overfit_batch=1"], ["trainer.overfit_batch'", "'trainer.overfit_batches'"]),
        (["trainer.max_epoch=1"], ["trainer.max_epoch'", "'trainer.max_epochs'"]),
        (
            [*STOPPING, "+callbacks.stop.monitor=val_loss"],
            ["callbacks.stop.monitor=val_loss", "'val/loss'", "train/loss"],
        ),
        (
            [*STOPPING, "+callbacks.stop.monitor=val/loss", "data.validation_size=0"],
            ["callbacks.stop.monitor=val/loss", "no validation with data.validation_size=0", "train/loss"],
        ),
        ([*STOPPING], ["callbacks.stop", "missing", "'monitor'"]),
        ([*STOPPING, "+callbacks.stop.monitor=val/loss", "+callbacks.stop.mode=least"], ["callbacks.stop", "least"]),
        (["+callbacks.relu._target_=torch.nn.ReLU"], ["callbacks.relu._target_=torch.nn.ReLU", "Callback"]),
        (["+callbacks.mine._target_=nowhere.Mine"], ["callbacks.mine._target_=nowhere.Mine", "No module named"]),
        (
            ["+callbacks.mine._target_=tests.test_trainer_settings.Fails"],
            ["callbacks.mine: RuntimeError: no such device"],
        ),
        (
            [*STOPPING, "+callbacks.stop.monitor._target_=tests.test_trainer_settings.Fails"],
            ["callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping: no such device"],
        ),
        (["trainer.overfit_batches=2"], ["4 steps", "scheduler=constant"]),
        (["+callbacks.mine.patience=3"], ["callbacks.mine", "_target_"]),
    ],
)
def test_wrong_settings_are_reported_in_one_line(tmp_path: Path, overrides: list[str], words: list[str]) -> None:
    line = refused(tmp_path, *overrides)
    for word in words:
        assert word in line


def test_metrics_that_the_message_names_can_be_monitored(tmp_path: Path) -> None:
    message = refused(tmp_path, *STOPPING, "+callbacks.stop.monitor=accuracy")
    names = message.partition("; expected one of ")[2].split(", ")
    assert len(names) == 4
    for number, name in enumerate(names):
        trained_with(tmp_path / str(number), *STOPPING, f"+callbacks.stop.monitor={name}", "trainer.max_epochs=1")


class LogsItsOwn(Callback):
    """A user's callback that logs a metric of its own."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("mine", 1.0)


def test_early_stopping_may_monitor_what_a_users_callback_logs(tmp_path: Path) -> None:
    own = ["+callbacks.own._target_=tests.test_trainer_settings.LogsItsOwn", *STOPPING]
    trained_with(tmp_path, *own, "+callbacks.stop.monitor=mine", "trainer.max_epochs=1")
    with pytest.raises(InputError, match=r"`mein` which is not available.*`mine`"):
        train(compose("train", [*PLAIN, *own, "+callbacks.stop.monitor=mein"]), tmp_path / "wrong")


def test_an_entry_that_is_null_is_left_out(tmp_path: Path) -> None:
    train(compose("train", ["mode=fast_dev", "model=mlp", "callbacks.inspection=null", "trainer=cpu"]), tmp_path)
    assert not (tmp_path / "tensorboard" / "projector_config.pbtxt").exists()


def test_what_lightning_refuses_in_the_training_is_one_line_and_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    monitor = "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor"
    for folder in ("output_dir=runs/mine", "output_dir=runs/${now:%Y}"):
        one_line(
            run("train", *PLAIN, monitor, folder), "LearningRateMonitor", "no logger; choose one, such as logger=csv"
        )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "notes.txt").touch()
    one_line(run("train", *PLAIN, monitor, "output_dir=runs/mine"))
    one_line(run("train", *PLAIN, monitor, "output_dir=."))
    assert (tmp_path / "runs" / "mine" / "notes.txt").is_file()


@pytest.mark.parametrize(
    "wrong",
    [
        ["data.folds=90000", "data.fold=0"],
        ["data.dir=nowhere", "logger=csv"],
        ["trainer.val_check_interval=5000"],
        ["data.validation_size=1", "data.train_size=60000"],
        ["optimizer.lr=-1", "logger=[csv,tensorboard]"],
        ["checkpoint=nowhere.ckpt"],
    ],
)
def test_a_run_that_is_refused_before_its_first_step_leaves_nothing(run: Run, tmp_path: Path, wrong: list[str]) -> None:
    for where in ([], ["output_dir=new/folder"]):
        one_line(run("train", "trainer=cpu", "model=mlp", *wrong, *where))
        assert list(tmp_path.iterdir()) == []
    # What is already in the run's folder is kept.
    earlier = [tmp_path / "run" / name for name in ("tensorboard/events.out.tfevents.1", "csv/notes", ".hydra/notes")]
    for path in earlier:
        path.parent.mkdir(parents=True)
        path.touch()
    one_line(run("train", "trainer=cpu", "model=mlp", "logger=[csv,tensorboard]", *wrong, "output_dir=run"))
    for path in earlier:
        assert path.is_file()


@pytest.mark.parametrize(
    "command",
    [["train", "data.dir=nowhere"], ["eval", "data.dir=nowhere"], ["forward", "input=nowhere.png"]],
    ids=lambda command: command[0],
)
def test_a_folder_that_existed_before_a_refused_run_is_kept(run: Run, tmp_path: Path, command: list[str]) -> None:
    one_line(run(*command))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    for option in ("output_dir=mine", "hydra.run.dir=mine"):
        one_line(run(*command, option))
        assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
    (tmp_path / "mine" / ".hydra").mkdir()
    (tmp_path / "mine" / ".hydra" / "notes").touch()
    one_line(run(*command, "output_dir=mine"))
    assert (tmp_path / "mine" / ".hydra" / "notes").is_file()


def test_without_a_terminal_each_epoch_is_a_line(run: Run) -> None:
    with_progress = [option for option in PLAIN if "progress" not in option]
    done = run("train", *with_progress)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, second, *rest = done.stdout.splitlines()
    for number, line in enumerate((first, second), 1):
        found = EPOCH.fullmatch(line)
        assert found, line
        assert found[1] == str(number)
    assert rest[0].startswith("test accuracy")
    silent = run("train", *PLAIN)
    assert silent.stdout.startswith("test accuracy")


def test_a_long_epoch_prints_a_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mnist_cls.training.progress.EpochLines.seconds_between", 0.0)  # a minute
    train(compose("train", [*PLAIN, "trainer.enable_progress_bar=true"]), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"epoch 1/2: 50% done, \d+ s, \d+ s left", lines[4])
    assert EPOCH.fullmatch(lines[9])
    assert lines[10].startswith("epoch 2/2: 10% done")


def test_a_users_own_progress_bar_replaces_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = "+callbacks.bar._target_=lightning.pytorch.callbacks.TQDMProgressBar"
    train(compose("train", [*PLAIN, "trainer.enable_progress_bar=true", bar]), tmp_path)
    printed = capsys.readouterr().out
    assert "Epoch 1: 100%" in printed
    assert "epoch 1/2" not in printed


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.slow
@pytest.mark.parametrize(("columns", "bar"), [(80, True), (40, False)])
def test_in_a_terminal(tmp_path: Path, columns: int, bar: bool) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    options = [option for option in PLAIN if "progress" not in option]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_cls.train", *options],
        cwd=tmp_path,
        env={**environment, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # at the end of the process
        while block := os.read(ours, 65536):
            written += block
    assert process.wait() == 0, written
    text = written.decode()
    assert ("━" in text) == bar
    assert bool(re.search("epoch 1/2: loss", text)) != bar
    assert "test accuracy" in text


@pytest.mark.slow
def test_in_a_notebook_each_epoch_is_a_line(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    options = [option for option in PLAIN if "progress" not in option]
    code = f"""
from pathlib import Path
from mnist_cls.cli.entry_point import compose
from mnist_cls.training.fit import train
train(compose("train", {options}), Path("run"))
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = notebook.cells[0].outputs
    assert {output.get("name", output.output_type) for output in outputs} == {"stdout", "execute_result"}
    lines = "".join(output.text for output in outputs if output.output_type == "stream").splitlines()
    assert [bool(EPOCH.fullmatch(line)) for line in lines[:3]] == [True, True, False]


@pytest.mark.parametrize("scheduler", ["one_cycle", "constant"])
def test_too_rare_a_validation_is_not_blamed_on_the_optimizer(tmp_path: Path, scheduler: str) -> None:
    message = refused(tmp_path, "trainer.val_check_interval=100000", f"scheduler={scheduler}")
    assert message.startswith("trainer: `val_check_interval` (100000)")
