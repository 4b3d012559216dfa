"""A killed run can be resumed, and the output is what an undisturbed run would have written."""

import gzip
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_cls.checkpoints.weights import save_weights
from mnist_cls.errors import InputError
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.sinks import partial_file
from mnist_cls.models.registry import create_model, register_file

CPU = PredictOptions(device="cpu")

# A slow network, so that there is time to kill its run.
SLOW = """
import time
from torch import nn
from mnist_cls import register_model

@register_model("slow")
class Slow(nn.Sequential):
    def __init__(self, seconds=0.05):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return super().forward(x)
"""
# The command, with an entry in the journal for every batch or two. In the background, a shell makes these tests ignore
# Ctrl-C.
DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from mnist_cls.inference.sinks import partial_file
partial_file.INTERVAL = 0.08
from mnist_cls.predict import main
main()
"""
BATCHES = 60
KILLS_EACH = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an array of 60 batches, and the slow network."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "slow.py").write_text(SLOW)
    register_file(folder / "slow.py")
    torch.manual_seed(0)
    save_weights(folder / "slow.safetensors", create_model("slow"), {"name": "slow"}, {})
    images = np.random.default_rng(0).integers(0, 256, (BATCHES * 2048 - 700, 28, 28), np.uint8)
    np.save(folder / "many.npy", images)
    return folder


def start(place: Path, output: str, *overrides: str) -> subprocess.Popen[str]:
    options = ["input=many.npy", "checkpoint=slow.safetensors", "model_file=slow.py", "batch_size=2048", "device=cpu"]
    command = [sys.executable, "-c", DRIVER, *options, "preprocess=none", f"output={output}", *overrides]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def journal_of(place: Path, output: str) -> Path:
    return place / f".{output}.journal"


def wait_for_journal(process: "subprocess.Popen[str]", journal: Path, newer_than: float = 0) -> None:
    while process.poll() is None and not (journal.exists() and journal.stat().st_mtime > newer_than):
        time.sleep(0.01)


def finished(place: Path, output: str, *overrides: str) -> str:
    process = start(place, output, *overrides)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl", "npy", "parquet"])
def test_a_run_that_is_killed_repeatedly_loses_nothing(place: Path, kind: str) -> None:
    """`KILLS_EACH` kills for each of four formats, 20 in all."""
    finished(place, f"whole.{kind}")
    output, moments = f"killed.{kind}", random.Random(kind)
    journal = journal_of(place, output)
    in_the_middle = 0
    for number in range(KILLS_EACH):
        began = time.time()
        process = start(place, output, "resume=true")
        wait_for_journal(process, journal, newer_than=began)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        in_the_middle += process.returncode == -signal.SIGKILL
        assert not (place / output).exists() or process.returncode == 0, number
    assert in_the_middle == KILLS_EACH, "the runs ended before they could be killed"
    assert "of them by an earlier run" in finished(place, output, "resume=true")
    assert (place / output).read_bytes() == (place / f"whole.{kind}").read_bytes()
    assert not list(place.glob(f".{output}*"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere decoders are not forked, and inherit no lock")
@pytest.mark.slow
def test_decoders_that_outlive_a_killed_run_do_not_hold_its_output(place: Path, png: Path) -> None:
    with tarfile.open(place / "many.tar", "w") as archive:
        for _ in range(10_000):
            archive.add(png)
    process = start(place, "orphans.csv", "input=many.tar")
    wait_for_journal(process, journal_of(place, "orphans.csv"))
    decoders = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    try:
        for decoder in decoders:
            os.kill(decoder, signal.SIGSTOP)  # as if decoding took long
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert "of them by an earlier run" in finished(place, "orphans.csv", "input=many.tar", "resume=true")
        assert decoders
        assert all(Path(f"/proc/{decoder}").exists() for decoder in decoders)
    finally:
        for decoder in decoders:
            os.kill(decoder, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_resume_it(place: Path) -> None:
    output = "stopped.csv"
    message, done = stopped(place, output, signal.SIGINT)
    assert f"the rows of {done:,} inputs are kept" in message
    # With other options nothing is touched.
    before = {path: path.read_bytes() for path in place.glob(f".{output}*")}
    process = start(place, output, "resume=true", "min_confidence=0.5")
    _, message = process.communicate(timeout=60)
    assert process.returncode == 2
    [line] = message.splitlines()
    assert "was started with min_confidence=None, this run has min_confidence=0.5" in line
    assert {path: path.read_bytes() for path in place.glob(f".{output}*")} == before
    assert f"({done:,} of them by an earlier run)" in finished(place, output, "resume=true")
    assert not list(place.glob(f".{output}*"))


def test_sigterm_keeps_the_rows_as_ctrl_c_does(place: Path) -> None:
    message, done = stopped(place, "terminated.csv", signal.SIGTERM)
    assert f"the rows of {done:,} inputs are kept" in message
    assert "resume=true" in message


def stopped(place: Path, output: str, number: signal.Signals) -> tuple[str, int]:
    """Stop a run in the middle; return its messages, and the number of finished inputs in its journal."""
    process = start(place, output)
    wait_for_journal(process, journal_of(place, output))
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    done = json.loads(journal_of(place, output).read_text())["progress"]["inputs"]
    assert 0 < done < BATCHES * 2048 - 700
    return message, done


def test_an_error_in_the_middle_keeps_the_rows_and_a_new_run_replaces_them(
    tmp_path: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(partial_file, "INTERVAL", 0)
    images = np.tile(digits, (30, 1, 1))
    whole = gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes())
    (tmp_path / "many.gz").write_bytes(whole[:-100])
    output = tmp_path / "rows.jsonl"
    with pytest.raises(InputError, match=r"many\.gz"):
        predict_files(tmp_path / "many.gz", output, CPU)
    assert "the rows of 2,048 inputs are kept" in capsys.readouterr().err
    kept = {".rows.jsonl.partial", ".rows.jsonl.journal"}
    assert {path.name for path in tmp_path.iterdir()} == {"many.gz", *kept}
    (tmp_path / "many.gz").write_bytes(whole)
    with pytest.raises(InputError, match="was started with input="):
        predict_files(tmp_path / "many.gz", output, CPU, resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"many.gz", *kept}
    capsys.readouterr()
    assert predict_files(tmp_path / "many.gz", output, CPU).earlier == 0
    assert "replacing the rows of an interrupted run" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"many.gz", "rows.jsonl"}
    predict_files(tmp_path / "many.gz", output, CPU)
    assert "replacing" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "jsonl", "npy", "parquet"])
def test_a_failed_run_is_resumed(tmp_path: Path, png: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(partial_file, "INTERVAL", 0)
    path, output = tmp_path / "scans.tar", tmp_path / f"rows.{kind}"
    with tarfile.open(path, "w") as archive:
        for number in range(700):
            archive.addfile(tarfile.TarInfo(f"{number}.png"))
    content, times = path.read_bytes(), path.stat()
    broken = content.replace(b"600.png", b"6?0.png")  # its checksum is wrong now
    path.write_bytes(broken)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match=r"scans.tar: a broken header at byte 307,200"):
        predict_files(path, output, CPU, resume=True)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    summary = predict_files(path, output, CPU, resume=True)
    assert (summary.inputs, summary.errors, summary.earlier) == (700, 700, 512)
    predict_files(path, tmp_path / f"whole.{kind}", CPU)
    assert output.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".tar", ".png", f".{kind}"}


def test_without_a_journal_resume_starts_from_the_beginning(tmp_path: Path, png: Path) -> None:
    output = tmp_path / "rows.csv"
    for _ in range(2):
        assert predict_files(png, output, CPU, resume=True).earlier == 0
    older = {"run": {}, "bytes": 9, "progress": {"inputs": 1, "right": 1}}
    for journal in ("nonsense", json.dumps(older)):
        (tmp_path / ".rows.csv.journal").write_text(journal)
        with pytest.raises(InputError, match=r"\.rows\.csv\.journal: not a journal of this version"):
            predict_files(png, output, CPU, resume=True)


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path: Path, png: Path) -> None:
    with pytest.raises(InputError, match="checkpoint=nothing"):
        predict_files(png, tmp_path / "rows.csv", PredictOptions("nothing"))
    assert list(tmp_path.iterdir()) == [png]
