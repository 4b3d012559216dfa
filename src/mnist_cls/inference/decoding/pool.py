"""Decoding on all cores beside the network, in processes that may die without ending the run.

Why not a library: when a process dies, `concurrent.futures` fails all its tasks, and `multiprocessing.Pool` waits for
the lost one forever. `pebble.ProcessPool` survives a crash within a task, but its processes share a pipe and locks: of
24 runs in which one process was killed at a random moment, 4 did not end. Here each process has a pipe of its own.
"""

import contextlib
import faulthandler
import gc
import math
import multiprocessing
import os
import queue
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...memory import keep_freed_memory
from ..sources.blocks import Content, InputBlock
from .decode import NOTHING, Decoded, concatenate, decode, undecoded

# A process that takes longer for one image is stopped.
SECONDS = 30

# Blocks that are read ahead for each process, and bytes for all of them.
_BLOCKS_AHEAD, _BYTES_AHEAD = 16, 128_000_000

# Number of inputs for each process that is started, up to one process for each core.
_INPUTS_EACH = 64

# Up to this many images in memory, with this many pixels in all, are analysed in less time than a process takes to
# start. Files always go to another process, because a broken one can crash its decoder.
_FEW_IMAGES, _FEW_PIXELS = 8, 200_000

# Where processes cannot be forked, starting one takes as long as decoding some thousand images; fewer are decoded here.
_WORTH_SPAWNING = 2000

# Held while a process starts or ends, so that none inherits a pipe that is only half set up, and no thread collects the
# exit code that another one waits for: `Process.start` collects those of all ended processes.
_STARTING = threading.Lock()


class Decoders:
    """A context manager with processes that decode. They start when they are needed: arrays in MNIST's form need none.

    On Linux they are forked, so that they need no imports of their own. They never call PyTorch, whose threads do not
    survive a fork.

    Args:
        preprocess: see `prepare`.
        split: whether images show rows of digits, see `prepare`.
        most: maximum number of processes; None: one for each core.
        count: number of inputs that will follow; None if unknown.
    """

    def __init__(self, preprocess: str, split: bool, most: int | None = None, count: int | None = None) -> None:
        self.preprocess, self.split, self.most, self.count = preprocess, split, most, count
        self._workers: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def start(self, count: int | None) -> None:
        """Start as many processes as `count` inputs need; None, an unknown number, starts the maximum."""
        forks = sys.platform == "linux"
        is_daemon = multiprocessing.current_process().daemon  # a daemon process cannot have children
        if self._workers or is_daemon or not (forks or count is None or count >= _WORTH_SPAWNING):
            return
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        most = min(cores, self.most or cores)
        most = most if count is None else max(1, min(most, math.ceil(count / _INPUTS_EACH)))
        context = multiprocessing.get_context("fork" if forks else "spawn")
        self._idle = queue.SimpleQueue()
        with _STARTING:
            for _ in range(most):
                self._workers.append(_Worker(context, self.preprocess, self.split))
                self._idle.put(self._workers[-1])
        # Each thread waits for one process and hands it the next block at once, even while the main thread is busy.
        self._threads = ThreadPoolExecutor(most)

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *error: object) -> None:
        """Stop all processes, whatever they are doing."""
        for worker in self._workers:
            worker.stop()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._workers, self._threads = [], None

    @property
    def size(self) -> int:
        """The number of processes."""
        return len(self._workers)

    def submit(self, contents: list[Content]) -> Future[Decoded]:
        """Decode in a process as soon as one is idle; raise a RuntimeError if none has been started."""
        if self._threads is None:
            raise RuntimeError("no decoder has been started")
        return self._threads.submit(self._decode, contents)

    def map(self, blocks: Iterable[InputBlock]) -> Iterator[tuple[InputBlock, Decoded]]:
        """Yield the blocks in their order, each with its images."""
        remaining, failure, pending_bytes = iter(blocks), None, 0
        pending: deque[tuple[InputBlock, Callable[[], Decoded]]] = deque()
        more = True
        while more or pending:
            has_room = len(pending) < _BLOCKS_AHEAD * len(self._workers) and pending_bytes < _BYTES_AHEAD
            if more and (has_room or not pending):
                try:
                    block = next(remaining, None)
                except Exception as error:  # raised after the earlier blocks have been yielded
                    block, failure = None, error
                if block is None:
                    more = False
                else:
                    pending_bytes += block.size
                    pending.append((block, self._submit(block)))
            else:
                block, result = pending.popleft()
                pending_bytes -= block.size
                yield block, result()
        if failure is not None:
            raise failure

    def _submit(self, block: InputBlock) -> Callable[[], Decoded]:
        """Start decoding a block; return a function that waits for its images."""
        contents, complete = undecoded(block, self.preprocess, self.split)
        if not contents:
            return partial(complete, NOTHING)
        if not self._workers and not _is_quick(contents):
            self.start(self.count)
        if self._threads is None:
            return partial(complete, decode(contents, self.preprocess, self.split))
        future = self.submit(contents)
        return lambda: complete(future.result())

    def _decode(self, contents: list[Content], is_retry: bool = False) -> Decoded:
        """Decode in a process. If it dies, decode one by one: the content that kills it again is to blame."""
        worker = self._idle.get()
        try:
            return worker.decode(contents)
        except (EOFError, OSError):
            reason = InputError(worker.restart())
        finally:
            self._idle.put(worker)
        if is_retry:
            return decode([reason], self.preprocess, self.split)
        return concatenate([self._decode([content], is_retry=True) for content in contents])


