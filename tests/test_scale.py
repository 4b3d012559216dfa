"""Distributed training: processes share one global order and one folder, and resume after signals and kills."""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mnist_cls.cli.settings import TrainerSettings
from mnist_cls.data.loader import EpochOrder
from mnist_cls.errors import InputError
from mnist_cls.training.datamodule import MNISTDataModule
from mnist_cls.training.distributed import as_launched

from .conftest import ROOT, SMALL, Completed, Run, one_line

# Without random numbers in the steps, so that only rounding tells trainings of one and of several processes apart.
PLAIN = [*SMALL, "model=mlp", "trainer=cpu", "data.augmentation=null", "save_every_steps=4", "save_every_seconds=null"]
WATCHED = ["+callbacks.record._target_=tests.test_scale.Record", "+callbacks.trouble._target_=tests.test_scale.Trouble"]
STEPS, BATCH, TROUBLE_AT = 20, 128, 13


class Record(Callback):
    """Each process writes down which images it trains on, into the folder $RECORD, if there is one."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: tuple[torch.Tensor, ...], batch_idx: int
    ) -> None:
        if "RECORD" in os.environ:
            path = Path(os.environ["RECORD"], f"{trainer.current_epoch}-{trainer.global_rank}")
            with path.open("a") as file:
                file.writelines(f"{digest(image)}\n" for image in batch[0])


class Trouble(Callback):
    """In the middle of the second epoch the process $TROUBLED sends itself the signal $TROUBLE, once."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: object) -> None:
        kind, first_life = os.environ.get("TROUBLE"), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if kind is None or not first_life:
            return
        if trainer.global_step == TROUBLE_AT and trainer.global_rank == int(os.environ["TROUBLED"]):
            whom = os.getppid() if kind == "SIGTERM to torchrun" else os.getpid()
            os.kill(whom, signal.SIGKILL if kind == "SIGKILL" else signal.SIGTERM)
        if trainer.global_step > TROUBLE_AT:
            time.sleep(0.5)  # torchrun takes its time to pass a signal on


