"""Limits on requests: the accepted hosts and origins, and the size and duration of a body."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .metrics import Metrics

# Maximum size of a request's body, in bytes.
MOST_BODY = 32_000_000

# Time limit for sending a body. A slower client gets status 408.
SECONDS_TO_SEND = 30

# Headers of every answer. The page runs only its own scripts, contacts no other host, and cannot be framed.
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
    """Middleware that checks Host and Origin, limits the body, and counts requests by status."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], metrics: Metrics) -> None:
        self.app, self.hosts, self.metrics = app, hosts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with status 421, 403, 413 or 408."""
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
            return json_error(403, "requests from other websites are refused")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MOST_BODY:
            return _too_large()
        return None


def _host_of(header: str) -> str | None:
    """Return the name in a Host header, without the port; None if there is none."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:  # brackets around something other than an IPv6 address
        return None


def _limited(receive: Receive) -> Receive:
    """Return a `receive` that refuses a body that is too large (413), or takes too long (408)."""
    received, deadline = 0, time.monotonic() + SECONDS_TO_SEND
    complete = False

    async def limited() -> Any:
        nonlocal received, complete
        if complete:  # Starlette now waits for the client to disconnect
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
    """Return the answer to a refused request."""
    return JSONResponse({"error": reason}, status, headers)


def _too_large() -> Response:
    return json_error(413, f"the body is larger than {MOST_BODY:,} bytes", {"Connection": "close"})
