"""The server survives whatever is sent to it."""

import json
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from .test_serve import Server, children, multipart, png

INFER = "/v2/models/image_classifier/infer"

# Fewer clients than the forward passes that can wait, so that none is refused for overload.
CLIENTS = 24

# What a mutation puts into a request, besides random bytes.
TOKENS = [
    b"\r\n",
    b"\r\n\r\n",
    b"\x00",
    b"\xff\xfe",
    b"-1",
    b"99999999999999999999",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"--part",
    b"--part--",
    b"; filename*=utf-8''%ff",
    b"[[[[",
    b"{}",
    b"NaN",
    b"1e999",
    b'"\\ud800"',
    b"?network=%00&step=1&unit=0,0",
    b"../",
]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def digit(digits: np.ndarray) -> bytes:
    return png(digits[0])


@pytest.mark.parametrize("examples", [10, pytest.param(250, marks=pytest.mark.slow)])
def test_schemathesis_finds_nothing(server: Server, tmp_path: Path, examples: int) -> None:
    config = Path(__file__).with_name("schemathesis.toml")
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"http://127.0.0.1:{server.port}/openapi.json", "--seed=0", f"--max-examples={examples}"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    status, errors = server.stop()
    assert status == 143
    assert "Traceback" not in errors


@pytest.mark.parametrize(("charset", "name"), [("undefined", "a.png"), ("punycode", "a-b.png"), ("utf-7", "+2AA-.png")])
def test_names_that_cannot_be_decoded_or_written_are_no_error_of_the_server(
    server: Server, digit: bytes, charset: str, name: str
) -> None:
    body, kind = multipart((digit,))
    body = body.replace(b"0.png", name.encode())
    status, answer = server.ask("POST", "/predict", body, {"Content-Type": f"{kind}; charset={charset}"})
    assert status in (200, 400)
    assert isinstance(answer, dict)


def raw(server: Server, path: str, kind: str, body: bytes, *headers: str) -> tuple[bytes, bytes]:
    """The head and the body of a request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", f"Content-Type: {kind}", *headers]
    return "\r\n".join([*lines, "Connection: close", f"Content-Length: {len(body)}", "", ""]).encode(), body


def mutated(head: bytes, body: bytes, chance: random.Random) -> bytes:
    """A request with a few changes in its head or its body; a changed body mostly has the correct length."""
    is_head = chance.random() < 0.4
    content = bytearray(head if is_head else body)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(content) + 1)
        end = start + chance.choice([0, 0, 1, 2, 5, 40])
        new = chance.choice([chance.choice(TOKENS), chance.randbytes(chance.randint(0, 3)), content[start:end] * 2])
        content[start:end] = new
    if is_head:
        return bytes(content) + body
    if chance.random() < 0.9:
        head = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(content), head)
    return head + bytes(content)


def answer_to(port: int, request: bytes, seconds: float = 0.5) -> str:
    """The status of the answer, or why there is none: mostly, the server waits up to 30 s for the rest of a request."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(request)
            client.settimeout(seconds)
            return client.recv(1000)[9:12].decode("latin-1") or "closed"
    except TimeoutError:
        return "waits"
    except ConnectionError:  # closed while we were sending
        return "closed"


def memory(server: Server) -> int:
    """Resident memory of the server and its decoders, bytes."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in (server.process.pid, *children(server.process.pid))]
    return 1024 * sum(int(kilobytes) for status in statuses for kilobytes in re.findall(r"VmRSS:\s+(\d+)", status))


@pytest.mark.slow
def test_ten_thousand_mutated_requests_cost_the_server_nothing(server: Server, digit: bytes) -> None:
    image = {"name": "images", "datatype": "UINT8", "shape": [1, 784]}
    written = json.dumps({"inputs": [{**image, "data": [0] * 784}]}).encode()
    described = json.dumps({"inputs": [{**image, "parameters": {"binary_data_size": 784}}]}).encode()
    files, kind = multipart((digit, digit))
    seeds = [
        *[raw(server, "/predict?split=false", "image/png", digit)] * 3,
        *[raw(server, "/predict?min_confidence=0.5", kind, files)] * 3,
        raw(server, "/forward?network=image_classifier&saliency=true", "image/png", digit),
        raw(server, INFER, "application/json", written),
        raw(
            server,
            INFER,
            "application/octet-stream",
            described + bytes(784),
            f"Inference-Header-Content-Length: {len(described)}",
        ),
    ]
    for head, body in seeds:  # PyTorch and others are loaded by the first request that needs them
        assert answer_to(server.port, head + body, seconds=60) == "200"
    chance = random.Random(0)
    requests = [mutated(*chance.choice(seeds), chance) for _ in range(10_000)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        asked = clients.map(lambda request: answer_to(server.port, request), requests)
        statuses = Counter(next(asked) for _ in range(500))
        processes, before = children(server.process.pid), memory(server)
        statuses += Counter(asked)
    assert not [status for status in statuses if status.startswith("5")], statuses
    assert statuses["200"] > 2_000, statuses
    assert statuses["400"] > 2_000, statuses
    start = time.perf_counter()
    assert server.ask("GET", "/readyz") == (200, {"ready": True})
    assert time.perf_counter() - start < 1
    assert children(server.process.pid) == processes
    assert memory(server) - before < 150_000_000
    status, errors = server.stop()
    assert status == 143
    assert "Traceback" not in errors
