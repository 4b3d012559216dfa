"""Several worker processes on one port, which uvicorn starts, watches and replaces."""

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context, parent_process
from tempfile import TemporaryDirectory

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from ..errors import InputError
from ..inference.options import PredictOptions
from ..inference.predictor import load_predictor
from .metrics import FOLDER

# A worker that does not react for this long is replaced. A starting worker may have to wait for a core.
_SECONDS_TO_REACT = 60


def check(options: PredictOptions) -> None:
    """Load the network once before the workers start, so that they do not all report an error or export the network.

    A separate process loads it, which leaves no memory allocated here or on a GPU. If it fails, it prints the error,
    and this process exits with status 2.
    """
    trial = get_context("spawn").Process(target=_try, args=(options,))
    trial.start()
    trial.join()
    if trial.exitcode:
        sys.exit(2)


def run_workers(
    number: int,
    build: Callable[[int], Starlette],
    config: Callable[..., uvicorn.Config],
    sockets: list[socket.socket],
) -> signal.Signals:
    """Serve from several processes until SIGINT or SIGTERM, which is then raised again in this one.

    Returns the signal if it is ignored.

    Args:
        number: number of workers.
        build: creates the application in a worker, given its maximum number of decoding processes; can be pickled.
        config: creates uvicorn's config.
        sockets: listening sockets.
    """
    handlers = {end: signal.getsignal(end) for end in (signal.SIGINT, signal.SIGTERM)}
    with TemporaryDirectory(prefix="mnist_cls-") as folder:
        cores = max(1, _cores() // number)
        os.environ[FOLDER] = folder
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
        app = partial(_in_worker, build, cores)
        settings = config(app, factory=True, workers=number, timeout_worker_healthcheck=_SECONDS_TO_REACT)
        supervisor = _Supervisor(settings, sockets)
        supervisor.run()
    if supervisor.ended_by is None:  # a worker could not start, and has said why
        sys.exit(2)
    signal.signal(supervisor.ended_by, handlers[supervisor.ended_by])
    signal.raise_signal(supervisor.ended_by)
    return supervisor.ended_by


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which also records the signal that ends it, and no longer counts images of dead workers."""

    ended_by: signal.Signals | None = None

    def handle_int(self) -> None:
        self.ended_by = signal.SIGINT
        super().handle_int()

    def handle_term(self) -> None:
        self.ended_by = signal.SIGTERM
        super().handle_term()

    def terminate_all(self) -> None:
        super().terminate_all()
        for listening in self.sockets:  # otherwise clients could still connect until all workers have ended
            listening.close()

    def keep_subprocess_alive(self) -> None:
        for process in self.processes:  # the worker's end of a pipe; with it open, uvicorn would wait for a dead worker
            process.child_conn.close()
        before = [process.pid for process in self.processes]
        super().keep_subprocess_alive()
        after = [process.pid for process in self.processes]
        for dead in {*before} - {*after}:
            print(f"worker {dead} has died; another one takes its place", file=sys.stderr, flush=True)
            mark_process_dead(dead)  # type: ignore[no-untyped-call]


def _try(options: PredictOptions) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes in a terminal; the parent reports it
    with _reporting():
        load_predictor(options)


def _in_worker(build: Callable[[int], Starlette], cores: int) -> Starlette:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with _reporting():
        return build(cores)


@contextlib.contextmanager
def _reporting() -> Iterator[None]:
    """Report bad input in one line, and exit with the status that tells uvicorn to start no more workers."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(STARTUP_FAILURE)


def _end_with_parent() -> None:
    """When the parent has been killed, remove its folder and end this process, as nothing else would."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(os.environ[FOLDER], ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
