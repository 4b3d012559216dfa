"""Decoding on all cores beside the network, in processes that may die without taking the run along."""

import contextlib
import faulthandler
import math
import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from ...errors import InputError
from ..sources.blocks import Content
from .decode import Job, decode

# A decoder that needs longer for one image is stopped.
SECONDS = 30


# Further jobs are sent to a process that is busy while they fit into the pipe between us with room to spare; a larger
# one waits until the process is free. Otherwise both could wait for the other to read.
_PIPE_BYTES, _AHEAD = 6_000, 8


# What may lie in memory, on its way to a process or waiting for its turn: jobs for each process, and bytes.
_JOBS_EACH, _MOST_BYTES = 16, 128_000_000


# A process for so many inputs.
_INPUTS_EACH = 64


# Where processes cannot be forked, one takes as long to start as it takes to decode some thousand images.
_WORTH_SPAWNING = 2000


# After so many deaths that none of its inputs can be blamed for, a job is given up.
_MOST_LOSSES = 3


class Decoders:
    """Processes that decode, as a context.

    They are forked where that is possible, so that they have what this process has imported. They never call torch,
    whose threads do not survive a fork.

    Args:
        preprocess: see `prepare`.
        split: see `prepare`.
        most: no more processes than this; None: as many as there are cores.
    """

    def __init__(self, preprocess: str, split: bool, most: int | None = None) -> None:
        self.preprocess, self.split, self.most = preprocess, split, most
        self.workers: list[_Worker] = []
        self.forks = sys.platform == "linux"
        self.context: Any = multiprocessing.get_context("fork" if self.forks else "spawn")

    def start(self, count: int | None) -> None:
        """Start as many processes as `count` inputs are worth; None: they are many."""
        may_not = multiprocessing.current_process().daemon
        if self.workers or may_not or not (self.forks or count is None or count >= _WORTH_SPAWNING):
            return
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = min(cores, self.most or cores)
        for _ in range(cores if count is None else min(cores, math.ceil(count / _INPUTS_EACH))):
            self.workers.append(self._worker())

    def __enter__(self) -> "Decoders":
        """Nothing to do: many inputs need no decoder."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop all processes, whatever they are doing."""
        for worker in self.workers:
            worker.stop()
        self.workers = []

    def map(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Yield the jobs in their order, each with its result."""
        coming = iter(jobs)
        for job in coming:
            if job.result is None:
                self.start(None)
                if self.workers:
                    yield from self._side_by_side(job, coming)
                    return
                job.finish(decode(job.contents, self.preprocess, self.split))
            yield job

    def _side_by_side(self, first: Job, coming: Iterator[Job]) -> Iterator[Job]:
        order, waiting = deque([first]), deque([first])
        more, failure = True, None
        while order:
            while more and len(order) < _JOBS_EACH * len(self.workers) and sum(j.size for j in order) < _MOST_BYTES:
                try:
                    job = next(coming, None)
                except Exception as error:  # what came before it is to be kept
                    job, failure = None, error
                if job is None:
                    more = False
                    break
                order.append(job)
                if job.result is None:
                    waiting.append(job)
            self._send(waiting)
            self._receive(waiting, block=order[0].result is None)
            while order and order[0].result is not None:
                yield order.popleft()
                if waiting or more:
                    break  # see first that the processes have something to do
        if failure is not None:
            raise failure

    def _send(self, waiting: deque[Job]) -> None:
        while waiting:
            worker = min(self.workers, key=lambda worker: (len(worker.jobs), worker.size))
            if not worker.takes(waiting[0]):
                return
            job = waiting.popleft()
            if not worker.send(job):
                self._bury(worker, waiting)

    def _receive(self, waiting: deque[Job], block: bool) -> None:
        busy = {worker.connection: worker for worker in self.workers if worker.jobs}
        for connection in wait(list(busy), None if block else 0):
            worker = busy[connection]
            try:
                worker.jobs[0].finish(worker.connection.recv())
            except (EOFError, OSError):
                self._bury(worker, waiting)
            else:
                worker.jobs.popleft()

    def _bury(self, worker: "_Worker", waiting: deque[Job]) -> None:
        """Replace a dead process; what it was looking at becomes an error, the rest of its jobs is done again."""
        with contextlib.suppress(EOFError, OSError):
            while worker.connection.poll():  # what it had done before is not lost
                worker.jobs[0].finish(worker.connection.recv())
                worker.jobs.popleft()
        worker.process.join()
        reason = InputError(_cause(worker.process.exitcode))
        place = worker.place.value
        if worker.jobs and place >= 0:
            worker.jobs[0].contents[place] = reason
        elif worker.jobs:
            worker.jobs[0].losses += 1
            if worker.jobs[0].losses == _MOST_LOSSES:
                worker.jobs[0].contents[:] = [reason] * len(worker.jobs[0].contents)
        waiting.extendleft(reversed(worker.jobs))
        worker.stop()
        self.workers[self.workers.index(worker)] = self._worker()

    def _worker(self) -> "_Worker":
        return _Worker(
            self.context, (self.preprocess, self.split), [worker.connection for worker in self.workers if self.forks]
        )


class _Worker:
    """One process, and what it was given to do."""

    def __init__(self, context: Any, options: tuple[str, bool], others: list[Connection]) -> None:
        self.jobs: deque[Job] = deque()
        self.place = context.RawValue("i", -1)
        self.connection, other_end = context.Pipe()
        inherited = [*others, self.connection] if sys.platform == "linux" else []
        arguments = other_end, self.place, options, inherited
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        with warnings.catch_warnings():
            # Python warns of forks in a process with threads: the child could wait for a lock that none of its threads
            # holds. Ours takes no locks of torch's.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        other_end.close()

    @property
    def size(self) -> int:
        return sum(job.size for job in self.jobs)

    def takes(self, job: Job) -> bool:
        return not self.jobs or (len(self.jobs) < _AHEAD and self.size + job.size <= _PIPE_BYTES)

    def send(self, job: Job) -> bool:
        """Whether the process still lives."""
        self.jobs.append(job)
        try:
            self.connection.send(job.contents)
        except OSError:
            return False
        return True

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


def _work(connection: Connection, place: Any, options: tuple[str, bool], inherited: list[Connection]) -> None:
    """Decode what comes, until nothing comes any more or the process at the other end is gone."""
    for other in inherited:
        other.close()  # held open here, they would not tell the others that the process at their end is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()  # of a decoder's death its row tells
    alarm = getattr(signal, "alarm", lambda seconds: None)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also in the midst of a decoder's C code

    parent = os.getppid()

    def before(number: int) -> None:
        if os.getppid() != parent:
            os._exit(0)  # nobody waits for the result any more
        place.value = number
        alarm(SECONDS)

    try:
        while True:
            contents: list[Content] = connection.recv()
            decoded = decode(contents, *options, before)
            alarm(0)
            place.value = -1
            connection.send(decoded)
    except (EOFError, OSError):
        return


def _cause(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"its decoder ended with status {exit_code}"
    name = signal.Signals(-exit_code).name
    if name == "SIGALRM":
        return f"its decoder was stopped after {SECONDS} s"
    return f"its decoder died by {name}" + (": was memory short?" if name == "SIGKILL" else "")
