"""The beginning of a server's end."""

import signal
import threading
from collections.abc import Callable
from typing import Any


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
