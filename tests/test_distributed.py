"""Ray's workers write the rows that the local engine writes, each of them once, whichever of them dies."""

import io
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mnist_cls.checkpoints.weights import save_weights
from mnist_cls.errors import InputError
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.inference.ray import predict_on_ray
from mnist_cls.inference.sinks.shards import COMPLETE
from mnist_cls.inference.summary import Summary
from mnist_cls.models.registry import create_model, register_file

from .conftest import ROOT, one_line

# One after the other, because clusters on one machine would find one another.
pytestmark = pytest.mark.xdist_group("ray")

SCRIPT = [sys.executable, str(ROOT / "scripts" / "predict_batch.py")]

# A slow network that leaves a file named by its process, so that a test can kill that process.
SLOW = """
import os
import time
from pathlib import Path
from torch import nn
from mnist_cls import register_model

@register_model("slow")
class Slow(nn.Sequential):
    def __init__(self, seconds=0.1):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
        self.seconds = seconds

    def forward(self, x):
        Path(f"worker-{os.getpid()}").touch()
        time.sleep(self.seconds)
        return super().forward(x)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running cluster with two CPUs; its token is set for this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    program = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"
    known = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    folder = tmp_path_factory.mktemp("cluster")  # not the folder of the tests
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-c", program, "start", *options]
        head = subprocess.Popen(command, cwd=folder, env={**os.environ, **known}, stdout=log, stderr=log)
    try:
        while "started" not in (folder / "log").read_text():
            assert head.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in known.items():
                patch.setenv(name, value)
            yield f"127.0.0.1:{port}"
    finally:
        head.terminate()  # it ends the cluster's processes
        head.wait(60)


def parts_in(folder: Path) -> pa.Table:
    """The rows of all shards, in the order of their names."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


def check_same(folder: Path, local: Path) -> None:
    rows, wanted = parts_in(folder), pq.read_table(local)
    assert rows.schema.equals(wanted.schema)
    assert rows.drop_columns(["confidence", *(f"p{digit}" for digit in range(10))]).equals(
        wanted.drop_columns(["confidence", *(f"p{digit}" for digit in range(10))])
    )
    for name in ("confidence", *(f"p{digit}" for digit in range(10))):
        difference = np.abs(rows[name].to_numpy() - wanted[name].to_numpy())
        assert np.nanmax(difference) <= 1.01e-6, name
        assert (np.isnan(rows[name].to_numpy()) == np.isnan(wanted[name].to_numpy())).all()
    assert {path.name for path in folder.iterdir() if not path.name.startswith("part-")} == {COMPLETE}


def write_inputs(place: Path, digits: np.ndarray) -> list[str]:
    """Write an array, a folder and a Parquet file of several shards of 256 inputs each; some inputs are unreadable."""
    array = np.tile(digits, (50, 1, 1)).astype(np.float32) / 255
    array[4321, 3, 3] = np.nan
    np.save(place / "array.npy", array)
    encoded = []
    for number in range(600):
        content = io.BytesIO()
        Image.fromarray(digits[number % 100]).save(content, "PNG")
        encoded.append(b"no image" if number in (7, 555) else content.getvalue())
        file = place / "folder" / f"{number:03}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded[-1])
    table = {"image": encoded, "label": [number % 10 for number in range(600)]}
    pq.write_table(pa.table(table), place / "table.parquet")
    return ["array.npy", "folder", "table.parquet"]


