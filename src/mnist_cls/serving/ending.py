"""Shutdown of a server: a callback when it begins, and the signal that caused it."""

import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE


def run_server(config: uvicorn.Config, sockets: list[socket.socket]) -> signal.Signals:
    """Serve until SIGINT or SIGTERM, which uvicorn raises again at the end; return the signal if it is ignored."""
    server = _Server(config)
    server.run(sockets)
    if not server.started:  # uvicorn has logged why
        sys.exit(STARTUP_FAILURE)
    return server.ended_by


class _Server(uvicorn.Server):
    """uvicorn's server, which also records the signal that ends it."""

    ended_by = signal.SIGTERM

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ended_by = signal.Signals(sig)
        super().handle_exit(sig, frame)


def before_ending(tell: Callable[[], None]) -> None:
    """Call `tell` as soon as a signal asks the server to end.

    uvicorn notifies an application only after all requests have been answered. When it ends, it restores the earlier
    signal handlers, which removes this one.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if callable(handler):
            signal.signal(number, _both(tell, handler))


def _both(tell: Callable[[], None], handler: Callable[..., Any]) -> Callable[..., None]:
    def handle(*arguments: Any) -> None:
        tell()
        handler(*arguments)

    return handle
