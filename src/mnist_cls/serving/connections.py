"""The connection of one client: a time limit for its headers, and its end when the server shuts down."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Time limit for the headers, counted from the connection or from the first byte of a later request. A slower client is
# disconnected.
SECONDS_FOR_HEADERS = 10

# An idle connection is kept for longer than the 60 s of nginx and of load balancers, which would otherwise sometimes
# send a request on a connection that is just being closed.
SECONDS_IDLE = 75

# How often an idle connection checks during shutdown whether all other requests have been answered, in seconds.
_SECONDS_BETWEEN_LOOKS = 0.05


class Connection(HttpToolsProtocol):
    """uvicorn's connection with a time limit for the headers, which uvicorn 0.54 lacks."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._until_headers: asyncio.TimerHandle | None = None
        self._is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first headers."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the timer if a later request begins, because uvicorn stops its timer for idle connections then."""
        super().data_received(data)
        if self._is_idle() and self._until_headers is None and not self.transport.is_closing():
            self._await_headers()

    def on_headers_complete(self) -> None:
        """Stop the timer; during shutdown, close the connection after this request."""
        self._stop_waiting()
        super().on_headers_complete()
        if self._is_ending and self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close after the current request; if there is none, after the current requests of all other connections.

        Until then, an idle connection can send one more request, such as whether the server is ready.
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
