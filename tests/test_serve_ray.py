"""The server on Ray Serve answers as `Predictor` does, and leaves nothing behind."""

import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_cls import Predictor

from .conftest import ROOT

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'ray[serve]'")
# One after the other with other tests of Ray, whose clusters would find one another.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

PROBABILITIES = [f"p{digit}" for digit in range(10)]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def server(port: int, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(ROOT / "scripts/serve_with_ray.py"), "--replicas", "2", "--port", str(port)]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            log.seek(0)
            assert f"http://127.0.0.1:{port}/predict" in line, log.read()
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


def predict(port: int, content: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/predict", content, {"Content-Type": "image/png"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def descendants(pid: int) -> list[int]:
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    return [*children, *(one for child in children for one in descendants(child))]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_rows_over_ray_serve_are_those_of_predictor(
    server: subprocess.Popen[str], port: int, digits: np.ndarray
) -> None:
    expected = Predictor(device="cpu")(digits[:32])
    contents = [*map(png, digits[:32]), b"no image"]
    with ThreadPoolExecutor(len(contents)) as clients:
        answers = list(clients.map(lambda content: predict(port, content), contents))
    assert [status for status, _ in answers] == [200] * len(contents)
    *rows, broken = [row for _, answer in answers for row in answer["predictions"]]
    assert [row["label"] for row in rows] == expected.labels.tolist()
    found = np.array([[row[name] for name in PROBABILITIES] for row in rows])
    np.testing.assert_allclose(found, expected.probabilities, rtol=0, atol=1e-6)
    assert broken["error"].startswith("not an image")
    assert broken["label"] is broken["p0"] is None

    started = descendants(server.pid)
    assert any("raylet" in Path(f"/proc/{pid}/cmdline").read_text() for pid in started)
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 128 + signal.SIGTERM
    deadline = time.monotonic() + 30
    while (left := [pid for pid in started if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
