"""The connection of one client: how long its headers may take, and how it ends with the server."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# A client that takes longer from connecting, or from the first byte of a later request, to the end of the headers is
# cut off.
SECONDS_FOR_HEADERS = 10

# An idle connection is kept that long: longer than the 60 s of nginx and of load balancers, which otherwise would
# sometimes send a request to a connection that is just being closed.
SECONDS_IDLE = 75

# How often an idle connection of a server that ends looks whether all others have been answered, in seconds.
_SECONDS_BETWEEN_LOOKS = 0.05


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with a limit to the time of the headers, which uvicorn has not (0.54)."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._until_headers: asyncio.TimerHandle | None = None
        self._is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first headers."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the time for further headers if this is their beginning, which ends uvicorn's time for idle ones."""
        super().data_received(data)
        if self._is_idle() and self._until_headers is None and not self.transport.is_closing():
            self._await_headers()

    def on_headers_complete(self) -> None:
        """Stop the time."""
        self._stop_waiting()
        super().on_headers_complete()
        if self._is_ending and self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """End with the server: after the request that is being answered; if there is none, after those of others.

        Until then an idle connection may ask once more, whether the server is ready, for one.
        """
        self._is_ending = True
        if self._is_idle() and self.tasks and not self.transport.is_closing():
            self.loop.call_later(_SECONDS_BETWEEN_LOOKS, self.shutdown)
        else:
            super().shutdown()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_headers(self) -> None:
        self._until_headers = self.loop.call_later(SECONDS_FOR_HEADERS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._until_headers is not None:
            self._until_headers.cancel()
            self._until_headers = None