@pytest.mark.slow
def test_the_script_writes_the_rows_of_the_local_engine(tmp_path: Path, digits: np.ndarray) -> None:
    """On a cluster that the script starts for itself."""
    write_inputs(tmp_path, digits)
    for output, *options in (["local.parquet"], ["rows", "--engine=ray", "--part-size=256"]):
        done = subprocess.run([*SCRIPT, "folder", output, *options], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith("600 images, 2 with an error, ")
    check_same(tmp_path / "rows", tmp_path / "local.parquet")


@pytest.mark.slow
def test_the_rows_are_those_of_the_local_engine(
    tmp_path: Path, digits: np.ndarray, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths mean the same on the workers
    for input in write_inputs(tmp_path, digits):
        options = PredictOptions(device="cpu", engine="eager", min_confidence=0.9)
        local = predict_files(input, "local.parquet", options)
        found = predict_on_ray(input, "rows", options, address=cluster, part_size=256)
        assert len(list(Path("rows").glob("part-*"))) == 3
        check_same(Path("rows"), Path("local.parquet"))
        assert found._replace(seconds=0) == local._replace(seconds=0, to_check=None)
        assert found.errors == (1 if input == "array.npy" else 2)
        shutil.rmtree("rows")


@pytest.mark.slow
def test_an_interrupted_run_is_resumed(tmp_path: Path, digits: np.ndarray, cluster: str) -> None:
    np.save(tmp_path / "array.npy", np.tile(digits, (100, 1, 1)))
    options, output = PredictOptions(engine="eager"), tmp_path / "rows"

    def run(resume: bool = True, part_size: int = 2048) -> Summary:
        return predict_on_ray(
            tmp_path / "array.npy", output, options, address=cluster, part_size=part_size, resume=resume
        )

    assert run(resume=False).inputs == 10_000
    whole = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(InputError, match="holds _SUCCESS; choose another folder, or continue with --resume"):
        run(resume=False)
    for name in ("part-00000001.parquet", "part-00000004.parquet", COMPLETE):
        (output / name).unlink()
    (output / ".unfinished-1.parquet").write_text("of a worker that was killed")
    with pytest.raises(InputError, match="was started with part_size=2048, this run has part_size=4096"):
        run(part_size=4096)
    summary = run()
    assert (summary.inputs, summary.earlier) == (10_000, 3 * 2048)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == whole
    assert run().earlier == 10_000


@pytest.mark.slow
def test_a_worker_is_killed_and_no_row_is_lost_or_doubled(tmp_path: Path) -> None:
    """On a cluster of its own, with the script, as a user would run it."""
    (tmp_path / "slow.py").write_text(SLOW)
    register_file(tmp_path / "slow.py")
    torch.manual_seed(0)
    save_weights(tmp_path / "slow.safetensors", create_model("slow"), {"name": "slow"}, {})
    np.save(tmp_path / "many.npy", np.random.default_rng(0).integers(0, 256, (40 * 2048 - 700, 28, 28), np.uint8))
    options = ["--checkpoint=slow.safetensors", "--model-file=slow.py", "--preprocess=none", "--batch-size=2048"]
    ray = ["--engine=ray", "--workers=2", "--part-size=4096"]
    with (tmp_path / "said").open("w") as said, (tmp_path / "deaths").open("w") as deaths:
        run = subprocess.Popen([*SCRIPT, "many.npy", "rows", *options, *ray], cwd=tmp_path, stdout=said, stderr=deaths)
    rows = tmp_path / "rows"
    for kill in range(2):
        while len(list(rows.glob("part-*"))) < 2 + 4 * kill and run.poll() is None:
            time.sleep(0.01)
        newest = max(tmp_path.glob("worker-*"), key=lambda path: path.stat().st_mtime)
        os.kill(int(newest.name.removeprefix("worker-")), signal.SIGKILL)
        newest.unlink()
        assert len(list(rows.glob("part-*"))) < 20, "the run ended before a worker could be killed"
    assert run.wait(300) == 0, (tmp_path / "deaths").read_text()
    [summary] = (tmp_path / "said").read_text().splitlines()
    assert summary.startswith("81,220 images, ")
    assert len(list(rows.glob("part-*"))) == 20
    assert len(list(tmp_path.glob("worker-*"))) == 2, "others replaced those that were killed"
    local = subprocess.run([*SCRIPT, "many.npy", "local.parquet", *options], cwd=tmp_path)
    assert local.returncode == 0
    check_same(rows, tmp_path / "local.parquet")


@pytest.mark.slow
def test_a_part_that_kills_every_worker_ends_the_run(tmp_path: Path, digits: np.ndarray, cluster: str) -> None:
    (tmp_path / "deadly.py").write_text(
        SLOW.replace("slow", "deadly").replace("time.sleep(self.seconds)", "os._exit(1)")
    )
    register_file(tmp_path / "deadly.py")
    save_weights(tmp_path / "deadly.safetensors", create_model("deadly"), {"name": "deadly"}, {})
    np.save(tmp_path / "array.npy", digits)
    options = ["--checkpoint=deadly.safetensors", "--model-file=deadly.py", "--engine=ray", "--workers=1"]
    command = [*SCRIPT, "array.npy", "rows", f"--address={cluster}", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: part-00000000.parquet: 5 workers died while predicting it")
    assert len(list(tmp_path.glob("worker-*"))) == 5
    assert not (tmp_path / "rows").exists()


@pytest.mark.slow
def test_what_goes_wrong_on_a_worker_is_one_line(tmp_path: Path, digits: np.ndarray, cluster: str) -> None:
    np.save(tmp_path / "array.npy", np.tile(digits, (50, 1, 1)))
    (tmp_path / "broken.safetensors").write_text("no weights")
    for options, words in {
        ("--checkpoint=broken.safetensors",): "broken.safetensors: damaged, or not a checkpoint",
        ("--workers=3",): "workers=3: the cluster has 2 CPUs",
        ("--worker-engine=fast",): "engine=fast: expected one of",
    }.items():
        command = [*SCRIPT, "array.npy", "rows", "--engine=ray", f"--address={cluster}", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        one_line(done, words)
        assert not (tmp_path / "rows").exists()


def test_wrong_arguments_are_reported_before_ray_starts(
    tmp_path: Path, png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"rows\.csv: engine=ray writes many Parquet files; name a folder"):
        predict_on_ray(png, tmp_path / "rows.csv")
    with pytest.raises(InputError, match="workers=0: expected at least 1"):
        predict_on_ray(png, tmp_path / "rows", workers=0)
    with pytest.raises(InputError, match="is in the input"):
        predict_on_ray(tmp_path, tmp_path / "rows")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(InputError, match=r"full: holds note\.txt; choose another folder"):
        predict_on_ray(png, tmp_path / "full")
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "full" / "part-00000000.parquet")
    with pytest.raises(InputError, match=r"part-00000000\.parquet: not written by engine=ray"):
        predict_on_ray(png, tmp_path / "full", resume=True)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"Ray is not installed; pip install 'mnist-cls\[ray\]'"):
        predict_on_ray(png, tmp_path / "rows")
    assert {path.name for path in tmp_path.iterdir()} == {png.name, "full"}
    assert {path.name for path in (tmp_path / "full").iterdir()} == {"note.txt", "part-00000000.parquet"}


def test_rays_options_need_ray(tmp_path: Path) -> None:
    for option in ("--workers=2", "--address=auto", "--part-size=1", "--worker-engine=int8"):
        command = [*SCRIPT, "in.npy", "out.csv", option]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "needs --engine ray" in done.stderr
