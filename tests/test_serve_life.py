"""A server with several workers and with slow clients, and its shutdown."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Run, one_line
from .test_serve import Server, children, multipart, png


@pytest.fixture(scope="module")
def content(digits: np.ndarray) -> bytes:
    """An image file."""
    return png(digits[0])


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers use the test's folder for temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for a condition; return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return found + [one for child in found for one in descendants(child)]


def left_over(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()]


def two_workers(server: Server, *gone: int) -> list[int]:
    """Wait for two workers other than those in `gone` that have decoders, and so can answer; return them."""
    found: list[int] = []

    def complete() -> bool:
        with contextlib.suppress(FileNotFoundError):  # a process has just died
            found[:] = [child for child in children(server.process.pid) if children(child)]
        return len(found) == 2 and not {*found} & {*gone}

    assert until(complete), server.stop()[1]
    return found


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Suspend processes in the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def count(server: Server, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", server.ask("GET", "/metrics")[1], re.M)
    return float(found[1]) if found else -1.0


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def get(server: Server, client: socket.socket, path: str, *headers: str) -> int:
    """Send a GET request on an open connection; return the status of the answer."""
    client.sendall("\r\n".join([f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *headers, "", ""]).encode())
    return status_of(client)


def status_of(client: socket.socket) -> int:
    """Read an answer, and return its status."""
    with http.client.HTTPResponse(client) as answer:
        answer.begin()
        answer.read()
        return answer.status


def test_the_metrics_of_any_worker_are_those_of_all(content: bytes) -> None:
    with Server("workers=2") as server:
        first, second = two_workers(server)
        seen = []
        for idle in (first, second):
            with stopped(idle):
                assert [server.predict(content)[0] for _ in range(3)] == [200] * 3
                seen.append(count(server, "mnist_cls_batch_images_sum"))
        assert seen == [3, 6]


def test_a_killed_worker_is_replaced_and_the_other_one_answers(content: bytes) -> None:
    with Server("workers=2") as server, ThreadPoolExecutor(8) as clients:
        killed, other = two_workers(server)
        with stopped(other, *children(killed)):  # so that images are waiting in the worker that is killed
            body, kind = multipart((content,) * 200)
            asked = [clients.submit(server.ask, "POST", "/predict", body, {"Content-Type": kind}) for _ in range(3)]
            assert until(lambda: count(server, "mnist_cls_waiting_images") > 0)
            os.kill(killed, signal.SIGKILL)
        for request in asked:
            with contextlib.suppress(OSError):
                request.result()
        assert [server.predict(content)[0] for _ in range(10)] == [200] * 10
        assert other in two_workers(server, killed)
        assert count(server, "mnist_cls_waiting_images") == 0
        with stopped(other):  # so that it dies during a health check
            time.sleep(1.5)
            os.kill(other, signal.SIGKILL)
        two_workers(server, killed, other)
        status, errors = server.stop()
        assert status == 128 + signal.SIGTERM
        assert f"worker {killed} has died" in errors
        assert "Traceback" not in errors


def test_metrics_wait_for_the_files_of_a_worker_that_starts(tmp_path: Path) -> None:
    code = (
        "import sys, threading; from pathlib import Path; from mnist_cls.serving.metrics import Metrics;"
        "metrics = Metrics(); metrics.finished(200, 0.1); file = Path(sys.argv[1], 'counter_999999.db'); file.touch();"
        "threading.Timer(0.05, file.unlink).start(); print(metrics.text().decode())"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert 'mnist_cls_requests_total{status="200"} 1.0' in done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_answer_what_they_have_accepted_and_leave_nothing(
    number: signal.Signals, content: bytes, tmp_path: Path
) -> None:
    with Server("workers=2") as server, ThreadPoolExecutor(8) as clients:
        workers = two_workers(server)
        all_of_them = descendants(server.process.pid)
        assert len([*tmp_path.iterdir()]) == 1
        with stopped(*(decoder for worker in workers for decoder in children(worker))):
            asked = [clients.submit(server.predict, content) for _ in range(8)]
            time.sleep(0.5)  # so that all are accepted
            if number == signal.SIGINT:
                os.killpg(server.process.pid, number)  # to all processes, as from a terminal
            else:
                server.process.send_signal(number)
            time.sleep(1)
        assert [request.result()[0] for request in asked] == [200] * 8
        status, errors = server.wait()
        assert status == 128 + number
        assert "Traceback" not in errors
        assert until(lambda: not left_over(all_of_them), 5)
        assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_status_names_the_signal_even_where_it_is_ignored(workers: int, number: signal.Signals) -> None:
    # A shell starts background jobs with the signal ignored. A container's first process ignores it, too.
    command = f"trap '' INT TERM; exec {sys.executable} -m mnist_cls.serve port=0 workers={workers}"
    process = subprocess.Popen(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert "/predict" in process.stdout.readline()
        time.sleep(0.5 if workers == 1 else 4)  # until it handles signals
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "address"),
    [
        (["host=0.0.0.0"], "http://localhost:"),
        (["host=0.0.0.0", "hosts=[digits.example.org]"], "http://digits.example.org:"),
        (["host='::1'"], "http://[::1]:"),
    ],
)
def test_the_address_that_it_prints_can_be_opened(options: list[str], address: str) -> None:
    command = [sys.executable, "-m", "mnist_cls.serve", "port=0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    assert f": open {address}" in line


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    with Server("workers=2") as server:
        two_workers(server)
        all_of_them = descendants(server.process.pid)
        server.process.kill()
        assert until(lambda: not left_over(all_of_them), 10)
        assert [*tmp_path.iterdir()] == []


def test_workers_that_cannot_start_are_one_line(run: Run) -> None:
    one_line(run("serve", "workers=2", "port=0", "checkpoint=autoencoder"), "pass it as is_digit=")
    one_line(run("serve", "workers=0"), "workers=0: expected 1 to 64")
    one_line(run("serve", "workers=65"), "workers=65: expected 1 to 64")


def test_clients_with_slow_headers_are_cut_off_and_others_are_not() -> None:
    with Server() as server, contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        silent, dripping, later, blank, patient, kept = (stack.enter_context(connect(server)) for _ in range(6))
        for client in (later, blank, kept):
            assert get(server, client, "/livez") == 200
        dripping.sendall(b"GET /livez HTTP/1.1\r\nHost: ")
        later.sendall(b"GET /livez HTTP/1.1\r\nHost: ")
        patient.sendall(f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n".encode())
        drips = [(silent, b""), (dripping, b"a"), (later, b"a"), (blank, b"\r\n")]
        cut_off = [threads.submit(seconds_until_cut_off, client, drip) for client, drip in drips]
        time.sleep(6)
        patient.sendall(b"\r\n")
        assert status_of(patient) == 200
        for seconds in cut_off:
            assert 9 < seconds.result() < 12
        time.sleep(0.5)
        for client in (patient, kept):
            assert get(server, client, "/livez") == 200


def seconds_until_cut_off(client: socket.socket, drip: bytes) -> float:
    """Send a few bytes every half second until the server closes the connection, for at most 15 s."""
    start = time.monotonic()
    client.settimeout(0.5)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < start + 15:
            client.sendall(drip)
            with contextlib.suppress(TimeoutError):
                if not client.recv(100):
                    break
    return time.monotonic() - start


def test_a_server_that_ends_is_not_ready_and_answers_what_it_has_accepted(content: bytes) -> None:
    with Server() as server, ThreadPoolExecutor(1) as clients, connect(server) as kept:
        assert get(server, kept, "/readyz") == 200
        with stopped(*children(server.process.pid)):
            request = clients.submit(server.predict, content)
            time.sleep(0.5)  # so that it is accepted
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert get(server, kept, "/readyz") == 503
            assert kept.recv(100) == b""
            with pytest.raises(ConnectionRefusedError):
                connect(server)
        assert request.result()[0] == 200
        assert server.wait()[0] == 128 + signal.SIGTERM


def test_a_client_sees_its_connection_end_though_a_decoder_has_started_since(content: bytes) -> None:
    with Server() as server, connect(server) as kept:
        assert get(server, kept, "/livez") == 200
        assert server.predict(content, query="?split=true")[0] == 200  # has decoders of its own
        assert get(server, kept, "/livez", "Connection: close") == 200
        kept.settimeout(5)
        assert kept.recv(100) == b""
