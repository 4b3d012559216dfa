"""Who may ask, how much may be sent, and how long that may take."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .metrics import Metrics

# The largest body of a request, bytes.
MOST_BODY = 32_000_000

# A client that takes longer to send a body is cut off.
SECONDS_TO_SEND = 30

# Of every answer. The page runs its own scripts only, asks no other host, and cannot be framed.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """Checks who asks, limits the body, and counts requests by their status."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], metrics: Metrics) -> None:
        self.app, self.hosts, self.metrics = app, hosts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        problem = self._problem(headers)
        answering: Awaitable[None]
        if problem is not None:
            answering = problem(scope, receive, counted)
        else:
            answering = self.app(scope, _limited(receive), counted)
        try:
            await answering
        finally:
            self.metrics.finished(status, time.perf_counter() - start)

    def _problem(self, headers: dict[str, str]) -> Response | None:
        if _host_of(headers.get("host", "")) not in self.hosts:
            return json_error(421, "this server does not answer to that Host; start it with hosts=[NAME]")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers["host"]:
            return json_error(403, "requests of other websites are refused")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MOST_BODY:
            return _too_large()
        return None


def _host_of(header: str) -> str | None:
    """Return the name in a Host header, without the port; None if it is none."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:  # brackets that do not belong to an IPv6 address
        return None


def _limited(receive: Receive) -> Receive:
    """Return a `receive` that stops a body that is too long, or takes too long."""
    received, deadline = 0, time.monotonic() + SECONDS_TO_SEND
    complete = False

    async def limited() -> Any:
        nonlocal received, complete
        if complete:  # waiting for the client to leave
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:  # not the built-in one in Python 3.10
            raise HTTPException(408, f"the body took longer than {SECONDS_TO_SEND} s") from None
        received += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if received > MOST_BODY:
            raise HTTPException(413, f"the body is larger than {MOST_BODY:,} bytes")
        return message

    return limited


def json_error(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """Return the answer to a request that is refused."""
    return JSONResponse({"error": reason}, status, headers)


def _too_large() -> Response:
    return json_error(413, f"the body is larger than {MOST_BODY:,} bytes", {"Connection": "close"})
