"""Every logger gets the scalars and the hyperparameters; a resumed run neither loses nor doubles them."""

import csv
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from mnist_cls.cli.entry_point import compose
from mnist_cls.training.fit import train

from .conftest import SMALL, Run, one_line, refused_training
from .test_train import metrics_of

TINY = ["mode=fast_dev", "model=mlp", "trainer=cpu"]
# Two epochs of ten steps, each of which is logged.
SHORT = [*SMALL, "model=mlp", "trainer=cpu", "callbacks=none", "trainer.log_every_n_steps=1"]
CURVES = {"train/loss_step", "train/accuracy_step", "train/learning_rate", "train/loss", "train/accuracy_epoch"}
RESULTS = {"val/loss", "val/accuracy", "test/loss", "test/accuracy", "final/test/accuracy", "final/train/seconds"}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> list[tuple[int, float]]:
    """The steps and values of a metric."""
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that logs with TensorBoard and into a CSV file."""
    folder = tmp_path_factory.mktemp("logged")
    train(compose("train", [*SHORT, "logger=[tensorboard,csv]"]), folder)
    return folder


def test_a_csv_file_has_all_curves_and_results(logged: Path) -> None:
    rows = rows_of(logged)
    assert rows[0].keys() >= CURVES | RESULTS
    assert [step for step, _ in column(rows, "train/loss_step")] == list(range(20))
    assert [step for step, _ in column(rows, "train/loss")] == [9, 19]
    metrics = metrics_of(logged)
    [(step, accuracy)] = column(rows, "test/accuracy")
    assert step == 20
    assert accuracy == pytest.approx(metrics["test/accuracy"])
    assert column(rows, "final/train/seconds") == [(20, metrics["train/seconds"])]
    hyperparameters: Any = OmegaConf.load(logged / "csv" / "hparams.yaml")
    assert hyperparameters["seed"] == 0
    assert hyperparameters["optimizer"]["lr"] == 0.003


def test_several_loggers_log_the_same(logged: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    rows = rows_of(logged)
    for name in CURVES | RESULTS:
        steps, values = zip(*column(rows, name), strict=True)
        # Files that are written in the same second are read in the order of their names, which may not be that of time.
        points = sorted(events.Scalars(name.replace("final", "with_hyperparameters")), key=lambda point: point.step)
        assert values == pytest.approx([point.value for point in points]), name
        if not name.startswith("final"):  # TensorBoard's table has these at step 0
            assert [*steps] == [point.step for point in points], name


def test_pictures_go_to_tensorboard_wherever_it_stands_in_the_list(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(compose("train", [*TINY, "logger=[csv,tensorboard]"]), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert "test/confusion_matrix" in events.Tags()["images"]


def test_no_loggers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(compose("train", [*TINY, "logger=none"]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "metrics.json", "model.safetensors"}
    assert "look inside" not in capsys.readouterr().out


class StopAt(Callback):
    """Ctrl-C in the 13th step, or a kill in the 18th."""

    def on_before_backward(self, trainer: pl.Trainer, *args: object) -> None:
        if os.environ.get("STOP") == "ctrl-c" and trainer.global_step == 12:
            os.kill(os.getpid(), signal.SIGINT)
        if os.environ.get("STOP") == "kill" and trainer.global_step == 17:
            os.kill(os.getpid(), signal.SIGKILL)


STOP = "+callbacks.stop._target_=tests.test_loggers.StopAt"


def test_a_resumed_training_has_each_point_once(run: Run, tmp_path: Path, logged: Path) -> None:
    options = [*SHORT, "output_dir=run", "logger=[csv,tensorboard]", "checkpoint=auto", "save_every_steps=4", STOP]
    assert run("train", *options, besides={"STOP": "ctrl-c"}).returncode == 130
    assert run("train", *options, besides={"STOP": "kill"}).returncode == -signal.SIGKILL
    assert len(rows_of(tmp_path / "run")) > 13
    done = run("train", *options)
    assert done.returncode == 0, done.stderr
    assert "step 16" in done.stdout
    resumed, undisturbed = rows_of(tmp_path / "run"), rows_of(logged)
    for name in ("train/learning_rate", "train/loss_step"):
        # A step's row is written after its checkpoint: that of the step after which Ctrl-C stopped is missing.
        expected = [point for point in column(undisturbed, name) if point[0] != 12]
        assert column(resumed, name) == expected
    for name in ("train/loss", "val/accuracy", "test/accuracy"):
        assert column(resumed, name) == column(undisturbed, name)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for folder, name, chart in (
        ("", "train/loss_step", "train/loss_step"),
        ("training", "train/loss", "curves/loss"),
        ("validation", "val/accuracy", "curves/accuracy"),
    ):
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / folder))
        events.Reload()
        points, expected = events.Scalars(chart), column(resumed, name)
        assert [point.step for point in points] == [step for step, _ in expected]
        assert [point.value for point in points] == pytest.approx([value for _, value in expected], rel=1e-5)


@pytest.mark.slow
def test_mlflow_keeps_the_runs_in_a_database_without_a_server(run: Run, tmp_path: Path) -> None:
    options = [*SHORT, "logger=mlflow", "output_dir=run", "checkpoint=auto", "save_every_steps=4", STOP]
    assert run("train", *options, besides={"STOP": "ctrl-c"}).returncode == 130
    done = run("train", *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db" in done.stdout
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("mnist_cls")
    assert experiment is not None
    [found] = client.search_runs([experiment.experiment_id])  # resumed in the same run
    assert found.info.status == "FINISHED"
    assert found.data.metrics.keys() >= CURVES | RESULTS
    assert found.data.metrics["test/accuracy"] == pytest.approx(metrics_of(tmp_path / "run")["test/accuracy"])
    assert (found.data.params["model/name"], found.data.params["optimizer/lr"]) == ("mlp", "0.003")
    steps = [point.step for point in client.get_metric_history(found.info.run_id, "train/loss")]
    assert steps == [9, 19]
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "run"}


class LoseTheDatabase(Callback):
    """MLflow's database is damaged in the 13th step."""

    def on_before_backward(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step == 12:
            with sqlite3.connect("outputs/mlflow.db") as database:
                database.execute("ALTER TABLE metrics RENAME TO lost")


@pytest.mark.slow
def test_a_logger_that_fails_in_the_training_ends_it_in_one_line(run: Run, tmp_path: Path) -> None:
    lose = "+callbacks.lose._target_=tests.test_loggers.LoseTheDatabase"
    done = run("train", *SHORT, "logger=mlflow", "output_dir=run", lose)
    one_line(done, "logger (mlflow)", "metrics", "resume with: ", "checkpoint=last")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
def test_weights_and_biases_without_a_network(run: Run, tmp_path: Path) -> None:
    """A sweep, because a run that is not closed would get the metrics of the next one."""
    sweep = ["seed=1,2", "hydra.sweep.dir=sweep", "logger=wandb", "logger.wandb.offline=true"]
    done = run("train", "-m", *TINY, *sweep, env={**os.environ, "WANDB_SILENT": "true"})
    assert done.returncode == 0, done.stderr
    written = list((tmp_path / "sweep").glob("*/wandb/offline-run-*/*.wandb"))
    assert sorted(path.parents[2].name for path in written if b"test/accuracy" in path.read_bytes()) == ["0", "1"]
    ids = {json.loads((tmp_path / "sweep" / number / "loggers.json").read_text())["wandb"] for number in "01"}
    assert {path.stem.removeprefix("run-") for path in written} == ids
    assert {path.name for path in tmp_path.iterdir()} == {"sweep"}


@pytest.mark.slow
def test_without_an_account_it_ends_in_one_line(run: Run, tmp_path: Path) -> None:
    nobody = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    env = {**nobody, "HOME": str(tmp_path), "WANDB_SILENT": "true"}
    done = run("train", *TINY, "logger=wandb", "output_dir=run", env=env, input="")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: logger (wandb): No API key configured")
    assert "logger.wandb.offline=true" in done.stderr


@pytest.mark.slow
def test_a_server_that_is_not_there_ends_in_one_line(run: Run) -> None:
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = run("train", *TINY, "logger=mlflow", env={**os.environ, **nowhere})
    one_line(done, "logger (mlflow)", "http://127.0.0.1:9", "Connection refused")


def refused(tmp_path: Path, *overrides: str) -> str:
    return refused_training(tmp_path, *TINY, *overrides)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_not_installed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    without: Any = None
    monkeypatch.setitem(sys.modules, name, without)  # importing it raises the error of a missing package
    line = refused(tmp_path, f"logger={name}")
    assert line == f"logger={name}: not installed; pip install 'mnist-cls[{name}]'"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["logger=csv", "+logger.csv.flush=3"], ["logger.csv", "unexpected keyword argument 'flush'"]),
        (["+logger.mine._target_=nowhere.Mine"], ["logger.mine._target_=nowhere.Mine", "No module named 'nowhere'"]),
        (["+logger.mine._target_=torch.nn.ReLU"], ["logger.mine._target_=torch.nn.ReLU", "Logger"]),
        (["+logger.mine=3"], ["logger.mine=3", "_target_"]),
        (
            ["logger=none", "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor"],
            ["LearningRateMonitor", "no logger; choose one, such as logger=csv"],
        ),
    ],
)
def test_a_wrong_logger_is_reported_in_one_line(tmp_path: Path, overrides: list[str], words: list[str]) -> None:
    line = refused(tmp_path, *overrides)
    for word in words:
        assert word in line


def test_a_users_own_logger(tmp_path: Path) -> None:
    """Any logger of Lightning's, as in its own projects."""
    own = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": f"{tmp_path}/elsewhere", "name": "mine"}
    train(
        compose("train", [*TINY, "logger=csv", *[f"+logger.mine.{key}={value}" for key, value in own.items()]]),
        tmp_path,
    )
    assert (tmp_path / "csv" / "metrics.csv").is_file()
    assert (tmp_path / "elsewhere" / "mine" / "version_0" / "metrics.csv").is_file()
