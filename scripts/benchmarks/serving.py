"""Rate and latency of the server, beside an application of FastAPI that calls `Predictor` for each request."""

import argparse
import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.measure import Row, in_turns, median
from mnist_cls.data.datasets import load_dataset

CLIENTS = (1, 16, 64, 256)
SECONDS = 4.0

# What people would write.
PEER = """
import sys, uvicorn
from fastapi import FastAPI, Request
from mnist_cls import Predictor
app, predictor = FastAPI(), Predictor(device="cpu")

@app.post("/predict")
async def predict(request: Request):
    predictions = predictor(await request.body())
    return {"label": int(predictions.labels[0]), "probabilities": predictions.probabilities[0].tolist()}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
"""


class Load(NamedTuple):
    """Answers per second, and the seconds of each."""

    rate: float
    latencies: list[float]


def serve(arguments: argparse.Namespace) -> list[Row]:
    """The server under 1 to 256 clients that keep their connections, beside FastAPI: a PNG of 28x28 in each request."""
    rows: list[Row] = []
    for clients in CLIENTS:
        variants = {"mnist_cls.serve": partial(measure, False, clients), "FastAPI": partial(measure, True, clients)}
        for name, loads in in_turns(variants, arguments.rounds).items():
            latencies = 1000 * np.concatenate([load.latencies for load in loads])
            rows.append(
                {
                    "server": name,
                    "clients": clients,
                    "requests/s": round(median([load.rate for load in loads], 9)),
                    "median, ms": round(float(np.median(latencies)), 2),
                    "p99, ms": round(float(np.percentile(latencies, 99)), 2),
                }
            )
    return rows


def measure(is_peer: bool, clients: int) -> Load:
    """Start a server, and ask it for `SECONDS`, with its log going nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-c", PEER, str(port)] if is_peer else ["-m", "mnist_cls.serve", f"port={port}"]
    server = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return asyncio.run(_load(port, clients))
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


async def _load(port: int, clients: int) -> Load:
    file = io.BytesIO()
    Image.fromarray(load_dataset("mnist", "test").images[0].numpy()).save(file, "PNG")
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: image/png\r\n"
    request = f"{head}Content-Length: {len(file.getvalue())}\r\n\r\n".encode() + file.getvalue()
    await _until_it_listens(port)
    latencies: list[float] = []

    async def client(end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) < end:
            writer.write(request)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(answer.split(b"content-length: ")[1].split(b"\r\n")[0]))
            if b" 200 " not in answer[:20]:
                raise RuntimeError(answer.decode())
            latencies.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*(client(time.perf_counter() + 0.5) for _ in range(clients)))  # not counted
    latencies.clear()
    start = time.perf_counter()
    await asyncio.gather(*(client(start + SECONDS) for _ in range(clients)))
    return Load(len(latencies) / (time.perf_counter() - start), latencies)


async def _until_it_listens(port: int) -> None:
    for _ in range(600):
        if _listens(port):
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the server does not listen")


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
