"""The server answers as `predict` does, whatever other requests it has, and loses no request that it has accepted."""

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_cls import Predictor
from mnist_cls.data.scans import scan, scan_row

from .conftest import Run, one_line


class Server:
    """`python -m mnist_cls.serve` in its own process, on a free port; a context manager."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "mnist_cls.serve", "port=0", *options]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # a pipe that nobody reads would fill up
        # In its own session, so that no process of it is left after a failed test.
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/predict", self.process.stdout.readline())
        assert found, self.stop()[1]
        self.port = int(found[1])

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self.log.close()

    def ask(
        self, method: str, path: str, body: bytes | str = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Return the status and the answer, parsed if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(content) if is_json else content.decode()
        finally:
            connection.close()

    def predict(self, *files: bytes, query: str = "") -> tuple[int, Any]:
        """Request predictions of image files; several are sent as multipart/form-data."""
        if len(files) == 1:
            return self.ask("POST", f"/predict{query}", files[0], {"Content-Type": "image/png"})
        body, kind = multipart(files)
        return self.ask("POST", f"/predict{query}", body, {"Content-Type": kind})

    def stop(self) -> tuple[int, str]:
        """End it with SIGTERM; see `wait`."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Wait for its end; return its exit status as in a shell, and its standard error."""
        self.process.communicate(timeout=60)
        self.log.seek(0)
        status = self.process.returncode
        return (128 - status if status < 0 else status), self.log.read()


def multipart(files: tuple[bytes, ...], field: str = "files") -> tuple[bytes, str]:
    head = '--part\r\nContent-Disposition: form-data; name="{}"; filename="{}.png"\r\n\r\n'
    parts = [head.format(field, number).encode() + content + b"\r\n" for number, content in enumerate(files)]
    return b"".join([*parts, b"--part--\r\n"]), "multipart/form-data; boundary=part"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("is_digit=true") as running:
        yield running


@pytest.fixture(scope="module")
def files(mnist_test: Any) -> list[bytes]:
    """Digits as scans of several kinds."""
    images = mnist_test.images[:24].numpy()
    return [*scan(images[:8], "dark on light"), *scan(images[8:16], "photo"), *map(png, images[16:])]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows_of(files: list[bytes], **options: Any) -> list[dict[str, Any]]:
    """The rows of `Predictor`, with the server's columns."""
    predictions = Predictor(device="cpu", **options)(files)
    probabilities = predictions.probabilities.astype(float)
    return [
        {"label": int(label), **{f"p{digit}": row[digit] for digit in range(10)}}
        for label, row in zip(predictions.labels, probabilities, strict=True)
    ]


def same(row: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(row[name] == pytest.approx(value, abs=2e-6) for name, value in expected.items())


def test_rows_are_those_of_predict_whatever_shares_a_batch(server: Server, files: list[bytes]) -> None:
    expected = rows_of(files)
    status, answer = server.predict(*files)
    assert status == 200
    assert [row["path"] for row in answer["predictions"]] == [f"{number}.png" for number in range(len(files))]
    assert all(same(row, wanted) for row, wanted in zip(answer["predictions"], expected, strict=True))
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(server.predict, files * 4))
    for (status, answer), wanted in zip(answers, expected * 4, strict=True):
        assert status == 200
        [row] = answer["predictions"]
        assert row["error"] is None
        assert row["is_digit"] is True
        assert same(row, wanted)


def test_options_of_a_request(server: Server, files: list[bytes], digits: np.ndarray, labels: list[int]) -> None:
    [row] = server.predict(scan_row(digits[:5], 4), query="?split=true")[1]["predictions"]
    assert row["reading"] == "".join(map(str, labels[:5]))
    assert len(row["boxes"]) == len(row["confidences"]) == 5
    [row] = server.predict(files[0], query="?min_confidence=1")[1]["predictions"]
    assert row["undecided"] is True
    [row] = server.predict(files[0])[1]["predictions"]
    assert "undecided" not in row


def test_requests_with_other_options_do_not_share_a_batch(
    server: Server, files: list[bytes], digits: np.ndarray, labels: list[int]
) -> None:
    row, reading = scan_row(digits[:5], 4), "".join(map(str, labels[:5]))
    asked = [(row, "?split=true"), (files[0], "?min_confidence=1"), (files[0], "")] * 20
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda one: server.predict(one[0], query=one[1])[1]["predictions"][0], asked))
    for (_, query), answer in zip(asked, answers, strict=True):
        assert answer["error"] is None
        assert answer.get("reading") == (reading if "split" in query else None)
        assert ("undecided" in answer) == ("min_confidence" in query)


