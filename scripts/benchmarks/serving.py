"""Rate and latency of the server, beside FastAPI and LitServe with the same network."""

import argparse
import asyncio
import contextlib
import importlib.util
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.measure import Row, in_turns, median
from mnist_cls.data.datasets import load_dataset

CLIENTS = (1, 16, 64, 256)
SECONDS = 4.0

# A refused client asks again after this many seconds, whatever Retry-After says.
RETRY_SECONDS = 0.05

# Servers as people would write them, with the decoding and the network of `mnist_cls.serve`.
FASTAPI = """
import sys, uvicorn
from fastapi import Body, FastAPI
from mnist_cls import Predictor
from mnist_cls.inference.decoding.decode import decode

app, predictor = FastAPI(), Predictor(device="cpu")

@app.post("/predict")
def predict(body: bytes = Body()):
    decoded = decode([body], "auto", False)
    return {"predictions": predictor.classify_prepared(decoded.images, decoded.errors).to_arrow().to_pylist()}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
"""

LITSERVE = """
import sys, litserve
from typing import Annotated
from fastapi import Body
from mnist_cls import Predictor
from mnist_cls.inference.decoding.decode import decode

class Digits(litserve.LitAPI):
    def setup(self, device):
        self.predictor = Predictor(device="cpu")

    def decode_request(self, request: Annotated[bytes, Body()]):
        return request

    def batch(self, inputs):
        return inputs

    def predict(self, files):
        decoded = decode(files, "auto", False)
        return self.predictor.classify_prepared(decoded.images, decoded.errors).to_arrow().to_pylist()

    def unbatch(self, rows):
        return rows

    def encode_response(self, row):
        return {"predictions": [row]}

if __name__ == "__main__":
    digits = Digits(max_batch_size=64, batch_timeout=0.01)
    server = litserve.LitServer(digits, accelerator="cpu", fast_queue=True)
    server.run("127.0.0.1", int(sys.argv[1]), log_level="warning", generate_client_file=False)
"""


class Load(NamedTuple):
    """Predictions per second, the seconds of each including refused attempts, and the number of refused attempts."""

    rate: float
    latencies: list[float]
    refused: int


def serve(arguments: argparse.Namespace) -> list[Row]:
    """The server under 1 to 256 clients that keep their connections, beside FastAPI and LitServe."""
    peers = {"FastAPI": FASTAPI, "LitServe": LITSERVE}
    for name in [name for name in peers if not importlib.util.find_spec(name.lower())]:
        print(f"{name} is skipped; pip install {name.lower()}", file=sys.stderr)
        del peers[name]
    servers = {"mnist_cls.serve": None, **peers}
    measured = in_turns({name: partial(measure, source) for name, source in servers.items()}, arguments.rounds)
    rows: list[Row] = []
    for clients in CLIENTS:
        for name, rounds in measured.items():
            loads = [loads[clients] for loads in rounds]
            latencies = 1000 * np.concatenate([load.latencies for load in loads])
            rate, at_64 = (median([loads[number].rate for loads in rounds], 9) for number in (clients, 64))
            rows.append(
                {
                    "server": name,
                    "clients": clients,
                    "requests/s": round(rate),
                    "of those at 64": round(rate / at_64, 2),
                    "refused/s": round(median([load.refused / SECONDS for load in loads], 9)),
                    "median, ms": round(float(np.median(latencies)), 2),
                    "p99, ms": round(float(np.percentile(latencies, 99)), 2),
                }
            )
    return rows


def measure(source: str | None) -> dict[int, Load]:
    """Start `mnist_cls.serve` or the program in `source`, and load it with each number of clients for `SECONDS`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "peer.py")  # in a file, because LitServe starts processes that import it
        program.write_text(source or "")
        command = [str(program), str(port)] if source else ["-m", "mnist_cls.serve", f"port={port}"]
        server = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            asyncio.run(_until_it_predicts(port))
            return {clients: asyncio.run(_load(port, clients)) for clients in CLIENTS}
        finally:
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(30)
            with contextlib.suppress(ProcessLookupError):  # no process of it is left
                os.killpg(server.pid, signal.SIGKILL)


def _request(port: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(load_dataset("mnist", "test").images[0].numpy()).save(file, "PNG")
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: image/png\r\n"
    return f"{head}Content-Length: {len(file.getvalue())}\r\n\r\n".encode() + file.getvalue()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Return the status of the answer."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    status = int(head.split()[1])
    if status not in (200, 503) or (status == 200 and b'"label":7' not in body):
        raise RuntimeError(f"{head!r} {body!r}")
    return status


async def _load(port: int, clients: int) -> Load:
    request = _request(port)
    latencies: list[float] = []
    refused = 0

    async def client(end: float) -> None:
        nonlocal refused
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) < end:
            while await _ask(reader, writer, request) == 503:
                refused += 1
                await asyncio.sleep(RETRY_SECONDS)
            latencies.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*(client(time.perf_counter() + 0.5) for _ in range(clients)))  # not counted
    latencies.clear()
    refused = 0
    start = time.perf_counter()
    await asyncio.gather(*(client(start + SECONDS) for _ in range(clients)))
    return Load(len(latencies) / (time.perf_counter() - start), latencies, refused)


async def _until_it_predicts(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            status = await _ask(reader, writer, _request(port))
            writer.close()
            if status == 200:
                return
        await asyncio.sleep(0.1)
    raise RuntimeError("the server does not predict")
