"""The HTTP application: its routes, and what a client gets."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import __version__
from ..errors import InputError
from ..images import CLASSES, SIZE
from ..inference.options import PredictOptions
from ..inference.predictor import Predictor
from .batches import Batcher, ClientLeftError, OverloadedError
from .metrics import Metrics
from .openapi import openapi

# The largest body of a request, bytes, and the most images in it.
MOST_BODY, MOST_FILES = 32_000_000, 256

# A client that takes longer to send a body is cut off.
SECONDS_TO_SEND = 30

# What an overloaded server asks a client to wait.
_RETRY_AFTER = "1"


def application(predictor: Predictor, options: PredictOptions, name: str, hosts: frozenset[str]) -> Starlette:
    """Return the application.

    Args:
        predictor: the network.
        options: defaults of the predictions.
        name: the network's name in the Open Inference Protocol.
        hosts: the names under which the server may be asked, so that no other website can have a browser ask it.
    """
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with Batcher(predictor, options.preprocess, metrics.observe) as batcher:
            app.state.batcher = batcher
            metrics.queue.set_function(lambda: len(batcher))
            app.state.ready = True
            yield
            app.state.ready = False

    async def predict(request: Request) -> Response:
        wished = _options(request, options)
        contents, names = await _files(request)
        batcher: Batcher = request.app.state.batcher
        try:
            rows = await batcher.predict(contents, names, wished, request.is_disconnected)
        except OverloadedError:
            raise HTTPException(503, "too many images are waiting", {"Retry-After": _RETRY_AFTER}) from None
        return JSONResponse({"predictions": rows})

    async def infer(request: Request) -> Response:
        if request.path_params["name"] != name:
            raise HTTPException(404, f"there is one model, {name}")
        # In a thread, because reading millions of numbers takes a second, in which others would wait.
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(None, _infer, predictor, name, await request.body())
        return JSONResponse(answer)

    async def model(request: Request) -> Response:
        if request.path_params["name"] != name:
            raise HTTPException(404, f"there is one model, {name}")
        return JSONResponse(
            {
                "name": name,
                "versions": [__version__],
                "platform": predictor.engine.name,
                "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, SIZE, SIZE]}],
                "outputs": [
                    {"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]},
                    {"name": "label", "datatype": "INT64", "shape": [-1]},
                ],
            }
        )

    async def server(request: Request) -> Response:
        return JSONResponse({"name": "mnist_cls", "version": __version__, "extensions": []})

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        is_ready = bool(request.app.state.ready)
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def counters(request: Request) -> Response:
        return Response(metrics.text(), media_type=metrics.media_type)

    async def described(request: Request) -> Response:
        return JSONResponse(openapi())

    app = Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/livez", live),
            Route("/readyz", ready),
            Route("/metrics", counters),
            Route("/openapi.json", described),
            Route("/v2", server),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", ready),
            Route("/v2/models/{name}", model),
            Route("/v2/models/{name}/ready", ready),
            Route("/v2/models/{name}/infer", infer, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: _error,
            InputError: _refused,
            ClientDisconnect: _left,
            ClientLeftError: _left,
        },
        middleware=[Middleware(_Guard, hosts=hosts, metrics=metrics)],
        lifespan=lifespan,
    )
    app.state.ready = False
    return app


class _Guard:
    """Checks who asks, limits the body, and counts requests by their status."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], metrics: Metrics) -> None:
        self.app, self.hosts, self.metrics = app, hosts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
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
            return _json_error(421, "this server does not answer to that Host; start it with hosts=[NAME]")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers["host"]:
            return _json_error(403, "requests of other websites are refused")
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


async def _files(request: Request) -> tuple[list[bytes], list[str]]:
    """Return the images of a request, and their names."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=MOST_FILES, max_fields=0) as form:
            files = [value for value in form.getlist("files") if isinstance(value, UploadFile)]
            if not files or len(files) != len(form.multi_items()):
                raise HTTPException(400, "expected one or more files in the field 'files'")
            return [await file.read() for file in files], [file.filename or str(i) for i, file in enumerate(files)]
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise HTTPException(415, "expected Content-Type: image/..., or multipart/form-data with the field 'files'")
    body = await request.body()
    if not body:
        raise HTTPException(400, "the body is empty; expected the bytes of an image file")
    return [body], ["0"]


def _options(request: Request, defaults: PredictOptions) -> PredictOptions:
    query = request.query_params
    if unknown := query.keys() - {"split", "min_confidence"}:
        raise HTTPException(400, f"expected split and min_confidence, found {len(unknown)} other parameters")
    split, threshold = query.get("split", "false").lower(), query.get("min_confidence")
    if split not in ("true", "false"):
        raise HTTPException(400, "split: expected true or false")
    try:
        confidence = defaults.min_confidence if threshold is None else float(threshold)
    except ValueError:
        raise HTTPException(400, "min_confidence: expected a number from 0 to 1") from None
    return PredictOptions(
        is_digit=defaults.is_digit if split == "false" else False,
        min_confidence=confidence,
        preprocess=defaults.preprocess,
        split=split == "true",
    )


def _infer(predictor: Predictor, name: str, body: bytes) -> dict[str, Any]:
    """Answer an inference request, JSON."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON") from None
    if not isinstance(asked, dict):
        raise HTTPException(400, "expected a JSON object")
    images = _tensor(asked)
    predictions = predictor.classify_prepared(images)
    outputs = [
        _output("probabilities", "FP32", [len(images), CLASSES], predictions.probabilities.ravel()),
        _output("label", "INT64", [len(images)], predictions.labels),
    ]
    answer = {"model_name": name, "outputs": outputs}
    return answer | ({"id": asked["id"]} if isinstance(asked.get("id"), str) else {})


def _tensor(asked: dict[str, Any]) -> np.ndarray:
    """Return the images of an inference request, uint8 (N, 28, 28)."""
    inputs = asked.get("inputs")
    form = "expected one input, images, UINT8 with the shape [N, 28, 28], or FP32 with values 0 to 1, in MNIST's form"
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise HTTPException(400, form)
    shape, kind = inputs[0].get("shape"), inputs[0].get("datatype")
    try:
        values = np.asarray(inputs[0].get("data"), np.float64).ravel()
        images = values.reshape(shape).reshape(-1, SIZE, SIZE)
    except (TypeError, ValueError, OverflowError):
        raise HTTPException(400, form) from None
    white = {"UINT8": 255, "FP32": 1}.get(kind if isinstance(kind, str) else "")
    if white is None or not len(images) or not ((values >= 0) & (values <= white)).all():
        raise HTTPException(400, form)
    return (images * (255 / white)).round().astype(np.uint8)


def _output(name: str, kind: str, shape: list[int], values: np.ndarray) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": shape, "data": values.tolist()}


def _json_error(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)


def _too_large() -> Response:
    return _json_error(413, f"the body is larger than {MOST_BODY:,} bytes", {"Connection": "close"})


async def _error(request: Request, error: Any) -> Response:
    headers = dict(error.headers or {})
    if error.status_code in (408, 413):  # the rest of the body is not read
        headers["Connection"] = "close"
    return _json_error(error.status_code, error.detail, headers)


async def _refused(request: Request, error: Exception) -> Response:
    return _json_error(400, str(error))


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