def test_an_image_that_cannot_be_read_is_a_row(server: Server, files: list[bytes]) -> None:
    blank = png(np.full((60, 60), 255, np.uint8))
    bad = [b"no image", blank, files[0][: len(files[0]) // 2]]
    many = [*files, *files, *bad[:1], *files[:15]]
    status, answer = server.predict(*many)
    errors = [row["error"] for row in answer["predictions"]]
    assert (status, len(errors), sum(error is not None for error in errors)) == (200, 64, 1)
    for content in bad:
        status, answer = server.predict(content)
        [row] = answer["predictions"]
        assert status == 200
        assert row["error"]
        assert row["label"] is row["p0"] is row["confidence"] is None


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "reason"),
    [
        ("POST", "/predict", b"", {"Content-Type": "image/png"}, 400, "the body is empty"),
        ("POST", "/predict", b"secret", {}, 415, "expected Content-Type: image/"),
        ("POST", "/predict", b"secret", {"Content-Type": "text/plain"}, 415, "expected Content-Type: image/"),
        ("POST", "/predict?split=secret", b"x", {"Content-Type": "image/png"}, 400, "split: expected true or false"),
        ("POST", "/predict?secret=1", b"x", {"Content-Type": "image/png"}, 400, "expected split and min_confidence"),
        ("POST", "/predict?min_confidence=nan", b"x", {"Content-Type": "image/png"}, 400, "min_confidence"),
        ("POST", "/predict?min_confidence=secret", b"x", {"Content-Type": "image/png"}, 400, "min_confidence"),
        ("POST", "/predict", b"secret", {"Content-Type": "multipart/form-data"}, 400, ""),
        ("POST", "/predict", *multipart((b"a",), "secret"), 400, "in the field 'files'"),
        ("GET", "/predict", b"", {}, 405, ""),
        ("GET", "/secret", b"", {}, 404, ""),
        ("POST", "/v2/models/image_classifier/infer", b"secret", {}, 400, "the body is not JSON"),
        ("POST", "/v2/models/image_classifier/infer", b"[" * 100_000, {}, 400, "the body is not JSON"),
        ("POST", "/v2/models/image_classifier/infer", b'{"inputs": [{"shape": [1]}]}', {}, 400, "inputs: expected"),
        ("POST", "/v2/models/secret/infer", b"{}", {}, 404, "there is one model"),
        ("GET", "/livez", b"", {"Host": "digits.example.org"}, 421, "does not answer to that Host"),
        ("GET", "/livez", b"", {"Host": "[secret"}, 421, "does not answer to that Host"),
        ("GET", "/livez", b"", {"Origin": "https://example.org"}, 403, "requests from other websites are refused"),
        ("GET", "/livez", b"", {"Origin": "http://[secret"}, 403, "requests from other websites are refused"),
    ],
)
def test_a_malformed_request_is_refused_without_an_echo(
    server: Server, method: str, path: str, body: bytes, headers: Any, status: int, reason: str
) -> None:
    if isinstance(headers, str):
        headers = {"Content-Type": headers}
    found, answer = server.ask(method, path, body, headers)
    assert found == status
    assert list(answer) == ["error"]
    assert reason in answer["error"]
    assert "secret" not in answer["error"]
    assert server.ask("GET", "/readyz") == (200, {"ready": True})


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: image/png\r\n"
        client.sendall(f"{head}Content-Length: 9999999999\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:  # without a length
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
        with contextlib.suppress(OSError):
            for _ in range(200):
                client.sendall(chunk)
        with contextlib.suppress(ConnectionError):  # it may have closed while we were sending
            assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_metrics_count_what_was_asked(server: Server, files: list[bytes]) -> None:
    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", server.ask("GET", "/metrics")[1], re.M)
        return float(found[1]) if found else 0.0

    before = value('mnist_cls_requests_total{status="415"}'), value("mnist_cls_batch_images_sum")
    server.ask("POST", "/predict", b"x")
    server.predict(*files)
    assert value('mnist_cls_requests_total{status="415"}') == before[0] + 1
    assert value("mnist_cls_batch_images_sum") == before[1] + len(files)
    assert value('mnist_cls_seconds_count{stage="decode"}') > 0
    assert value("mnist_cls_waiting_images") == 0


def test_no_pytorch_in_the_server(server: Server) -> None:
    assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_decoder_is_replaced(files: list[bytes]) -> None:
    with Server() as server:
        assert server.predict(files[0])[0] == 200
        for victim in children(server.process.pid):
            os.kill(victim, signal.SIGKILL)
        for _ in range(4):
            status, answer = server.predict(*files[:4])
            assert status == 200
        assert [row["error"] for row in answer["predictions"]] == [None] * 4
        status, errors = server.stop()
        assert status == 128 + signal.SIGTERM
        assert "Traceback" not in errors


def test_nothing_waits_for_a_client_that_has_left(files: list[bytes]) -> None:
    with Server() as server:
        body, kind = multipart(tuple(files))
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: {kind}\r\n"
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
                client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert server.predict(files[0])[0] == 200
        counted = server.ask("GET", "/metrics")[1]
        assert re.search(r"^mnist_cls_waiting_images 0\.0$", counted, re.M)
        assert 'status="499"' in counted
        assert 'status="5' not in counted
        assert "Traceback" not in server.stop()[1]


def test_accepted_requests_are_answered_after_sigterm(files: list[bytes]) -> None:
    with Server() as server:
        accepted = threading.Barrier(9)
        large = [np.kron(255 - np.asarray(Image.open(io.BytesIO(files[-1]))), np.ones((60, 60), np.uint8))] * 8
        contents = [png(pixels) for pixels in large]

        def ask(content: bytes) -> int:
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
                head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: image/png\r\n"
                client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
                accepted.wait()
                return int(client.recv(100).split()[1])

        with ThreadPoolExecutor(8) as clients:
            answers = [clients.submit(ask, content) for content in contents]
            accepted.wait()
            time.sleep(0.1)  # so that all are accepted
            pid = server.process.pid
            before = children(pid)
            status, errors = server.stop()
            assert [answer.result() for answer in answers] == [200] * 8
        assert status == 128 + signal.SIGTERM
        assert "Traceback" not in errors
        assert [child for child in before if Path(f"/proc/{child}/stat").exists()] == []


def test_too_much_at_once_is_refused_and_the_rest_answered(files: list[bytes]) -> None:
    with Server() as server:
        body, kind = multipart(tuple(files * 10))  # 240 images
        with ThreadPoolExecutor(12) as clients:
            asked = [clients.submit(server.ask, "POST", "/predict", body, {"Content-Type": kind}) for _ in range(12)]
            answers = [one.result() for one in asked]
        statuses = [status for status, _ in answers]
        assert set(statuses) == {200, 503}
        for status, answer in answers:
            assert (
                answer == {"error": "too many images are waiting"}
                if status == 503
                else len(answer["predictions"]) == 240
            )
        assert server.predict(files[0])[0] == 200
        server.stop()


def test_mutated_requests_cost_the_server_nothing(server: Server, files: list[bytes]) -> None:
    body, kind = multipart(tuple(files[-2:]))
    head = f"POST /predict?split=false HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: {kind}\r\n"
    whole = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    random = np.random.default_rng(0)
    statuses = set()
    for _ in range(100):
        mutated = bytearray(whole)
        for _ in range(random.integers(1, 8)):
            place = int(random.integers(len(head) + 60)) if random.random() < 0.7 else int(random.integers(len(whole)))
            mutated[place : place + int(random.integers(0, 3))] = random.bytes(int(random.integers(0, 3)))
        with socket.create_connection(("127.0.0.1", server.port), timeout=0.5) as client:
            client.sendall(mutated)
            with contextlib.suppress(TimeoutError):  # the server waits for the rest
                statuses.add(client.recv(1000)[9:12])
    assert not [status for status in statuses if status.startswith(b"5")]
    assert {b"200", b"400"} <= statuses
    assert server.ask("GET", "/readyz") == (200, {"ready": True})


def test_a_wrong_command_is_one_line(run: Run, server: Server) -> None:
    one_line(run("serve", f"port={server.port}"), f"port={server.port}: Address already in use; choose another port")
    one_line(run("serve", "port=99999"), "port=99999: expected 0 to 65535")
    one_line(run("serve", "checkpoint=nowhere"), "checkpoint=nowhere: no such file")
    one_line(run("serve", "checkpoint=autoencoder"), "pass it as is_digit=")
