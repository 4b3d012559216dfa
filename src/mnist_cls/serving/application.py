"""The HTTP application: its routes, and the responses to errors."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..errors import InputError
from ..inference.options import PredictOptions
from ..inference.predictor import Predictor
from .batches import Batcher, ClientLeftError, OverloadedError
from .ending import before_ending
from .forward import ForwardPasses
from .guard import Guard, json_error
from .inference_protocol import InferenceProtocol
from .metrics import Metrics
from .openapi import described
from .schemas import MOST_FILES

# Seconds after which a client may ask an overloaded server again.
_RETRY_AFTER = "1"

_PAGE = Path(__file__).parent / "page"


def application(
    predictor: Predictor, options: PredictOptions, name: str, hosts: frozenset[str], decoders: int | None = None
) -> Starlette:
    """Return the application.

    Args:
        predictor: the network.
        options: defaults of the predictions.
        name: the network's name in the Open Inference Protocol.
        hosts: accepted names in the Host header. Others are refused, so that no website can reach the server through
            a visitor's browser.
        decoders: maximum number of decoding processes; None for one per core.
    """
    service = _Service(predictor, options, decoders)
    return Starlette(
        routes=[
            Route("/predict", service.predict, methods=["POST"]),
            Route("/forward", service.forward, methods=["POST"]),
            Route("/networks", service.networks),
            Route("/livez", service.live),
            Route("/readyz", service.is_ready),
            Route("/metrics", service.counters),
            Route("/openapi.json", described(name)),
            Route("/v2/health/live", service.live),
            Route("/v2/health/ready", service.is_ready),
            *InferenceProtocol(predictor, name, lambda: service.ready).routes(),
            Route("/", service.page),
            Route("/api", service.api),
            Mount("/page", StaticFiles(directory=_PAGE)),
        ],
        exception_handlers={
            HTTPException: _error,
            InputError: _refused,
            UnicodeError: _undecodable,
            OverloadedError: _overloaded,
            ClientDisconnect: _left,
            ClientLeftError: _left,
        },
        middleware=[Middleware(Guard, hosts=hosts, metrics=service.metrics)],
        lifespan=service.lifespan,
    )


class _Service:
    """The handlers of the routes, and the state that they have in common."""

    def __init__(self, predictor: Predictor, options: PredictOptions, decoders: int | None) -> None:
        self.options, self.ready = options, False
        self.metrics = Metrics()
        self.batcher = Batcher(predictor, options.preprocess, self.metrics, decoders)
        self.passes = ForwardPasses(options, self.batcher)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self.batcher, self.passes:
            self.ready = True
            before_ending(self.end)
            yield

    def end(self) -> None:
        self.ready = False

    async def predict(self, request: Request) -> Response:
        wished = _options(request, self.options)
        contents, names = await _files(request)
        rows = await self.batcher.predict(contents, names, wished, request.is_disconnected)
        return JSONResponse({"predictions": rows})

    async def forward(self, request: Request) -> Response:
        wished = self.passes.wished(request.query_params)
        contents, _ = await _files(request)
        if len(contents) != 1:
            raise HTTPException(400, f"expected one image, found {len(contents)}")
        return await self.passes.compute(contents[0], wished, request.is_disconnected)

    async def networks(self, request: Request) -> Response:
        return JSONResponse({"networks": self.passes.networks()})

    async def page(self, request: Request) -> Response:
        return FileResponse(_PAGE / "index.html")

    async def api(self, request: Request) -> Response:
        return FileResponse(_PAGE / "api.html")

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def is_ready(self, request: Request) -> Response:
        return JSONResponse({"ready": self.ready}, 200 if self.ready else 503)

    async def counters(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type=self.metrics.media_type)


async def _files(request: Request) -> tuple[list[bytes], list[str]]:
    """Return the image files of a request, and their names."""
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


async def _error(request: Request, error: Any) -> Response:
    headers = dict(error.headers or {})
    if error.status_code in (408, 413):  # the rest of the body is not read
        headers["Connection"] = "close"
    return json_error(error.status_code, error.detail, headers)


async def _refused(request: Request, error: Exception) -> Response:
    return json_error(400, str(error))


async def _undecodable(request: Request, error: Exception) -> Response:
    return json_error(400, "a file name cannot be decoded; expected UTF-8")


async def _overloaded(request: Request, error: Exception) -> Response:
    return json_error(503, "too many images are waiting", {"Retry-After": _RETRY_AFTER})


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
