"""The end of a server: when it begins, and which signal is the cause."""

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
    """Serve until SIGINT or SIGTERM, which uvicorn then raises again; return the signal if that is ignored."""
    server = _Server(config)
    server.run(sockets)
    if not server.started:  # and has said why
        sys.exit(STARTUP_FAILURE)
    return server.ended_by


class _Server(uvicorn.Server):
    """uvicorn's, which remembers the signal that ends it."""

    ended_by = signal.SIGTERM

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ended_by = signal.Signals(sig)
        super().handle_exit(sig, frame)


def before_ending(tell: Callable[[], None]) -> None:
    """Call `tell` as soon as a signal asks the server to end.

    uvicorn tells an application only when all requests have been answered. It removes its handlers of signals, and
    these with them, when it ends.
    """
    if threading.current_thread() is not threading.main_thread():  # where no server receives signals
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