class _Worker:
    """One process, which is started again when it dies. Made while `_STARTING` is held.

    Args:
        context: how processes are started.
        options: `preprocess` and `split`, see `decode`.
    """

    def __init__(self, context: Any, *options: Any) -> None:
        self._context, self._options = context, options
        self._stopped = False
        self._start()

    def _start(self) -> None:
        self._connection, other_end = self._context.Pipe()
        arguments = other_end, self._connection, os.getpid(), *self._options
        self._process = self._context.Process(target=_work, args=arguments, daemon=True)
        with warnings.catch_warnings():
            # Python warns about forking a process with threads: the child could wait for a lock that none of its
            # threads holds. Decoders take no locks of PyTorch.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        other_end.close()

    def decode(self, contents: list[Content]) -> Decoded:
        """Decode in the process; raise an EOFError or an OSError if it has died."""
        self._connection.send(contents)
        decoded: Decoded = self._connection.recv()
        return decoded

    def restart(self) -> str:
        """Replace the dead process, and return the cause of its death; raise a RuntimeError if it was stopped."""
        with _STARTING:
            if self._stopped:
                raise RuntimeError("the decoders have been stopped")
            self._process.join()
            cause = _cause(self._process.exitcode)
            self._connection.close()
            self._start()
        return cause

    def stop(self) -> None:
        with _STARTING:
            self._stopped = True
            self._process.kill()
            self._process.join()


def _is_quick(contents: list[Content]) -> bool:
    sizes = [content.size for content in contents if isinstance(content, np.ndarray)]
    return len(sizes) == len(contents) <= _FEW_IMAGES and sum(sizes) <= _FEW_PIXELS


def _work(connection: Connection, other_end: Connection, parent: int, preprocess: str, split: bool) -> None:
    """Decode what arrives, until the process at the other end has ended."""
    other_end.close()  # or sending to a dead parent would wait forever
    _close_inherited(connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()  # a crash of the decoder is reported in the input's row
    warnings.simplefilter("ignore")  # so is a broken file
    keep_freed_memory()  # otherwise a seventh of the time for a photo is spent on new pages from the kernel
    alarm = getattr(signal, "alarm", lambda seconds: None)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside C code

    def check_parent() -> None:
        if os.getppid() != parent:
            os._exit(0)  # nobody waits for the result

    def watched(contents: list[Content]) -> Iterator[Content]:
        for content in contents:
            check_parent()
            alarm(SECONDS)
            yield content

    with contextlib.suppress(EOFError, OSError):
        while True:
            # Processes that were forked later also hold the other end open, so it can stay open after the parent died.
            while not connection.poll(1):
                check_parent()
            decoded = decode(watched(connection.recv()), preprocess, split)
            alarm(0)
            connection.send(decoded)


def _close_inherited(connection: Connection) -> None:
    """Close the files that a forked process inherited: a server's clients would not see it close their connections."""
    gc.freeze()  # otherwise the parent's garbage could later close a descriptor that another file has by then
    with contextlib.suppress(OSError):  # no /proc, as on systems where nothing is forked
        for path in Path("/proc/self/fd").iterdir():
            number = int(path.name)
            if number > 2 and number != connection.fileno():
                with contextlib.suppress(OSError):  # the descriptor of this listing, closed by now
                    os.close(number)


def _cause(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"its decoder ended with status {exit_code}"
    name = signal.Signals(-exit_code).name
    if name == "SIGALRM":
        return f"its decoder was stopped after {SECONDS} s"
    return f"its decoder was killed by {name}" + ("; was memory short?" if name == "SIGKILL" else "")