def digest(image: torch.Tensor) -> str:
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16]


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def command(processes: int | None, options: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """The command of a training by N processes of torchrun on this host, or without torchrun."""
    many = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", *options]
    return [sys.executable, *(many if processes else []), "-m", "mnist_cls.train", *arguments]


def train(
    cwd: Path, processes: int | None, *arguments: str, options: Sequence[str] = ("--standalone",), **more: str
) -> Completed:
    return subprocess.run(
        command(processes, options, [*PLAIN, *WATCHED, *arguments]),
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=500,
    )


def metrics_of(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def same_but_for_rounding(folder: Path, undisturbed: Path) -> None:
    found, expected = metrics_of(folder), metrics_of(undisturbed)
    assert (found["steps"], found["epochs"]) == (expected["steps"], expected["epochs"]) == (STEPS, 2)
    for name in ("train/loss", "val/loss", "test/loss", "train/accuracy", "test/accuracy"):
        assert found[name] == pytest.approx(expected[name], abs=2e-3), name
    # All images are counted, those before a restart and those of other processes, too.
    for metrics in (found, expected):
        assert metrics["train/images_per_second"] * metrics["train/seconds"] == pytest.approx(2 * 1280)


def check_shards(seen: Path, processes: int) -> None:
    """Check that each process got its slice of each batch of one global order: no image twice, none missing."""
    data = MNISTDataModule(train_size=1280, validation_size=500)
    data.setup("fit")
    assert data.train_data is not None
    digests = [digest(image) for image in data.train_data.images]
    assert len(set(digests)) == 1280
    assert {path.name for path in seen.iterdir()} == {f"{e}-{r}" for e in range(2) for r in range(processes)}
    for epoch in range(2):
        order = EpochOrder(1280, True, seed=0)
        order.set_epoch(epoch)
        visited = [digests[i] for i in order.indices()]
        batches = [visited[i : i + BATCH] for i in range(0, 1280, BATCH)]
        shards = [(seen / f"{epoch}-{rank}").read_text().split() for rank in range(processes)]
        assert sorted(itertools.chain(*shards)) == sorted(digests)
        for rank, shard in enumerate(shards):
            assert shard == [one for batch in batches for one in batch[rank::processes]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the training by one process, undisturbed."""
    cwd = tmp_path_factory.mktemp("alone")
    done = train(cwd, None, "output_dir=run")
    assert done.returncode == 0, done.stderr
    return cwd / "run"


@pytest.mark.parametrize(
    "processes", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_torchrun_trains_like_one_process(tmp_path: Path, alone: Path, processes: int) -> None:
    """Devices, strategies and folders need no options; everything is printed and written once."""
    (tmp_path / "seen").mkdir()
    done = train(tmp_path, processes, RECORD=str(tmp_path / "seen"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        *("test", "validation", "training", "files", "predict", "look"),
    ]
    [folder] = (tmp_path / "outputs" / "train").iterdir()
    same_but_for_rounding(folder, alone)
    check_shards(tmp_path / "seen", processes)
    kinds = {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "model.safetensors", "metrics.json"}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    rest = {file for file in files if not file.startswith(("tensorboard/", ".hydra/"))}
    assert rest == kinds
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "seen"}
    one_of_each = [path.name for path in alone.glob("tensorboard/events*")]
    assert len(list(folder.glob("tensorboard/events*"))) == len(one_of_each)


@pytest.mark.slow
def test_a_killed_process_is_restarted_and_the_training_resumes(tmp_path: Path, alone: Path) -> None:
    """From a checkpoint in the middle of an epoch, and another one is saved in the same epoch."""
    options = ["--standalone", "--max-restarts=2"]
    trouble = {"TROUBLE": "SIGKILL", "TROUBLED": "1"}
    done = train(tmp_path, 2, "checkpoint=auto", "output_dir=run", options=options, **trouble)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resuming from run/checkpoints/last.ckpt, step 12") == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "lost another process of this training" in line
    assert "Traceback" not in done.stderr
    same_but_for_rounding(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("options", [[], ["--standalone"]], ids=["static", "c10d"])
def test_it_resumes_each_time(tmp_path: Path, alone: Path, options: list[str], turn: int) -> None:
    trouble = {"TROUBLE": "SIGKILL", "TROUBLED": str(turn % 2)}
    options = [*options, "--max-restarts=1"]
    done = train(tmp_path, 2, "checkpoint=auto", "output_dir=run", options=options, **trouble)
    assert done.returncode == 0, done.stderr
    same_but_for_rounding(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "whom", "then"),
    [(2, "SIGTERM to torchrun", 1), (2, "SIGTERM to itself", 4), (None, "SIGTERM to itself", 2)],
)
def test_a_terminated_training_resumes_with_other_numbers_of_processes(
    tmp_path: Path, alone: Path, first: int | None, whom: str, then: int
) -> None:
    done = train(tmp_path, first, "output_dir=run", TROUBLE=whom, TROUBLED="1" if first else "0")
    assert done.returncode == (1 if first else 128 + signal.SIGTERM), done.stderr
    [line] = [line for line in done.stderr.splitlines() if "resume with: " in line]
    assert line.startswith("ended by SIGTERM at step ")
    step = int(line.split(";")[0].split()[-1])
    assert TROUBLE_AT < step <= STEPS
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == step
    assert ("torch.distributed.run --nproc-per-node 2 -m mnist_cls.train " in line) == (first == 2)
    assert "error: " not in done.stderr
    assert not (tmp_path / "run" / "metrics.json").exists()
    done = train(tmp_path, then, "checkpoint=last", "output_dir=run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resuming from") == 1
    same_but_for_rounding(tmp_path / "run", alone)
    done = train(tmp_path, 2, "checkpoint=auto", "output_dir=run")
    assert (done.returncode, done.stdout) == (0, "nothing to do: the training in run is finished\n")


@pytest.mark.slow
def test_dropout_and_distortions_change_the_accuracy_by_no_more_than_another_seed(tmp_path: Path) -> None:
    """Processes draw random numbers of their own, so with these the weights differ."""
    longer = ["data.train_size=6400", "model=image_classifier", "data.augmentation={rotation: 10, shift: 1}"]
    longer += ["data.validation_size=0"]  # the last weights count: which epoch is best would be a matter of luck
    accuracies = []
    for processes in (None, 2):
        done = train(tmp_path, processes, *longer, f"output_dir={processes}")
        assert done.returncode == 0, done.stderr
        accuracies.append(metrics_of(tmp_path / str(processes))["test/accuracy"])
    assert min(accuracies) > 0.9
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trainer.devices=3"], "trainer.devices=3, but torchrun runs 2 processes on each host; leave trainer.devices"),
        (["trainer.strategy=single_device"], "trainer.strategy"),
        (["data.batch_size=1"], "batches of 1 images for 2 processes: expected at least one image for each"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0: expected at least 1"),
        (["trainer.max_epoch=1"], "no key 'trainer.max_epoch'"),
        (["optimizer._target_=torch.optim.SGD", "optimizer.lr=1e30", "~optimizer.weight_decay"], "not finite"),
    ],
)
def test_an_error_is_reported_once(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = train(tmp_path, 2, *arguments)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in line
    assert "mnist_cls/" not in done.stderr.replace(line, "")  # torchrun's own traceback, but none of ours


def of_torchrun(monkeypatch: pytest.MonkeyPatch, here: int, hosts: int, world: int | None = None) -> None:
    numbers = {"LOCAL_WORLD_SIZE": here, "GROUP_WORLD_SIZE": hosts, "WORLD_SIZE": world or here * hosts, "RANK": 0}
    for name, number in numbers.items():
        monkeypatch.setenv(name, str(number))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")


@pytest.mark.parametrize("devices", [1, "auto", 4, [0, 1, 2, 3]])
def test_devices_and_hosts_follow_from_torchrun(monkeypatch: pytest.MonkeyPatch, devices: Any) -> None:
    settings = TrainerSettings(devices=devices)
    assert as_launched(settings) is settings
    of_torchrun(monkeypatch, here=4, hosts=2)
    found = as_launched(settings)
    expected = devices if isinstance(devices, list) else 4
    assert (found.devices, found.num_nodes, found.strategy) == (expected, 2, "ddp")
    assert as_launched(TrainerSettings(strategy="ddp_find_unused_parameters_true")).strategy.startswith("ddp_find")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (TrainerSettings(devices=2), "trainer.devices=2, but torchrun runs 4 processes on each host"),
        (TrainerSettings(devices=[0]), r"trainer.devices=\[0\], but"),
        (TrainerSettings(devices=[0, 1]), r"trainer.devices=\[0, 1\], but"),
        (TrainerSettings(num_nodes=3), "trainer.num_nodes=3, but torchrun runs 2 hosts"),
    ],
)
def test_settings_that_contradict_torchrun_are_rejected(
    monkeypatch: pytest.MonkeyPatch, settings: TrainerSettings, words: str
) -> None:
    of_torchrun(monkeypatch, here=4, hosts=2)
    with pytest.raises(InputError, match=words):
        as_launched(settings)


def test_hosts_with_different_numbers_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    of_torchrun(monkeypatch, here=4, hosts=2, world=6)
    with pytest.raises(InputError, match="6 processes on 2 hosts, 4 of them on this one; give each"):
        as_launched(TrainerSettings())


def test_restarts_on_several_hosts_need_a_store_that_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    of_torchrun(monkeypatch, here=4, hosts=2)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    as_launched(TrainerSettings())
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(InputError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        as_launched(TrainerSettings())


def test_on_several_hosts_the_default_folder_follows_from_torchruns_id(run: Run, tmp_path: Path) -> None:
    world = {"WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    first = {"RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none", **world}

    def forward(**more: str) -> Completed:
        return run("forward", "model=mlp", besides={**first, **more})

    one_line(forward(), "--rdzv-id=NAME", "output_dir=DIR")
    for more in ({}, {"RANK": "1", "LOCAL_RANK": "0"}):
        assert forward(TORCHELASTIC_RUN_ID="mine", **more).returncode == 0
    assert [path.name for path in (tmp_path / "outputs" / "forward").iterdir()] == ["mine"]
    (tmp_path / "outputs" / "forward" / "mine" / "metrics.json").touch()
    one_line(forward(TORCHELASTIC_RUN_ID="mine"), "a finished run", "--rdzv-id=mine")


Hosts = Callable[..., list[Completed]]


@pytest.fixture
def two_hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts connected by a cable only, as network namespaces; returns a function that trains on them."""
    ip = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
    if ip is None:
        pytest.skip("two hosts need iproute2's ip")
    names = [f"mnist-cls-{os.getpid()}-{end}" for end in "ab"]
    made = subprocess.run([ip, "netns", "add", names[0]], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"two hosts need the right to make network namespaces: {made.stderr.strip()}")

    def run(folders: Sequence[Path], *arguments: str, options: Sequence[str] = (), **more: str) -> list[Completed]:
        processes = []
        for number, (name, cwd) in enumerate(zip(names, folders, strict=True)):
            meet = ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=10.77.0.1:29400", "--rdzv-id=test"]
            # They have one name between them, and so torchrun cannot find out by it where it is.
            meet += [f"--rdzv-conf=is_host={1 - number}", f"--local-addr=10.77.0.{number + 1}"]
            inside = command(1, [*meet, *options], [*PLAIN, *WATCHED, *arguments])
            env = environment(GLOO_SOCKET_IFNAME="eth0", **more)
            processes.append(start([ip, "netns", "exec", name, *inside], cwd, env))
        try:
            return [
                subprocess.CompletedProcess(one.args, one.returncode, *output)
                for one, output in [(one, one.communicate(timeout=500)) for one in processes]
            ]
        finally:
            for one in processes:
                one.kill()

    try:
        cable = ["link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1]]
        for words in (["netns", "add", names[1]], cable):
            subprocess.run([ip, *words], check=True)
        for number, name in enumerate(names, 1):
            subprocess.run([ip, "-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0"], check=True)
            for device in ("lo", "eth0"):
                subprocess.run([ip, "-n", name, "link", "set", device, "up"], check=True)
        yield run
    finally:
        for name in names:
            subprocess.run([ip, "netns", "del", name], check=False, capture_output=True)


def start(words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(words, cwd=cwd, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_hosts_train_like_one_process(tmp_path: Path, alone: Path, two_hosts: Hosts) -> None:
    (tmp_path / "seen").mkdir()
    done = two_hosts([tmp_path, tmp_path], RECORD=str(tmp_path / "seen"))
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    assert sum("test accuracy" in one.stdout for one in done) == 1
    [folder] = (tmp_path / "outputs" / "train").iterdir()
    same_but_for_rounding(folder, alone)
    check_shards(tmp_path / "seen", 2)


@pytest.mark.slow
@pytest.mark.parametrize("troubled", ["0", "1"])
def test_a_process_killed_on_one_of_two_hosts(tmp_path: Path, alone: Path, two_hosts: Hosts, troubled: str) -> None:
    """The hosts do not count the same restarts: one has lost a process, the other may only hear of it."""
    trouble = {"TROUBLE": "SIGKILL", "TROUBLED": troubled, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    options = ["--max-restarts=2"]
    done = two_hosts([tmp_path, tmp_path], "checkpoint=auto", "output_dir=run", options=options, **trouble)
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    assert sum(one.stdout.count("resuming from run/checkpoints/last.ckpt, step 12") for one in done) == 1
    same_but_for_rounding(tmp_path / "run", alone)


@pytest.mark.slow
def test_two_hosts_that_do_not_share_their_files(tmp_path: Path, two_hosts: Hosts) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for cwd in folders:
        cwd.mkdir()
    done = two_hosts(folders)
    assert [one.returncode for one in done] == [1, 1]
    for one in done:
        [line] = [line for line in one.stderr.splitlines() if line.startswith("error: ")]
        assert "not all processes of this training see the same files; set output_dir=" in line
